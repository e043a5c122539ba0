"""A 9P server that handles the requests of a connection at once, as Inferno's exportfs does, and
answers in any order: what is asked of a fid before its Rwalk finds no such fid.

It is a relay before a server of ours, which keeps order: each message waits a while of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Coroutine

from llambo9p.net.address import Address
from llambo9p.p9 import messages as m

MOST_MSIZE = 65_544
"""with more exportfs breaks"""


class Disorder:
    """`msizes` are those that were asked for."""

    def __init__(self, to: Address) -> None:
        self.to = to
        self.msizes: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._random = random.Random(0)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, behind = await asyncio.open_connection(self.to.host, self.to.port)

        async def later(frame: bytes) -> None:
            if frame[4] != m.Tversion.number:
                await asyncio.sleep(self._random.random() * 0.005)
            behind.write(frame)

        async def requests() -> None:
            while frame := await frame_of(reader):
                if frame[4] == m.Tversion.number:
                    self.msizes.append(m.Tversion.unpack(frame).msize)
                    if self.msizes[-1] > MOST_MSIZE:
                        break
                self._begin(later(frame))

        async def replies() -> None:
            while frame := await frame_of(there):
                writer.write(frame)

        passing = [asyncio.ensure_future(each()) for each in (requests, replies)]
        try:
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in passing:
                each.cancel()
            behind.close()
            writer.close()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def frame_of(reader: asyncio.StreamReader) -> bytes:
    """The next message; nothing at the end."""
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        size = await reader.readexactly(4)
        return size + await reader.readexactly(int.from_bytes(size, "little") - 4)
    return b""


@contextlib.asynccontextmanager
async def in_disorder(to: Address) -> AsyncIterator[tuple[Address, Disorder]]:
    """Its address."""
    disorder = Disorder(to)
    server = await asyncio.start_server(disorder.accept, "127.0.0.1", 0)
    try:
        yield Address("tcp", "127.0.0.1", server.sockets[0].getsockname()[1]), disorder
    finally:
        server.close()
