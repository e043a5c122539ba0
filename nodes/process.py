"""What both programs do alike: the event loop, signals, errors, listening.

A program ends with 0 when it was told to stop, and with 1 and one line on stderr
when it could not do its work; a traceback is a bug.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from llambo9p.errors import Error, InvalidArgument
from llambo9p.net import address as addresses
from llambo9p.net.address import Address
from llambo9p.p9 import text
from llambo9p.p9.messages import Message


def run(program: str, main: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `main(stop)` until it returns; SIGINT and SIGTERM set `stop`."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format=f"{program}: %(levelname)s: %(message)s"
    )

    async def with_signals() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await main(stop)

    try:
        uvloop.run(with_signals())
    except Error as e:
        for line in str(e).splitlines():
            print(f"{program}: {line}", file=sys.stderr)
        sys.exit(1)


def listen_address(words: str, insecure: bool) -> Address:
    """The address to listen on.  Raises InvalidArgument.

    Plain TCP is single-user: every client is the owner of the process.  So it stays
    on loopback unless `--insecure` says that this is meant.
    """
    address = addresses.parse(words)
    if not address.is_loopback:
        if not insecure:
            raise InvalidArgument(
                f"{address} is not a loopback address, and whoever reaches it is the owner; "
                "give --insecure if that is meant"
            )
        print(f"WARNING: everybody who can reach {address} owns this server", file=sys.stderr)
    return address


def print_message(direction: str, msg: Message) -> None:
    """A `trace` that prints to stderr."""
    print(direction, text.format(msg), file=sys.stderr, flush=True)
