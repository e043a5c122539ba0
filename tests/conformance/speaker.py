"""A client that says the same things in each dialect, one T-message for each.

Owns nothing of `net.client`: what is checked here is what any client sees on the wire.
Whatever is refused raises `Refused`, which knows what the dialect lets it know.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from llambo9p.errors import Error, from_ename
from llambo9p.net.address import Address
from llambo9p.p9 import constants as c
from llambo9p.p9 import dialects as d
from llambo9p.p9 import dotl
from llambo9p.p9 import messages as m
from llambo9p.p9.framing import Framer
from llambo9p.p9.wire import Qid, dont_touch

MSIZE = 8192
DONT_TOUCH = dont_touch()
_LINUX_ENTRY = struct.Struct("<BIQQBH")
"""of Rreaddir: qid[13] offset[8] type[1] name[s]"""


async def nothing() -> None:
    """Happens while a directory is read that does not change."""


class Refused(Exception):
    """An Rerror or Rlerror."""

    def __init__(self, ename: str | None, errno: int | None) -> None:
        super().__init__(ename, errno)
        self.ename = ename
        self.errno = errno


@contextlib.contextmanager
def refused(error: type[Error] | None = None, errno: int | None = None) -> Iterator[None]:
    """What is inside is refused: as `error`, string and number, where it is one; with
    `errno`, where the dialect has numbers and the string is free."""
    with pytest.raises(Refused) as raised:
        yield
    said = raised.value
    if error is not None:
        errno = error.errno
        assert said.ename is None or type(from_ename(said.ename)) is error, said
    assert errno is None or said.errno in (None, errno), said


class Attributes(NamedTuple):
    """What every dialect's stat tells."""

    qid: Qid
    mode: int
    """permission bits"""
    directory: bool
    length: int


class Entry(NamedTuple):
    name: str
    qid: Qid


