"""The asyncio shell around `ServerConn`: sockets in, replies out.

One `asyncio.Protocol` a connection.  Requests that files answer at once are
answered inside `data_received`; a request that must wait gets a task, or just a
callback when what it waits for is a Future already.  All replies of one wake-up
leave in one write.  A client that does not read its replies is not read from, and
its messages that came already wait, so the memory it can hold is bounded by its
requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable
from typing import Any, cast

from ..errors import Error
from ..p9.fid import Request
from ..p9.framing import ProtocolError
from ..p9.messages import Message
from ..p9.server import Attach, Limits, ServerConn
from .address import Address

log = logging.getLogger(__name__)

Trace = Callable[[str, Message], None]


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._conn = ServerConn(server.attach, limits=server.limits, trace=server.trace)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._write_scheduled = False
        self._paused = False
        """the client does not read its replies"""
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._conn.receive(data)
        except ProtocolError as e:
            log.warning("closing %s: %s", self, e)
            self._write()
            self._transport.close()
            self._conn.lost()
            return
        self._proceed()

    def _proceed(self) -> None:
        """Await what was started, write what was answered; what is left has its turn
        after the other connections, or when the client has read enough."""
        for request in self._conn.take_started():
            self._await(request)
        self._write()
        if self._conn.stalled and not self._transport.is_closing():
            self._transport.pause_reading()
            if not self._paused:
                self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        if self._paused or self._transport.is_closing():
            return
        if self._conn.stalled:
            self._conn.resume()
            self._proceed()
        if not self._paused and not self._conn.stalled:
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self.closed.set_result(None)
        self._conn.lost()

    def close(self) -> None:
        """Close when the replies written so far have left."""
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _write(self) -> None:
        out = self._conn.data_to_send()
        if out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _await(self, request: Request) -> None:
        awaitable = request.awaitable
        if isinstance(awaitable, asyncio.Future):
            request.cancel = awaitable.cancel
            awaitable.add_done_callback(lambda future: self._future_done(request, future))
        else:
            task = self._loop.create_task(self._run(request))
            request.cancel = task.cancel
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, request: Request) -> None:
        assert request.awaitable is not None
        try:
            result = await request.awaitable
        except (Exception, asyncio.CancelledError) as e:
            self._conn.fail(request, e)
        else:
            self._conn.complete(request, result)
        self._after_completion()

    def _future_done(self, request: Request, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self._conn.fail(request, asyncio.CancelledError())
        elif (error := future.exception()) is not None:
            self._conn.fail(request, error)
        else:
            self._conn.complete(request, future.result())
        self._after_completion()

    def _after_completion(self) -> None:
        for started in self._conn.take_started():
            self._await(started)
        if not self._write_scheduled:
            self._write_scheduled = True
            self._loop.call_soon(self._write_later)

    def _write_later(self) -> None:
        self._write_scheduled = False
        self._write()

    def __repr__(self) -> str:
        return f"<Connection from {self._transport.get_extra_info('peername')}>"


class Server:
    """Listens on addresses and serves the tree that `attach` gives."""

    def __init__(
        self, attach: Attach, *, limits: Limits | None = None, trace: Trace | None = None
    ) -> None:
        self.attach = attach
        self.limits = limits or Limits()
        self.trace = trace
        self.connections: set[Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._unix_paths: list[str] = []

    async def listen(self, address: Address) -> Address:
        """Start listening; returns the address with the port the kernel chose.

        Raises `Error` naming the address when it cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            if address.net == "unix":
                _remove_stale_socket(address.path)
                server = await loop.create_unix_server(lambda: Connection(self), address.path)
                self._unix_paths.append(address.path)
            else:
                server = await loop.create_server(
                    lambda: Connection(self), address.host, address.port, backlog=1024
                )
                port = server.sockets[0].getsockname()[1]
                address = Address("tcp", address.host, port)
        except OSError as e:
            why = os.strerror(e.errno) if e.errno and e.errno > 0 else str(e)
            raise Error(f"cannot listen on {address}: {why}") from e
        self._servers.append(server)
        return address

    async def close(self) -> None:
        """Stop listening and close every connection."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.close()
        for path in self._unix_paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        closed = [connection.closed for connection in self.connections]
        if closed:
            await asyncio.wait(closed, timeout=1)
        for connection in list(self.connections):
            connection.abort()  # it does not read its replies


def _remove_stale_socket(path: str) -> None:
    """Remove a socket that nobody listens on; asyncio would remove any."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a live server's queue may be full
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, "in use")
