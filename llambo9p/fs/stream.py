"""A growing byte string with any number of readers: what `out` is made of.

One writer appends and finally ends it, well or with an error.  A read below the
end returns what is there at once; a read at the end waits for more and returns
whatever comes first; after the end it returns b"" or raises the error.  Readers
share nothing but the bytes: each gives its own offset, a late one gets the whole,
and a writer never waits for any of them.

Readers that wait are told inside `append`, the first `AT_ONCE` of them, and the others in later
turns of the event loop: whoever has several pieces at once joins them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from ..p9.node import Maybe
from .pending import Pending

AT_ONCE = 200
"""readers that are told in one turn of the event loop"""


class Stream:
    __slots__ = ("_data", "_error", "_telling", "_waiters", "finished")

    def __init__(self) -> None:
        self._data = bytearray()
        self._waiters: dict[Pending[Any], int] = {}
        """and the offset at which each wants something, in the order in which they came"""
        self._telling = False
        """the readers that are not told yet are told soon"""
        self._error: Exception | None = None
        self.finished = False

    def __len__(self) -> int:
        return len(self._data)

    @property
    def data(self) -> bytes:
        """Everything so far."""
        return bytes(self._data)

    @property
    def error(self) -> Exception | None:
        return self._error

    def append(self, data: bytes) -> None:
        assert not self.finished
        self._data += data
        self._tell()

    def finish(self) -> None:
        """No more bytes will come."""
        self.finished = True
        self._tell()

    def fail(self, error: Exception) -> None:
        """No more bytes will come, and readers at the end are told why."""
        self._error = error
        self.finish()

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        """At most `count` bytes from `offset`; see the module for when it waits."""
        if offset < len(self._data):
            return bytes(self._data[offset : offset + count])
        if not self.finished:
            return self._later(offset, lambda _: self.read(offset, count))
        if self._error is not None:
            raise self._error.with_traceback(None)  # or each raise would lengthen it
        return b""

    async def wait(self, offset: int) -> None:
        """Until there is something at `offset`, or the end."""
        if offset >= len(self._data) and not self.finished:
            await self._later(offset)

    def _later(self, offset: int, made: Callable[[None], Any] | None = None) -> Pending[Any]:
        """Over when there is something at `offset`, or the end."""
        waiter: Pending[Any] = Pending(made=made)
        waiter.cancel = partial(self._cancel, waiter)
        self._waiters[waiter] = offset
        return waiter

    def _cancel(self, waiter: Pending[Any]) -> None:
        self._waiters.pop(waiter, None)
        waiter.fail(asyncio.CancelledError())

    def _tell(self) -> None:
        if self._waiters and not self._telling:
            self._tell_some()

    def _tell_some(self) -> None:
        self._telling = False
        size, told = len(self._data), 0
        for waiter, offset in list(self._waiters.items()):
            if offset >= size and not self.finished:
                continue
            if told == AT_ONCE:
                self._telling = True
                asyncio.get_running_loop().call_soon(self._tell_some)
                return
            # one that is told may cancel another
            if self._waiters.pop(waiter, None) is not None:
                told += 1
                waiter.succeed(None)
