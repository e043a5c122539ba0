"""A growing byte string with any number of readers: what `out` is made of.

One writer appends and finally ends it, well or with an error.  A read below the
end returns what is there at once; a read at the end waits for more and returns
whatever comes first; after the end it returns b"" or raises the error.  Readers
share nothing but the bytes: each gives its own offset, a late one gets the whole,
and a writer never waits for any of them.
"""

from __future__ import annotations

import asyncio

from ..p9.node import Maybe


class Stream:
    __slots__ = ("_data", "_error", "_waiters", "finished")

    def __init__(self) -> None:
        self._data = bytearray()
        self._waiters: dict[asyncio.Future[None], None] = {}
        """in the order in which they came"""
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
        self._wake()

    def finish(self) -> None:
        """No more bytes will come."""
        self.finished = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """No more bytes will come, and readers at the end are told why."""
        self._error = error
        self.finish()

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        """At most `count` bytes from `offset`; see the module for when it waits."""
        if offset < len(self._data):
            return bytes(self._data[offset : offset + count])
        if not self.finished:
            return self._read_later(offset, count)
        if self._error is not None:
            raise self._error.with_traceback(None)  # or each raise would lengthen it
        return b""

    async def wait(self, offset: int) -> None:
        """Until there is something at `offset`, or the end."""
        while offset >= len(self._data) and not self.finished:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                self._waiters.pop(waiter, None)

    async def _read_later(self, offset: int, count: int) -> bytes:
        await self.wait(offset)
        result = self.read(offset, count)
        assert isinstance(result, bytes)
        return result

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
