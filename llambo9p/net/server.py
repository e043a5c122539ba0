"""The asyncio shell around `ServerConn`: sockets in, replies out.

One `asyncio.Protocol` a connection.  Requests that files answer at once are
answered inside `data_received`, as far as `turns` has time for them; a request that must wait
gets a callback, and a task where what it waits for is no `Pending` or Future yet.  All replies of
one wake-up leave in one write.  A client that does not read its replies is not read from, and
its messages that came already wait, so the memory it can hold is bounded by its
requests.

A connection is refused (an Rerror to its first message) when there are too many, or too
many of one user; those that were refused and say nothing take no place of others, and
beyond a few are closed without a word.  A connection is closed when it does not begin
with a Tversion in time, and when it has replies to read and reads nothing of them for
long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from ..errors import Busy, Error
from ..fs.pending import Pending
from ..fs.user import User
from ..p9 import server as p9
from ..p9.fid import FidShare, Request
from ..p9.framing import ProtocolError
from ..p9.messages import Message
from ..p9.node import Maybe, Node
from ..p9.server import ServerConn
from . import sockets
from .address import Address
from .security import Peer, Security
from .turns import Turns

log = logging.getLogger(__name__)

_REFUSED = 64
"""connections that may wait for the Rerror which refuses them"""

Trace = Callable[[str, Message], None]
Attach = Callable[[User, str], Maybe[Node]]
"""user, aname -> the root that this user sees, given as a walk gives a file"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the clients of one server may hold; times in seconds."""

    conn: p9.Limits = p9.Limits()
    """of each connection"""
    connections: int = 10_000
    connections_per_user: int = 1_000
    """of a user that was authenticated, and speaks for nobody else"""
    fids_per_user: int = 1 << 18
    """likewise"""
    version_s: float = 30.0
    """from the connection to its Tversion"""
    stalled_s: float = 300.0
    """without reading anything of the replies that are there"""


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._turns = server.turns
        self._conn = ServerConn(
            self._attach,
            limits=server.limits.conn,
            trace=server.trace,
            ready=self._schedule_write,
            more=self._go_on,
        )
        self.peer: Peer | None = None
        """None when the connection is refused"""
        self._awaiting_version: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._write_scheduled = False
        self._paused = False
        """the client does not read its replies"""
        self._reading = True
        self._gone = False
        """the connection is lost"""
        self.whose = ""
        """who shares the time of `turns`; all who are not known by name are one"""
        self._awaited: set[asyncio.Future[Any]] = set()
        """the loop itself keeps no task from being collected"""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        sockets.keep_alive(transport)
        try:
            self.peer = self._server.admit(self)
            self._conn.fids.share = self._server.share_of(self.peer)
            self.whose = self.peer.name or ""
        except Error as e:
            log.warning("refusing %s: %s", self, e)
            self._conn.refusal = e
            self._server.refuse(self)
        limit = self._server.limits.version_s
        self._awaiting_version = self._loop.call_later(
            limit, self._give_up, f"no Tversion in {limit:g} s"
        )

    def _give_up(self, why: str) -> None:
        log.warning("closing %s: %s", self, why)
        self.transport.abort()

    def _attach(self, uname: str, aname: str) -> Maybe[Node]:
        assert self.peer is not None
        return self._server.attach(self.peer.user(uname), aname)

    def data_received(self, data: bytes) -> None:
        self._conn.feed(data)
        turns = self._turns
        if turns.closed:
            self._stop_reading()
        turns.handle(self)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    def handle(self, until: float) -> bool:
        """Handle what was received, await what that starts, and write what it answers."""
        conn, transport = self._conn, self.transport
        try:
            conn.resume(until)
        except ProtocolError as e:
            log.warning("closing %s: %s", self, e)
            self._write()
            transport.close()
            conn.lost(until)
            return conn.stalled
        if self._awaiting_version is not None and conn.negotiated:
            self._awaiting_version.cancel()
            self._awaiting_version = None
        for request in conn.take_started():
            self._await(request)
        self._write()
        if self.peer is None:
            transport.close()
            return False
        if conn.stalled:
            self._stop_reading()
            return not self._paused
        if not self._reading and not self._paused and not transport.is_closing():
            self._reading = True
            transport.resume_reading()
        return False

    def pause_writing(self) -> None:
        self._paused = True
        self._stop_reading()
        self._check_stalled(0)

    def _check_stalled(self, before: int) -> None:
        """Give up when of `before` bytes that were left to send none was read."""
        left = self.transport.get_write_buffer_size()
        limit = self._server.limits.stalled_s
        if before and left >= before:
            self._give_up(f"it has read no reply for {limit:g} s")
        else:
            self._stalled = self._loop.call_later(limit, self._check_stalled, left)

    def resume_writing(self) -> None:
        self._paused = False
        if self._stalled is not None:
            self._stalled.cancel()
        self._turns.handle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._awaiting_version, self._stalled):
            if timer is not None:
                timer.cancel()
        self._server.leave(self)
        self.closed.set_result(None)
        self._gone = True
        self._paused = self._reading = False
        self._conn.lost(0.0)
        if self._conn.stalled:
            self._turns.handle(self)

    @property
    def fids(self) -> int:
        return len(self._conn.fids)

    @property
    def tags(self) -> int:
        """Those of requests without a reply."""
        return len(self._conn.requests)

    def close(self) -> None:
        """Close when the replies written so far have left."""
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    def _write(self) -> None:
        out = self._conn.data_to_send()
        if out and not self.transport.is_closing():
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _await(self, request: Request) -> None:
        awaitable = request.awaitable
        assert awaitable is not None
        if isinstance(awaitable, Pending):
            request.cancel = awaitable.cancel
            awaitable.listen(partial(self._pending_done, request))
            return
        # the end is told by a callback: a task that is cancelled before it began runs no code
        future = asyncio.ensure_future(awaitable, loop=self._loop)
        request.cancel = future.cancel
        self._awaited.add(future)
        future.add_done_callback(partial(self._future_done, request))

    def _future_done(self, request: Request, future: asyncio.Future[Any]) -> None:
        self._awaited.discard(future)
        if future.cancelled():
            self._conn.fail(request, asyncio.CancelledError())
        elif (error := future.exception()) is not None:
            self._conn.fail(request, error)
        else:
            self._conn.complete(request, future.result())
        self._after_completion()

    def _pending_done(self, request: Request, result: Any, error: BaseException | None) -> None:
        if error is not None:
            self._conn.fail(request, error)
        else:
            self._conn.complete(request, result)
        self._after_completion()

    def _after_completion(self) -> None:
        for started in self._conn.take_started():
            self._await(started)
        self._schedule_write()
        if self._conn.stalled:
            self._go_on()

    def _schedule_write(self) -> None:
        if not self._write_scheduled:
            self._write_scheduled = True
            self._loop.call_soon(self._write_later)

    def _go_on(self) -> None:
        """There are messages that can be handled, unless the client does not read."""
        if not self._paused:
            self._turns.handle(self)

    def _write_later(self) -> None:
        self._write_scheduled = False
        self._write()

    def __repr__(self) -> str:
        who = self.peer.name if self.peer is not None and self.peer.name else ""
        at = self.transport.get_extra_info("peername")
        return f"<Connection of {who or 'somebody'} from {at or 'this machine'}>"


