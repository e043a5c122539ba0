"""The order of arrival of each user's requests, kept while they are prepared.

Requests are prepared on several threads, some of them slowly.  A user's request is still passed on
after those of the same user that came before it: an orchestrator goes by that when it says which
requests a host can have begun with.  Other users' requests do not wait for it.

Any thread may call the methods.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Arrival(Generic[K, V]):
    """Of requests `K`, for each of which a `V` is passed on when it is ready; `pass_on` must not
    block."""

    def __init__(self, pass_on: Callable[[V], None]) -> None:
        self._pass_on = pass_on
        self._lock = threading.Lock()
        self._lines: dict[str, dict[K, V | None]] = {}
        """of each user what came and was not passed on, in order; None: it is not ready"""

    def came(self, user: str, key: K) -> None:
        with self._lock:
            self._lines.setdefault(user, {})[key] = None

    def ready(self, user: str, key: K, value: V) -> None:
        """Nothing happens if the request has left."""
        with self._lock:
            line = self._lines.get(user, {})
            if key in line:
                line[key] = value
                self._go_on(user, line)

    def left(self, user: str, key: K) -> None:
        """The request is withdrawn."""
        with self._lock:
            line = self._lines.get(user, {})
            if key in line:
                del line[key]
                self._go_on(user, line)

    def _go_on(self, user: str, line: dict[K, V | None]) -> None:
        while line:
            first = next(iter(line))
            value = line[first]
            if value is None:
                return
            del line[first]
            self._pass_on(value)
        del self._lines[user]
