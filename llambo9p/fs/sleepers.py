"""Reads that wait for something to happen, woken a few at a time.

Thousands may wait for one thing, and each that is woken costs time of everybody's event loop.  So
`AT_ONCE` are woken in one turn, in the order in which they came, and the others in later turns.
"""

from __future__ import annotations

import asyncio
from collections import deque

AT_ONCE = 200


class Sleepers:
    __slots__ = ("_sleeping", "_waking")

    def __init__(self) -> None:
        self._sleeping: deque[asyncio.Future[None]] = deque()
        self._waking: deque[asyncio.Future[None]] = deque()
        """those to be woken in this turn and later ones"""

    def __len__(self) -> int:
        return len(self._sleeping) + len(self._waking)

    async def sleep(self) -> None:
        """Until the next `wake`, and a little longer where many sleep."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleeping.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future in self._sleeping:
                self._sleeping.remove(future)
            raise

    def wake(self) -> None:
        """Wake all that sleep now."""
        if not self._sleeping:
            return
        under_way = bool(self._waking)
        self._waking += self._sleeping
        self._sleeping.clear()
        if not under_way:
            self._wake_some()

    def _wake_some(self) -> None:
        woken = 0
        while self._waking and woken < AT_ONCE:
            future = self._waking.popleft()
            if not future.done():
                future.set_result(None)
                woken += 1
        if self._waking:
            asyncio.get_running_loop().call_soon(self._wake_some)
