"""A TCP server that passes everything on, as well as the network lets it: it is cut, it holds
what it has, it is slow.  Nothing is ever lost or changed on a connection that lives.
"""

from __future__ import annotations

import asyncio
import contextlib

from llambo9p.net.address import Address

PIECE = 2**16


class Proxy:
    """`to` may change, for connections that come later."""

    def __init__(self, to: Address | None = None) -> None:
        self.to = to
        self.delay = 0.0
        """seconds before each piece"""
        self.piece = PIECE
        """bytes that are passed on at once"""
        self._open = asyncio.Event()
        self._open.set()
        self._closed = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.address = Address("tcp", "127.0.0.1", 0)
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = Address("tcp", "127.0.0.1", self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.refuse()
        self.release()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # -- trouble ------------------------------------------------------------------

    def cut(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()

    def refuse(self) -> None:
        """And have no others until `accept`."""
        self._closed = True
        self.cut()

    def accept(self) -> None:
        self._closed = False

    def hold(self) -> None:
        """Pass nothing on until `release`: nobody is told."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    # -- connections --------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            if self._closed or self.to is None:
                return
            with contextlib.suppress(OSError):
                to_reader, to_writer = await asyncio.open_connection(self.to.host, self.to.port)
                self._writers.add(to_writer)
                try:
                    await asyncio.gather(
                        self._pass_on(reader, to_writer), self._pass_on(to_reader, writer)
                    )
                finally:
                    self._writers.discard(to_writer)
                    to_writer.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Until the connection ends, which ends the other direction, too."""
        with contextlib.suppress(OSError):
            while data := await source.read(self.piece):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._open.wait()
                sink.write(data)
                await sink.drain()
        await self._open.wait()
        sink.close()
