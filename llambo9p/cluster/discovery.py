"""Hosts that are expected at an address: those of the configuration, and those that were
mounted and lost.

Each address is tried until somebody answers there or nobody expects him any more, with
growing pauses.  Nobody waits for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ..errors import Error
from ..net.address import Address
from ..net.backoff import Backoff

log = logging.getLogger(__name__)

FIRST_S = 0.2
LONGEST_S = 15.0


class Discovery:
    """`join` mounts what is at an address, under a name if one was given, and raises Error
    when it cannot."""

    def __init__(self, join: Callable[[Address, str | None], Awaitable[None]]) -> None:
        self._join = join
        self._trying: dict[tuple[Address, str | None], asyncio.Task[None]] = {}

    def expect(self, address: Address, name: str | None = None) -> None:
        """Try from now on, unless that is done already."""
        key = address, name
        if key not in self._trying:
            task = asyncio.get_running_loop().create_task(self._try(address, name))
            self._trying[key] = task
            task.add_done_callback(lambda task: self._over(key, task))

    def forget(self, address: Address, name: str | None = None) -> None:
        """Nobody is expected there."""
        task = self._trying.pop((address, name), None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def close(self) -> None:
        for task in self._trying.values():
            task.cancel()

    def _over(self, key: tuple[Address, str | None], task: asyncio.Task[None]) -> None:
        if self._trying.get(key) is task:
            del self._trying[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("host %s is not expected any more", key[0], exc_info=error)

    async def _try(self, address: Address, name: str | None) -> None:
        backoff = Backoff(FIRST_S, LONGEST_S)
        said = ""
        while True:
            try:
                await self._join(address, name)
                return
            except Error as e:
                if str(e) != said:
                    said = str(e)
                    log.warning("host %s is expected: %s", address, said)
            await asyncio.sleep(backoff.next())
