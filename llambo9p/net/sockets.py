"""How an `Address` becomes sockets: the one place where transports are made.

Every failure is an `errors.Error` that names the address, but for `blocking`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import stat
from collections.abc import Callable
from typing import TypeVar

from ..errors import AddressInUse, Error, InvalidArgument, WorkerLost
from .address import Address
from .security import Trust

log = logging.getLogger(__name__)

_BACKLOG = 1024
_NO_FILES_S = 0.1
"""to wait when there is no file for another connection"""
_P = TypeVar("_P", bound=asyncio.Protocol)


async def connect(
    address: Address, factory: Callable[[], _P], trust: Trust
) -> _P:
    """The protocol, connected to a server that we `trust`.

    Raises `WorkerLost`, PermissionDenied for a unix socket of a stranger, InvalidArgument for a
    `tls!` address without a certificate of ours.
    """
    loop = asyncio.get_running_loop()
    tls = trust.tls if address.net == "tls" else None
    if address.net == "tls" and tls is None:
        raise InvalidArgument(f"{address} needs a certificate of ours")
    try:
        if address.net == "unix":
            sock = _unix(address, trust, 0)  # a unix socket connects at once or not at all
            _, protocol = await loop.create_unix_connection(factory, sock=sock)
        else:
            _, protocol = await loop.create_connection(
                factory, address.host, address.port, ssl=tls
            )
    except (OSError, UnicodeError) as e:
        raise WorkerLost(f"cannot connect to {address}: {explain(e)}") from e
    return protocol


def blocking(address: Address, trust: Trust, timeout: float | None = None) -> socket.socket:
    """A connected socket for who has no event loop, without TLS; `timeout` is in seconds, for
    this and all that is done with it.  Raises OSError and UnicodeError, which `explain` puts into
    words, and PermissionDenied for a unix socket of a stranger."""
    if address.net != "unix":
        return socket.create_connection((address.host, address.port), timeout)
    return _unix(address, trust, timeout)


def _unix(address: Address, trust: Trust, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout)
    try:
        sock.connect(address.path)
        trust.check(address, sock)
    except BaseException:
        sock.close()
        raise
    return sock


HANDSHAKES = 256
"""that one server has under way; who is one too many takes the place of the oldest, for a
client that means well needs milliseconds, and one that does not keeps what it can get"""


class TlsServer:
    """Listens, and has no connection for anybody whose handshake is not over: until then he
    is nobody, and the open file that he is, no limit of a user covers.

    `tls` is made by `security.server_tls`; whoever takes longer than `seconds` is hung up
    on.
    """

    def __init__(
        self,
        listening: list[socket.socket],
        factory: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext,
        seconds: float,
    ) -> None:
        self.under_way: dict[asyncio.Task[None], None] = {}
        """the handshakes, the oldest first"""
        self._factory = factory
        self._tls = tls
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._accepting = [self._loop.create_task(self._accept(sock)) for sock in listening]

    async def _accept(self, listening: socket.socket) -> None:
        with listening:
            while True:
                try:
                    sock, _ = await self._loop.sock_accept(listening)
                except OSError as e:  # it hung up already, or there are no files left
                    log.warning("accepting a connection: %s", explain(e))
                    await asyncio.sleep(_NO_FILES_S)
                    continue
                handshake = self._loop.create_task(self._shake_hands(sock))
                self.under_way[handshake] = None
                handshake.add_done_callback(lambda task: self.under_way.pop(task, None))
                await asyncio.sleep(0)  # let it begin, or it could not close its socket
                if len(self.under_way) > HANDSHAKES:
                    oldest = next(iter(self.under_way))
                    del self.under_way[oldest]  # now, for the end of a task takes a while
                    oldest.cancel()

    async def _shake_hands(self, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._factory, sock, ssl=self._tls, ssl_handshake_timeout=self._seconds
            )
        except OSError as e:  # what is wrong with TLS, and a timeout, are among them
            log.info("a handshake failed: %s", explain(e))
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise

    def close(self) -> None:
        """Stop listening, and hang up on those that are nobody yet."""
        for task in [*self._accepting, *self.under_way]:
            task.cancel()


async def listen(
    address: Address,
    factory: Callable[[], asyncio.Protocol],
    tls: ssl.SSLContext | None = None,
    handshake_s: float = 60.0,
) -> tuple[asyncio.Server | TlsServer, Address]:
    """Listening, and the address with the port that the kernel chose.

    `tls!` addresses need `tls`, see `TlsServer`.  Whoever closes the server of a unix
    socket removes its path.  Raises `Error`, InvalidArgument without a certificate.
    """
    loop = asyncio.get_running_loop()
    if address.net == "tls" and tls is None:
        raise InvalidArgument(f"{address} needs a certificate: set security.cert and security.ca")
    server: asyncio.Server | TlsServer
    try:
        if address.net == "unix":
            _remove_stale_socket(address.path)
            server = await loop.create_unix_server(factory, address.path, backlog=_BACKLOG)
        elif tls is not None and address.net == "tls":
            listening, address = await _listening(address)
            server = TlsServer(listening, factory, tls, handshake_s)
        else:
            server = await loop.create_server(
                factory, address.host, address.port, backlog=_BACKLOG
            )
            port = server.sockets[0].getsockname()[1]
            address = Address(address.net, address.host, port)
    except OSError as e:
        kind = AddressInUse if e.errno == errno.EADDRINUSE else Error
        raise kind(f"cannot listen on {address}: {explain(e)}") from e
    return server, address


async def _listening(address: Address) -> tuple[list[socket.socket], Address]:
    """Sockets that listen at all that the host's name stands for, on one port."""
    infos = await asyncio.get_running_loop().getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listening: list[socket.socket] = []
    why: OSError | None = None
    for family, *_, where in dict.fromkeys(infos):
        at = (where[0], address.port, *where[2:])
        try:
            sock = socket.create_server(at, family=family, backlog=_BACKLOG)
        except OSError as e:
            why = e
            if e.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # `localhost` is ::1, too, where there may be no IPv6
            break
        listening.append(sock)
        sock.setblocking(False)
        address = Address(address.net, address.host, sock.getsockname()[1])
    else:
        if listening:
            return listening, address
    for sock in listening:
        sock.close()
    assert why is not None
    raise why


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Let the kernel find out, in about half a minute, that a machine at the other end is
    gone without a word; nothing else would."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        # the same for what was sent and is not acknowledged, in milliseconds
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)


def explain(error: OSError | UnicodeError) -> str:
    """What went wrong with a connection, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return str(error)


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
