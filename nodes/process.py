"""What both programs do alike: the event loop, signals, errors, listening, and the
sections of the configuration that concern clients.

A program ends with 0 when it was told to stop, and with 1 and one line on stderr
when it could not do its work; a traceback is a bug.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import uvloop

from llambo9p import standard_streams
from llambo9p.cluster import config, environment
from llambo9p.conversation import limits
from llambo9p.errors import AddressInUse, Error, InvalidArgument
from llambo9p.fs.user import User
from llambo9p.net import address as addresses
from llambo9p.net import sockets
from llambo9p.net.address import Address
from llambo9p.net.security import Security, Trust, client_tls, server_tls
from llambo9p.net.server import Limits, Server
from llambo9p.p9 import server as p9
from llambo9p.p9 import text
from llambo9p.p9.messages import Message

from . import logs

log = logging.getLogger(__name__)

_OTHER_FILES = 128 + sockets.HANDSHAKES
"""that a program has open beside its clients' connections"""


def run(program: str, main: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `main(stop)` until it returns; SIGINT and SIGTERM set `stop`."""
    standard_streams.fill(needs_output=False)
    logs.start(program)

    # each connection is an open file, and the usual limit of 1,024 is only a default
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    async def with_signals() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)

        def tell_repeats() -> None:
            logs.tell_repeats()
            loop.call_later(logs.WINDOW_S, tell_repeats)

        loop.call_later(logs.WINDOW_S, tell_repeats)
        await main(stop)

    try:
        try:
            uvloop.run(with_signals())
        finally:
            logs.tell_repeats()
    except Error as e:
        for line in str(e).splitlines():
            say(f"{program}: {line}")
        sys.exit(1)


def tell(line: str) -> None:
    """To whoever started the program, on standard output.  He may be gone, or the disk be full
    that he keeps it on; the program goes on."""
    try:
        os.write(sys.stdout.fileno(), f"{line}\n".encode())
    except BrokenPipeError:
        pass
    except OSError as e:
        log.warning("standard output: %s; it was not told: %s", e.strerror, line)


def say(line: str) -> None:
    """On standard error, if that takes it: it may be on a disk that is full."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def stop_at_eof(stop: asyncio.Event) -> None:
    """Set `stop` when whoever started this process is gone."""
    fd = sys.stdin.fileno()
    loop = asyncio.get_running_loop()

    def readable() -> None:
        if not os.read(fd, 4096):
            loop.remove_reader(fd)
            stop.set()

    try:
        loop.add_reader(fd, readable)
    except OSError:  # a file, or /dev/null: nobody holds its other end
        stop.set()


def listen_address(words: str, security: config.Security, insecure: bool) -> Address:
    """The address to listen on.  Raises InvalidArgument.

    Plain TCP is single-user: every client is the owner of the process.  So it stays
    on loopback unless `--insecure` says that this is meant, and is closed even there by
    `security.loopback: off`, for machines that others use.
    """
    address = addresses.parse(words)
    if address.net == "unix":
        return Address("unix", path=os.path.abspath(address.path))
    if address.net == "tls":
        return address
    if not address.is_loopback:
        if not insecure:
            raise InvalidArgument(
                f"{address} is not a loopback address, and whoever reaches it is the owner; "
                "use tls!HOST!PORT, or give --insecure if that is meant"
            )
        say(f"WARNING: everybody who can reach {address} owns this server")
    elif not security.loopback:
        if not insecure:
            raise InvalidArgument(
                f"{address}: security.loopback is off, for plain TCP makes every user of this "
                "machine the owner; use unix!PATH or tls!HOST!PORT"
            )
        say(f"WARNING: every user of this machine owns the server at {address}")
    return address


async def listen(server: Server, address: Address, ports: int) -> Address:
    """Listen at the first of so many ports, from the address's on, that is free; where that is.
    Raises Error."""
    last = min(address.port + ports, 65_536) - 1
    while True:
        try:
            return await server.listen(address)
        except AddressInUse:
            if address.net == "unix" or address.port >= last:
                raise
        address = replace(address, port=address.port + 1)


def security(section: config.Security) -> Security:
    """Raises InvalidArgument naming a file that cannot be used."""
    tls = server_tls(*section.certificates) if section.certificates else None
    return Security(admins=section.admins, speaks_for=section.speaks_for, tls=tls)


def trust(section: config.Security) -> Trust:
    """For connecting to other servers.  Raises InvalidArgument naming a file that cannot be
    used."""
    tls = client_tls(*section.certificates) if section.certificates else None
    return Trust(tls, environment.served_by().union(section.served_by))


def server_limits(section: config.Limits) -> Limits:
    """No more connections than this process can have open, so that one too many is told so
    and does not take the file that something else needs."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(
        p9.Limits(
            msize=section.max_msize,
            min_msize=section.min_msize,
            fids=section.fids,
            requests=section.requests,
        ),
        connections=min(section.connections, max(files // 2, files - _OTHER_FILES)),
        connections_per_user=section.connections_per_user,
        fids_per_user=section.fids_per_user,
        version_s=section.version_timeout / 1000,
        stalled_s=section.reader_timeout / 1000,
    )


def conversation_limits(section: config.Limits, owner: User) -> limits.Limits:
    return limits.Limits(
        prompt_bytes=section.prompt,
        history_bytes=section.history,
        buffer=limits.buffer(section.buffered, section.buffered_per_user),
        kept=limits.kept(section.kept, section.kept_per_user),
        clones=limits.clones(section.conversations),
        requests=limits.requests(section.queue_per_user, free=owner.name),
    )


def first_path() -> int:
    """A tree's first qid.path, so that a client which comes back after a restart does not
    take a new file for an old one."""
    return random.randrange(1, 1 << 32)


def print_message(direction: str, msg: Message) -> None:
    """A `trace` that prints to stderr."""
    say(f"{direction} {text.format(msg)}")