class Speaker:
    """One connection.  Fids are numbered by `new_fid`; the attached one is `root`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: str
    ) -> None:
        self.version = version
        self.dialect = d.P9_2000
        self.msize = MSIZE
        self.root = 0
        self.root_qid = Qid(0, 0, 0)
        self._reader = reader
        self._writer = writer
        self._framer = Framer(1 << 20)
        self._tags = itertools.count()
        self._fids = itertools.count(1)
        self.waiting: dict[int, asyncio.Future[m.Message]] = {}
        self.unexpected: list[m.Message] = []
        """replies to tags that wait for none"""
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while data := await self._reader.read(1 << 16):
            for frame in self._framer.feed(data):
                assert len(frame) <= self.msize
                reply = self.dialect.unpack(frame)
                waiting = self.waiting.pop(reply.tag, None)
                if waiting is None:
                    self.unexpected.append(reply)
                elif isinstance(reply, m.Rerror):
                    errno = getattr(reply, "errno", None)
                    waiting.set_exception(Refused(reply.ename, errno))
                elif isinstance(reply, d.Rlerror):
                    waiting.set_exception(Refused(None, reply.ecode))
                else:
                    waiting.set_result(reply)

    async def close(self) -> None:
        self._listening.cancel()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        assert not self.unexpected

    def new_fid(self) -> int:
        return next(self._fids)

    def send(self, msg: m.Message, tag: int | None = None) -> asyncio.Future[Any]:
        """Send it under `tag`, or one never used; the Future is its reply."""
        msg.tag = next(self._tags) if tag is None else tag
        reply = asyncio.get_running_loop().create_future()
        self.waiting[msg.tag] = reply
        self._writer.write(self.dialect.of(msg).pack())
        return reply

    async def begin(self, msize: int = MSIZE) -> m.Rversion:
        """Tversion, which resets the connection."""
        reply: m.Rversion = await self.send(m.Tversion(0, msize, self.version), c.NOTAG)
        self.msize = reply.msize
        self.dialect = d.DIALECTS[reply.version]
        return reply

    async def attach(self, aname: str = "", uname: str = "glenda") -> tuple[int, Qid]:
        fid = self.new_fid()
        return fid, (await self.send(m.Tattach(0, fid, c.NOFID, uname, aname))).qid

    async def walk(self, path: str, fid: int | None = None) -> tuple[int, list[Qid]]:
        """A new fid at `path` from `fid`, or from the root, and the qids on the way."""
        newfid, names = self.new_fid(), tuple(filter(None, path.split("/")))
        start = self.root if fid is None else fid
        qids = (await self.send(m.Twalk(0, start, newfid, names))).wqid
        assert len(qids) == len(names)
        return newfid, list(qids)

    async def open(self, fid: int, mode: int = c.OREAD) -> tuple[Qid, int]:
        reply = await self.send(self.opening(fid, mode))
        return reply.qid, reply.iounit

    def opening(self, fid: int, mode: int) -> m.Message:
        if self.dialect is d.P9_2000_L:
            flags = mode & 3 | (dotl.O_TRUNC if mode & c.OTRUNC else 0)
            return d.Tlopen(0, fid, flags)
        return m.Topen(0, fid, mode)

    async def opened(self, path: str, mode: int = c.OREAD) -> int:
        """A fid walked to `path` and open."""
        fid, _ = await self.walk(path)
        await self.open(fid, mode)
        return fid

    async def create(self, fid: int, name: str) -> None:
        if self.dialect is d.P9_2000_L:
            await self.send(d.Tlcreate(0, fid, name, 0o1, 0o644, 0))
        else:
            await self.send(m.Tcreate(0, fid, name, 0o644, c.OWRITE))

    async def make_directory(self, fid: int, name: str) -> None:
        if self.dialect is d.P9_2000_L:
            await self.send(d.Tmkdir(0, fid, name, 0o755, 0))
        else:
            await self.send(m.Tcreate(0, fid, name, c.DMDIR | 0o755, c.OREAD))

    async def read(self, fid: int, offset: int = 0, count: int = MSIZE) -> bytes:
        data: bytes = (await self.send(m.Tread(0, fid, offset, count))).data
        assert len(data) <= count
        return data

    async def read_all(self, fid: int, count: int = MSIZE) -> bytes:
        data = b""
        while piece := await self.read(fid, len(data), count):
            data += piece
        return data

    async def contents(self, path: str) -> bytes:
        fid = await self.opened(path)
        data = await self.read_all(fid)
        await self.clunk(fid)
        return data

    async def write(self, fid: int, data: bytes, offset: int = 0) -> None:
        assert (await self.send(m.Twrite(0, fid, offset, data))).count == len(data)

    async def entries(
        self, fid: int, count: int = MSIZE, meanwhile: Callable[[], Awaitable[object]] = nothing
    ) -> list[Entry]:
        """An open directory from its start to its end, `count` bytes at a time;
        `meanwhile` happens after the first of them."""
        entries: list[Entry] = []
        offset = 0
        while True:
            if self.dialect is d.P9_2000_L:
                data = (await self.send(d.Treaddir(0, fid, offset, count))).data
                assert len(data) <= count
                found, offset = _linux_entries(data)
            else:
                data = await self.read(fid, offset, count)
                found = [Entry(e.name, e.qid) for e in self.dialect.unpack_dirs(data)]
                offset += len(data)
            if not found:
                return entries
            if not entries:
                await meanwhile()
            entries += found

    async def ls(self, path: str = "") -> list[Entry]:
        fid = await self.opened(path)
        entries = await self.entries(fid)
        await self.clunk(fid)
        return entries

    async def stat(self, fid: int) -> Attributes:
        if self.dialect is d.P9_2000_L:
            of = await self.send(d.Tgetattr(0, fid, dotl.GETATTR_BASIC))
            assert of.valid == dotl.GETATTR_BASIC
            directory = of.mode >> 12 == 0o04
            return Attributes(of.qid, of.mode & 0o777, directory, of.size)
        stat = (await self.send(m.Tstat(0, fid))).stat
        return Attributes(stat.qid, stat.mode & 0o777, bool(stat.mode & c.DMDIR), stat.length)

    async def change(
        self, fid: int, *, length: int | None = None, mode: int | None = None
    ) -> None:
        """Twstat or Tsetattr of these and nothing else."""
        if self.dialect is d.P9_2000_L:
            valid = dotl.SETATTR_SIZE * (length is not None) | dotl.SETATTR_MODE * (
                mode is not None
            )
            values = (mode or 0, 0, 0, length or 0, 0, 0, 0, 0)
            await self.send(d.Tsetattr(0, fid, valid, *values))
            return
        stat = replace(DONT_TOUCH)
        stat.length = stat.length if length is None else length
        stat.mode = stat.mode if mode is None else mode
        await self.send(m.Twstat(0, fid, stat))

    async def rename(self, fid: int, name: str) -> None:
        if self.dialect is d.P9_2000_L:
            await self.send(d.Trename(0, fid, self.root, name))
        else:
            await self.send(m.Twstat(0, fid, replace(DONT_TOUCH, name=name)))

    async def flush(self, tag: int) -> None:
        """Tflush; after its Rflush the old request is forgotten, if it is not over."""
        await self.send(m.Tflush(0, tag))
        if (old := self.waiting.pop(tag, None)) is not None:
            old.cancel()

    async def clunk(self, fid: int) -> None:
        await self.send(m.Tclunk(0, fid))

    async def remove(self, fid: int) -> None:
        await self.send(m.Tremove(0, fid))


def _linux_entries(data: bytes) -> tuple[list[Entry], int]:
    """What an Rreaddir holds, and where the next Treaddir goes on."""
    entries: list[Entry] = []
    offset = at = 0
    while at < len(data):
        *qid, offset, _, size = _LINUX_ENTRY.unpack_from(data, at)
        at += _LINUX_ENTRY.size + size
        entries.append(Entry(data[at - size : at].decode(), Qid(*qid)))
    return entries, offset


@contextlib.asynccontextmanager
async def speaking(address: Address, version: str, aname: str = "") -> AsyncIterator[Speaker]:
    """Connected, and attached at `root`."""
    streams = await asyncio.open_connection(address.host, address.port)
    speaker = Speaker(*streams, version)
    try:
        await speaker.begin()
        speaker.root, speaker.root_qid = await speaker.attach(aname)
        yield speaker
    finally:
        await speaker.close()
