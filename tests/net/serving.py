"""A small tree behind real sockets, for the tests of this directory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from llambo9p.fs.file import OpenFile
from llambo9p.fs.stream import Stream
from llambo9p.fs.tree import Directory, SyntheticFile, TextFile, Tree
from llambo9p.net.address import Address, parse
from llambo9p.net.client import Client
from llambo9p.net.server import Limits, Server, Trace
from llambo9p.p9 import messages as m
from llambo9p.p9.node import Maybe, Walk

LOOPBACK = parse("tcp!127.0.0.1!0")
LARGE = bytes(range(256)) * 256
"""64 KiB"""


class StreamFile(SyntheticFile):
    """Blocks at the end of its stream; knows how its opens ended."""

    def __init__(self, tree: Tree, name: str) -> None:
        super().__init__(tree, name, 0o666)
        self.stream = Stream()
        self.ends: list[str] = []

    def open(self, mode: int) -> Maybe[OpenFile]:
        return OpenStream(self)


class OpenStream(OpenFile):
    def __init__(self, file: StreamFile) -> None:
        self.file = file

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        return self.file.stream.read(offset, count)

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        self.file.stream.append(data)
        return len(data)

    def clunk(self) -> Maybe[None]:
        self.file.ends.append("clunk")
        return None

    def drop(self) -> None:
        self.file.ends.append("drop")


class SlowDirectory(Directory):
    """A walk from it waits until it is `open_up` is set."""

    def __init__(self, tree: Tree, name: str) -> None:
        super().__init__(tree, name)
        self.open_up = asyncio.Event()
        self.asked = 0

    def walk(self, names: Sequence[str]) -> Maybe[Walk]:
        return self._walk(names) if names else super().walk(names)

    async def _walk(self, names: Sequence[str]) -> Walk:
        self.asked += 1
        await self.open_up.wait()
        walk = super().walk(names)
        return walk if isinstance(walk, Walk) else await walk


class Site:
    """A server, its tree, and what it was sent and has sent."""

    def __init__(self, limits: Limits | None = None) -> None:
        tree = Tree("me")
        root = self.root = Directory(tree, "/")
        root.add(TextFile(tree, "hello", lambda: "hello, world\n"))
        root.add(TextFile(tree, "large", lambda: LARGE.decode("latin-1")))
        self.out = root.add(StreamFile(tree, "out"))
        self.slow = root.add(SlowDirectory(tree, "slow"))
        self.slow.add(TextFile(tree, "leaf", lambda: "leaf"))
        self.traced: list[tuple[str, m.Message]] = []
        trace: Trace = lambda way, msg: self.traced.append((way, msg))  # noqa: E731
        self.server = Server(lambda user, aname: root, limits=limits, trace=trace)
        self.address: Address = LOOPBACK

    async def connect(self) -> tuple[Client, int]:
        """A client with its root fid."""
        client = await Client.connect(self.address)
        fid, _ = await client.attach("me")
        return client, fid

    def seen(self, cls: type[m.Message]) -> list[m.Message]:
        return [msg for _, msg in self.traced if isinstance(msg, cls)]


@contextlib.asynccontextmanager
async def serving(
    address: Address = LOOPBACK, limits: Limits | None = None
) -> AsyncIterator[Site]:
    site = Site(limits)
    site.address = await site.server.listen(address)
    try:
        yield site
    finally:
        await site.server.close()


def unix(directory: Path) -> Address:
    return parse(f"unix!{directory}/9p")


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until `condition` holds; the test's time limit ends a wait in vain."""
    while not condition():  # noqa: ASYNC110 - what is waited for is no event, it is a state
        await asyncio.sleep(0)
