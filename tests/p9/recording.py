"""The tree of the transcripts behind a real socket, so that real clients can be recorded.

    python -m tests.p9.recording                      prints the address ADDR
    llamboctl trace ADDR --output DIR                 prints another, for the client

What was recorded is in `recorded`, and plays against `ServerConn` alone: the tree is the
same each time it is made, and nothing in it happens by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from llambo9p.net.address import Address, parse
from llambo9p.net.server import Server

from .transcript import World

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.txt"))


async def serve() -> None:
    server = Server(World().attach)
    print(await server.listen(parse("tcp!127.0.0.1!0")), flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def world_served() -> Iterator[Address]:
    """In a process of its own."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield parse(process.stdout.readline())
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve())
