"""diod as a server, which speaks 9P2000.L and nothing else, for our clients; and servers that
speak one version and never answer another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from llambo9p.errors import Error, NotFound, NotSupported
from llambo9p.fs.tree import Directory, TextFile, Tree
from llambo9p.fs.user import User
from llambo9p.mount.attachment import Attachment
from llambo9p.mount.nodes import Node
from llambo9p.net import client as net_client
from llambo9p.net.address import Address, parse
from llambo9p.net.client import Client
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.wire import dont_touch
from tests.cluster.harness import cluster, simulated_host
from tests.conformance.subjects import Note
from tests.disorder import frame_of
from tests.files import ANYWHERE, Files, story
from tests.tools.test_trace import tracing

from .mounts import mounted, needs_fuse

DIOD = shutil.which("diod", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(DIOD is None, reason="no diod on this machine")

VERSIONS = c.VERSION_9P2000_U, c.VERSION_9P2000, c.VERSION_9P2000_L


class Diod:
    """`directory` as diod serves it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = Address("tcp", "127.0.0.1", port)
        assert DIOD is not None
        self.process = subprocess.Popen(
            [
                *(DIOD, "--foreground", "--no-auth", "--no-userdb"),
                *("--export", str(directory), "--listen", f"127.0.0.1:{port}"),
            ],
            stderr=subprocess.DEVNULL,
        )
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                return
            time.sleep(0.02)


@pytest.fixture(scope="module")
def diod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Diod]:
    directory = tmp_path_factory.mktemp("served")
    (directory / "hello").write_text("hello, world\n")
    (directory / "deep" / "er").mkdir(parents=True)
    (directory / "deep" / "er" / "leaf").write_bytes(b"x" * 200_000)
    for number in range(300):
        (directory / "deep" / f"file{number}").write_text(str(number))
    served = Diod(directory)
    yield served
    served.process.kill()
    served.process.wait()


@contextlib.asynccontextmanager
async def attached(diod: Diod) -> AsyncIterator[Files]:
    client = await Client.dial(diod.address, VERSIONS)
    try:
        assert client.dialect.version == c.VERSION_9P2000_L
        fid, _ = await client.attach("", str(diod.directory))
        await client.recognise(fid)
        assert not client.is_ours
        yield Files(client, fid)
    finally:
        client.close()


def test_our_client_reads_writes_and_lists(diod: Diod) -> None:
    @story
    async def main() -> None:
        async with attached(diod) as files:
            assert await files.read("hello") == "hello, world\n"
            assert await files.read("deep/er/leaf") == "x" * 200_000
            opened = await files.open("deep")
            names = {entry.name for entry in await opened.read_dir()}
            assert names == {"er", *(f"file{number}" for number in range(300))}
            await files.write("hello", "written", c.OWRITE | c.OTRUNC)
            assert (diod.directory / "hello").read_text() == "written"
            fid, _ = await files.walk("hello")
            stat = (await files.client.call(m.Tstat(0, fid), m.Rstat)).stat
            assert (stat.length, stat.n_uid, stat.mode & c.DMDIR) == (7, os.getuid(), 0)
            change = dont_touch()
            change.length, change.mode = 3, 0o600
            await files.client.call(m.Twstat(0, fid, change), m.Rwstat)
            found = (diod.directory / "hello").stat()
            assert (found.st_size, found.st_mode & 0o777) == (3, 0o600)
            made, _ = await files.walk("")
            tcreate = m.Tcreate(0, made, "new", 0o644, c.OWRITE)
            await files.client.call(tcreate, m.Rcreate)
            await files.client.call(m.Twrite(0, made, 0, b"made"), m.Rwrite)
            await files.client.call(m.Twstat(0, made, dont_touch()), m.Rwstat)
            await files.client.remove(made)
            assert not (diod.directory / "new").exists()
            (diod.directory / "hello").write_text("hello, world\n")

    main()


def test_errors_keep_their_class(diod: Diod) -> None:
    @story
    async def main() -> None:
        async with attached(diod) as files:
            with pytest.raises(NotFound):
                await files.read("nowhere")
            fid, _ = await files.walk("")
            with pytest.raises(NotSupported):
                await files.client.call(m.Tcreate(0, fid, "d", c.DMDIR | 0o777, 0), m.Rcreate)
            with pytest.raises(Error, match="not a directory|does not exist"):
                await files.read("hello/below")

    main()


@needs_fuse
def test_a_fuse_mount_of_it(diod: Diod, tmp_path: Path) -> None:
    with mounted(tmp_path, diod.address, "--aname", str(diod.directory)) as mount:
        assert mount.sh("cat hello") == "hello, world\n"
        listing = mount.sh("ls -l deep/er").splitlines()[1].split()
        assert (listing[4], listing[-1]) == ("200000", "leaf")
        assert len(mount.sh("ls deep").split()) == 301
        assert mount.sh("cmp deep/er/leaf - && echo same", input="x" * 200_000) == "same\n"
        mount.sh("echo new >made; echo more >>made; cp made copy; rm made")
        assert (diod.directory / "copy").read_text() == "new\nmore\n"
        mount.sh("truncate -s 2 copy; chmod 640 copy; touch -d @1000 copy")
        found = (diod.directory / "copy").stat()
        assert (found.st_size, found.st_mode & 0o777, found.st_mtime) == (2, 0o640, 1000)
        assert mount.run("cat nowhere").stderr.endswith("No such file or directory\n")