class Server:
    """Listens on addresses and serves the tree that `attach` gives."""

    def __init__(
        self,
        attach: Attach,
        *,
        limits: Limits | None = None,
        security: Security | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.attach = attach
        self.limits = limits or Limits()
        self.security = security or Security()
        self.trace = trace
        self.turns = Turns(lambda turn: asyncio.get_running_loop().call_soon(turn))
        self.connections: set[Connection] = set()
        self.refused: dict[Connection, None] = {}
        """those of them that are not served"""
        self._users: Counter[str] = Counter()
        """connections of each user that was authenticated"""
        self._shares: dict[str, FidShare] = {}
        """of those users"""
        self._servers: list[asyncio.Server | sockets.TlsServer] = []
        self._unix_paths: list[str] = []

    async def listen(self, address: Address) -> Address:
        """Start listening; returns the address with the port the kernel chose.

        Raises `Error` naming the address when it cannot be listened on.
        """
        server, address = await sockets.listen(
            address, lambda: Connection(self), self.security.tls, self.limits.version_s
        )
        if address.net == "unix":
            self._unix_paths.append(address.path)
            # anybody may connect and is known by uid; the directory says who gets there
            os.chmod(address.path, 0o666)
        self._servers.append(server)
        return address

    def refuse(self, connection: Connection) -> None:
        """It is told at its first message.  When too many have said nothing, the oldest ends:
        whoever has just come may still speak."""
        self.refused[connection] = None
        waiting = [each for each in self.refused if not each.transport.is_closing()]
        if len(waiting) > _REFUSED:
            waiting[0].transport.abort()

    def admit(self, connection: Connection) -> Peer:
        """Count it.  Raises what it must be refused with."""
        self.connections.add(connection)
        if len(self.connections) - len(self.refused) > self.limits.connections:
            raise Busy(f"{Busy.ename}: more than {self.limits.connections} connections")
        peer = self.security.peer(connection.transport)
        if peer.user_name is not None:
            limit = self.limits.connections_per_user
            if self._users[peer.user_name] >= limit:
                raise Busy(f"{Busy.ename}: more than {limit} connections of {peer.user_name}")
            self._users[peer.user_name] += 1
        return peer

    def share_of(self, peer: Peer) -> FidShare | None:
        """What the user's connections take their fids from."""
        name = peer.user_name
        if name is None:
            return None
        if name not in self._shares:
            self._shares[name] = FidShare(self.limits.fids_per_user, name)
        return self._shares[name]

    def leave(self, connection: Connection) -> None:
        """The end of what `admit` counted."""
        self.connections.discard(connection)
        self.refused.pop(connection, None)
        name = connection.peer.user_name if connection.peer is not None else None
        if name is not None:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self._shares[name]

    async def close(self) -> None:
        """Stop listening and close every connection."""
        for server in self._servers:
            server.close()
        await asyncio.sleep(0)  # a TlsServer's sockets are closed by its tasks
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
