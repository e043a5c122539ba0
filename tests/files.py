"""Our asyncio client as tests use it: whole files, and replies that are awaited apart.

Owns what every test has that talks to a tree over a real socket; what is served is the
business of each directory's harness.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any, ParamSpec

from llambo9p.net.address import Address, parse
from llambo9p.net.client import Client, RemoteOpen
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.wire import Dir, dont_touch, unpack_dirs

P = ParamSpec("P")

ANYWHERE = parse("tcp!127.0.0.1!0")


def story(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """An async test on an event loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition()`; the test's time limit bounds it."""
    while not condition():  # noqa: ASYNC110 (there is no event to wait for)
        await asyncio.sleep(0.001)


async def turns_of_the_loop(count: int = 20) -> None:
    """Time for what must *not* happen: every callback that is ready runs."""
    for _ in range(count):
        await asyncio.sleep(0)


class Files:
    """Operations of one client below one attached fid, `root`."""

    def __init__(self, client: Client, root: int) -> None:
        self.client = client
        self.root = root

    async def open(self, path: str, mode: int = c.OREAD) -> RemoteOpen:
        return await self.client.open(self.root, path, mode)

    async def read(self, path: str) -> str:
        file = await self.open(path)
        try:
            return (await file.read_all()).decode()
        finally:
            await file.clunk()

    async def write(self, path: str, text: str | bytes, mode: int = c.OWRITE) -> None:
        """As `echo -n text > path`: the reply to the Tclunk has come at the end."""
        data = text.encode() if isinstance(text, str) else text
        file = await self.open(path, mode)
        try:
            await file.write(data)
        except BaseException:
            file.forget()
            raise
        await file.clunk()

    async def ask(self, text: str | bytes, path: str = "") -> str:
        """Write `prompt`, read `out` to its end."""
        await self.write(f"{path}/prompt", text)
        return await self.read(f"{path}/out")

    async def ls(self, path: str = "") -> list[str]:
        return [entry.name for entry in await self.entries(path)]

    async def entries(self, path: str = "") -> list[Dir]:
        file = await self.open(path)
        try:
            return unpack_dirs(await file.read_all())
        finally:
            await file.clunk()

    async def attrs(self, path: str) -> dict[str, str]:
        """A file of `attr value` lines."""
        lines = (await self.read(path)).splitlines()
        return {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}

    async def walk(self, path: str, fid: int | None = None) -> tuple[int, m.Rwalk]:
        """A new fid walked to `path`, not opened."""
        newfid = self.client.new_fid()
        names = tuple(name for name in path.split("/") if name)
        start = self.root if fid is None else fid
        return newfid, await self.client.call(m.Twalk(0, start, newfid, names), m.Rwalk)

    async def truncate(self, path: str) -> None:
        """What Linux's `>` sends: a wstat that sets the length to 0."""
        fid, _ = await self.walk(path)
        await self.client.call(m.Twstat(0, fid, LENGTH_0), m.Rwstat)
        await self.client.clunk(fid)


LENGTH_0 = replace(dont_touch(), length=0)


def reading(file: RemoteOpen, offset: int = 0, count: int = 8192) -> asyncio.Future[m.Rread]:
    """A Tread on its way; cancelling the Future sends its Tflush."""
    return file._client.call(m.Tread(0, file.fid, offset, count), m.Rread)


@contextlib.asynccontextmanager
async def files_of(
    address: Address, aname: str = "", uname: str = ""
) -> AsyncIterator[Files]:
    client = await Client.connect(address, msize=c.DEFAULT_MSIZE)
    try:
        root, _ = await client.attach(uname, aname)
        yield Files(client, root)
    finally:
        client.close()
