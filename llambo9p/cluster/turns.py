"""Which of the requests that were told to a host it can have begun with: pure.

A host begins with as many as it has slots, and with the next in line (`waiting` has the order)
when one ends.  What others ask of it, and how long prompts take to be read, can only make that
later; so whoever is still in line here was queued there.  When the host itself fails, nobody
moves up: it begins with nothing any more.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from .waiting import WaitingQueue

_T = TypeVar("_T", bound=Hashable)


class Turns(Generic[_T]):
    """Of one host, whose `slots` may change."""

    def __init__(self) -> None:
        self._begun: set[_T] = set()
        self._in_line: WaitingQueue[_T] = WaitingQueue()

    def told(self, item: _T, now: float, priority: int, slots: int) -> None:
        """The host gets to know of it, at this time in seconds."""
        self._in_line.add(item, now, priority)
        self._move_up(slots)

    def begun(self, item: _T) -> None:
        """The host says that it has begun with it, before its turn or not."""
        if item in self._in_line:
            self._in_line.remove(item)
            self._begun.add(item)

    def is_in_line(self, item: _T) -> bool:
        return item in self._in_line

    def can_have_begun(self, item: _T) -> bool:
        """Not what was never told."""
        return item in self._begun

    def ended(self, item: _T, slots: int) -> None:
        """The host is done with it, if it was told."""
        self.failed(item)
        self._move_up(slots)

    def failed(self, item: _T) -> None:
        """It ended with the host, or because that is silent."""
        self._begun.discard(item)
        self._in_line.remove(item)

    def _move_up(self, slots: int) -> None:
        for item in self._in_line:
            if len(self._begun) >= slots:
                break
            self.begun(item)
