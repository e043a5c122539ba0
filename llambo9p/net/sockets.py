"""How an `Address` becomes sockets: the one place where transports are made.

Every failure is an `errors.Error` that names the address.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable
from typing import TypeVar

from ..errors import Error, InvalidArgument, WorkerLost
from .address import Address

_P = TypeVar("_P", bound=asyncio.Protocol)


async def connect(
    address: Address, factory: Callable[[], _P], tls: ssl.SSLContext | None = None
) -> _P:
    """The protocol, connected.  `tls!` addresses need `tls`, see `security.client_tls`.

    Raises `WorkerLost`, InvalidArgument without a certificate.
    """
    loop = asyncio.get_running_loop()
    if address.net != "tls":
        tls = None
    elif tls is None:
        raise InvalidArgument(f"{address} needs a certificate of ours")
    try:
        if address.net == "unix":
            _, protocol = await loop.create_unix_connection(factory, address.path)
        else:
            _, protocol = await loop.create_connection(
                factory, address.host, address.port, ssl=tls
            )
    except (OSError, UnicodeError) as e:
        raise WorkerLost(f"cannot connect to {address}: {explain(e)}") from e
    return protocol


async def listen(
    address: Address,
    factory: Callable[[], asyncio.Protocol],
    tls: ssl.SSLContext | None = None,
    handshake_s: float = 60.0,
) -> tuple[asyncio.Server, Address]:
    """Listening, and the address with the port that the kernel chose.

    `tls!` addresses need `tls`, see `security.server_tls`, and hang up on whoever takes
    longer than `handshake_s`.  Whoever closes the server of a unix socket removes its
    path.  Raises `Error`, InvalidArgument without a certificate.
    """
    loop = asyncio.get_running_loop()
    if address.net == "tls" and tls is None:
        raise InvalidArgument(f"{address} needs a certificate: set security.cert and .ca")
    try:
        if address.net == "unix":
            _remove_stale_socket(address.path)
            server = await loop.create_unix_server(factory, address.path, backlog=1024)
        else:
            secured = address.net == "tls"
            server = await loop.create_server(
                factory,
                address.host,
                address.port,
                ssl=tls if secured else None,
                ssl_handshake_timeout=handshake_s if secured else None,
                backlog=1024,
            )
            port = server.sockets[0].getsockname()[1]
            address = Address(address.net, address.host, port)
    except OSError as e:
        raise Error(f"cannot listen on {address}: {explain(e)}") from e
    return server, address


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