def test_an_orchestrator_mounts_it_by_its_aname(diod: Diod) -> None:
    @story
    async def main() -> None:
        async with cluster() as running:
            files, orchestrator = running.files, running.orchestrator
            with pytest.raises(Error):
                await files.write("ctl", f"mount {diod.address} disk")
            assert await files.ls("nodes") == []
            await files.write("ctl", f"mount {diod.address} disk --aname {diod.directory}")
            assert await files.read("disk/hello") == "hello, world\n"
            entries = {e.name: e for e in await (await files.open("disk/deep/er")).read_dir()}
            assert (entries["leaf"].length, entries["leaf"].mode & c.DMDIR) == (200_000, 0)
            deep = await (await files.open("disk/deep")).read_dir()
            lengths = {entry.name: entry.length for entry in deep}
            assert lengths.pop("er") == 0
            assert lengths == {f"file{n}": len(str(n)) for n in range(300)}
            # what is saved has it all
            (saved,) = orchestrator.recovery.describe().hosts
            assert (saved.user, saved.aname) == ("", str(diod.directory))
        async with cluster() as after:
            host = after.orchestrator._members.remember(saved)
            assert host is not None
            await after.orchestrator._members.take_back(host)
            assert await after.files.read("disk/hello") == "hello, world\n"

    main()


def test_an_orchestrator_attaches_as_the_user_it_is_given(tmp_path: Path) -> None:
    attached = []
    tree = Tree()
    root = Directory(tree, "/")

    def attach(user: User, aname: str) -> Directory:
        attached.append((user.name, aname))
        return root

    @story
    async def main() -> None:
        server = Server(attach)
        address = await server.listen(Address("unix", path=str(tmp_path / "9p")))
        async with cluster() as running:
            mount = f"mount {address} other --user glenda --aname 'some where'"
            await running.files.write("ctl", mount)
            await running.files.ls("other")
            assert set(attached) == {("glenda", "some where")}
        await server.close()

    main()


@pytest.mark.parametrize(
    "words, error",
    [
        ("--user glenda", "are for a whole tree: give it a NAME"),
        ("other --usr glenda", "bad option '--usr'; use --user --aname"),
        ("other --user", "bad option '--user'"),
        ("other another", "bad option 'another'"),
        ("2other --aname x", "bad name '2other'"),
    ],
)
def test_bad_words_of_mount_are_named(words: str, error: str) -> None:
    @story
    async def main() -> None:
        async with cluster() as running:
            with pytest.raises(Error, match=error):
                await running.files.write("ctl", f"mount tcp!127.0.0.1!9 {words}")

    main()


def test_what_is_said_to_it_can_be_traced(diod: Diod) -> None:
    with tracing(str(diod.address)) as trace:

        @story
        async def main() -> None:
            client = await Client.dial(parse(trace.address), VERSIONS)
            fid, _ = await client.attach("", str(diod.directory))
            assert await client.get(fid, "hello") == b"hello, world\n"
            client.close()

        main()
        lines = trace.interrupt()
    assert any("Tgetattr" in line or "Tlopen" in line for line in lines), lines
    assert any(f'aname "{diod.directory}"' in line for line in lines), lines


@contextlib.asynccontextmanager
async def speaking_only(version: str, to: Address) -> AsyncIterator[Address]:
    """A server of that version, which never answers another."""
    tasks: set[asyncio.Future[object]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        frame = await frame_of(reader)
        if not frame or m.Tversion.unpack(frame).version != version:
            return
        there, behind = await asyncio.open_connection(to.host, to.port)
        writers.append(behind)
        behind.write(frame)
        for source, sink in ((reader, behind), (there, writer)):
            task = asyncio.ensure_future(pass_on(source, sink))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                sink.write(data)
        sink.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield Address("tcp", "127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_client, "_VERSION_S", 0.5)


@pytest.mark.parametrize("version", [c.VERSION_9P2000, c.VERSION_9P2000_L])
def test_an_orchestrator_mounts_what_speaks_one_version(version: str) -> None:
    tree = Tree()
    root = Directory(tree, "/")
    root.add(TextFile(tree, "hello", lambda: "hello, world\n"))
    below = root.add(Directory(tree, "below"))
    below.add(Note(tree, "note"))

    @story
    async def main() -> None:
        server = Server(lambda user, aname: root)
        to = await server.listen(ANYWHERE)
        async with speaking_only(version, to) as address, cluster() as running:
            files = running.files
            await files.write("ctl", f"mount {address} other")
            assert await files.read("other/hello") == "hello, world\n"
            assert await files.ls("other") == ["hello", "below"]
            fid, _ = await files.walk("other/below/../below/note")
            stat = (await files.client.call(m.Tstat(0, fid), m.Rstat)).stat
            assert stat.name == "note"
            await files.write("other/below/note", "written")
            assert await files.read("other/below/note") == "written"
            with pytest.raises(Error, match="permission denied"):
                await files.write("other/hello", "no")
            with pytest.raises(NotFound):
                await files.read("other/nowhere")
            await files.write("ctl", "unmount other")
        await server.close()

    main()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_mount_on_a_directory_finds_the_version(version: str) -> None:
    @story
    async def main() -> None:
        async with simulated_host(1) as host, speaking_only(version, host.address) as address:
            attachment = Attachment(address, "")
            root = await attachment.root()
            assert root.client.dialect.version == version
            top = Node(1, (), root.qid)
            found = await attachment.stat(top, "worker-0000", "ctl")
            opened = await attachment.open(Node(2, ("worker-0000", "ctl"), found.qid), c.ORDWR)
            await opened.write(b"max_tokens 5")
            await opened.clunk()
            again = await attachment.open(Node(2, ("worker-0000", "ctl"), found.qid), c.OREAD)
            assert b"max_tokens 5\n" in await again.read(0)
            attachment.close()

    main()
