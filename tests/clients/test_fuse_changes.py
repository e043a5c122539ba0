"""A FUSE mount of a tree where files can be made and removed, as Llambo's cannot, and
where a clunk may take long."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from llambo9p.fs.file import File, OpenFile
from llambo9p.fs.tree import Directory, SyntheticFile, Tree
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.node import Maybe, Node
from llambo9p.p9.wire import Dir
from tests.files import ANYWHERE

from .mounts import Mount, OnThread, interrupt, mounted, needs_fuse, wait_until

pytestmark = needs_fuse


class Open(OpenFile):
    def __init__(self, file: Text) -> None:
        self.file = file

    def read(self, offset: int, count: int) -> bytes:
        return bytes(self.file.data[offset : offset + count])

    def write(self, offset: int, data: bytes) -> int:
        self.file.data[offset : offset + len(data)] = data
        return len(data)

    def clunk(self) -> Maybe[None]:
        return self.file.may_clunk.wait()  # type: ignore[return-value]


class Text(SyntheticFile):
    """A file with a length; its clunks wait until they may."""

    def __init__(self, parent: Folder, name: str, perm: int) -> None:
        super().__init__(parent.tree, name, perm)
        self.parent = parent
        self.data = bytearray()
        self.may_clunk = asyncio.Event()
        self.may_clunk.set()

    def open(self, mode: int) -> OpenFile:
        if mode & c.OTRUNC:
            self.truncate()
        return Open(self)

    def truncate(self) -> None:
        self.data.clear()

    def stat(self) -> Dir:
        stat = super().stat()
        assert isinstance(stat, Dir)
        stat.length = len(self.data)
        return stat

    def remove(self) -> None:
        self.parent.discard(self.name)


class Folder(Directory):
    def create(self, name: str, perm: int, mode: int) -> tuple[Node, OpenFile]:
        made: File
        if perm & c.DMDIR:
            made = self.add(Folder(self.tree, name, perm & 0o777))
            opened = made.open(c.OREAD)
        else:
            made = self.add(Text(self, name, perm))
            opened = made.open(mode)
        assert isinstance(opened, OpenFile)
        return made, opened

    def remove(self) -> None:
        self.parent.discard(self.name)


class Site(OnThread):
    def __init__(self) -> None:
        super().__init__()
        self.traced: list[m.Message] = []
        self.call(self._start())

    async def _start(self) -> None:
        self.root = Folder(Tree(), "/", 0o755)
        self.server = Server(lambda uname, aname: self.root, trace=self._trace)
        self.address = await self.server.listen(ANYWHERE)

    def _trace(self, way: str, msg: m.Message) -> None:
        if way == "->":
            self.traced.append(msg)

    def walks(self) -> list[tuple[str, ...]]:
        return [msg.wname for msg in self.traced if isinstance(msg, m.Twalk)]

    def modes(self) -> list[int]:
        """Of the Topens."""
        return [msg.mode for msg in self.traced if isinstance(msg, m.Topen)]

    def text(self, name: str) -> Text:
        found = self.root.find(name)
        assert isinstance(found, Text)
        return found

    def let_clunk(self, file: Text, may: bool) -> None:
        async def let() -> None:
            file.may_clunk.set() if may else file.may_clunk.clear()

        self.call(let())

    def close(self) -> None:
        self.call(self.server.close())
        self.stop_thread()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def mount(site: Site, tmp_path: Path) -> Iterator[Mount]:
    with mounted(tmp_path, site.address) as mount:
        yield mount
        wait_until(lambda: site.fids() == 1)


def test_files_are_made_and_removed(mount, site):
    mount.sh("umask 027; echo hello > new; mkdir below; echo deeper > below/file")
    assert mount.sh("stat -c '%a %s %F' new below below/file") == (
        "640 6 regular file\n750 0 directory\n640 7 regular file\n"
    )
    assert mount.sh("echo more >> new; cat new below/file") == "hello\nmore\ndeeper\n"
    assert mount.sh("cp new copy; cmp new copy; : > copy; stat -c %s copy") == "0\n"
    assert "File exists" in mount.run("mkdir below").stderr
    mount.sh("rm below/file new copy; rmdir below; [ -z \"$(ls)\" ]")


def test_an_open_waits_for_the_clunks_of_its_directory_only(mount, site):
    mount.sh("echo 1 > slow; echo 2 > other; mkdir below; echo 3 > below/file")
    slow = site.text("slow")
    site.let_clunk(slow, False)
    mount.sh("echo 4 > slow")
    site.traced.clear()
    waiting, given_up = (mount.start("cat", f"{mount.path}/other") for _ in range(2))
    wait_until(lambda: site.walks().count(("other",)) >= 2)
    assert mount.sh("cat below/file; stat -c %s other") == "3\n2\n"
    assert interrupt(given_up) == -signal.SIGINT
    assert site.modes() == [c.OREAD]  # of below/file
    site.let_clunk(slow, True)
    assert waiting.communicate(timeout=5)[0] == b"2\n"
    assert site.modes() == [c.OREAD] * 2
