"""The trees that the conformance suite runs over, each behind a server on TCP.

Owns what they have in common: every tree has a file of each role that the checks need,
under whatever name, and an answer that comes a byte at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from llambo9p.engine.simulated import Gate
from llambo9p.errors import NotFound, PermissionDenied
from llambo9p.fs.ctl import Action, Command, Commands, CtlFile
from llambo9p.fs.file import File, OpenFile
from llambo9p.fs.tree import Directory, OpenSnapshot, SyntheticFile, TextFile, Tree
from llambo9p.net.address import Address
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from llambo9p.p9.node import Maybe
from tests.cluster.harness import RunningCluster, cluster, simulated_host
from tests.files import ANYWHERE, Files, files_of
from tests.net.serving import StreamFile

ANSWER = b"simulated: x"
"""what `stream` gives"""


@dataclass(frozen=True)
class Roles:
    """Paths of files by what they are for."""

    text: str = "status"
    """is not empty, and cannot be written"""
    directory: str = "dir"
    leaf: str = "dir/leaf"
    """a file in it that is read"""
    ctl: str = "ctl"
    """takes `max_tokens N` and shows it"""
    system: str = "system"
    """a text that is replaced whole, and truncated"""
    stream: str = "out"


@dataclass
class Subject:
    """A served tree.  `ask` makes `stream` an answer to come, `feed` lets its next byte
    come, `end` the rest; `grow` adds a file to the root."""

    address: Address
    ask: Callable[[], Awaitable[None]]
    feed: Callable[[], None]
    end: Callable[[], None]
    grow: Callable[[], Awaitable[object]]
    aname: str = ""
    roles: Roles = field(default_factory=Roles)


class Note(SyntheticFile):
    """A text that the last write of an open replaces."""

    def __init__(self, tree: Tree, name: str) -> None:
        super().__init__(tree, name, 0o644)
        self.text = b""

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        if mode & c.OTRUNC:
            self.truncate()
        return OpenNote(self)

    def truncate(self) -> None:
        self.text = b""


class OpenNote(OpenSnapshot):
    def __init__(self, note: Note) -> None:
        super().__init__(note.text)
        self._note = note

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        self._note.text = data
        return len(data)

    def truncate(self) -> None:
        self._note.truncate()


class Stream(StreamFile):
    """Cannot be written."""

    def open(self, mode: int) -> Maybe[OpenFile]:
        if mode & 3 != c.OREAD:
            raise PermissionDenied
        return super().open(mode)


@contextlib.asynccontextmanager
async def static() -> AsyncIterator[Subject]:
    """Files without any inference."""
    settings = ["max_tokens 256\n"]

    def validate(words: Sequence[str]) -> Action:
        return lambda: settings.__setitem__(0, f"max_tokens {words[0]}\n")

    commands = Commands([Command("max_tokens", "N", 1, 1, validate)])
    tree = Tree()
    root = Directory(tree, "/")
    root.add(TextFile(tree, "status", lambda: "state idle\n"))
    root.add(CtlFile(tree, "ctl", lambda: settings[0], commands))
    root.add(Note(tree, "system"))
    out = root.add(Stream(tree, "out"))
    root.add(Directory(tree, "dir")).add(TextFile(tree, "leaf", lambda: "leaf\n"))
    left = bytearray(ANSWER)

    def feed() -> None:
        out.stream.append(bytes([left.pop(0)]))

    def end() -> None:
        out.stream.append(bytes(left))
        out.stream.finish()

    async def ask() -> None:
        """It is to come already."""

    async def grow() -> None:
        root.add(TextFile(tree, "new", lambda: ""))

    def attach(uname: str, aname: str) -> File:
        if aname:
            raise NotFound
        return root

    server = Server(attach)
    address = await server.listen(ANYWHERE)
    try:
        yield Subject(address, ask, feed, end, grow)
    finally:
        await server.close()


def asking(files: Files, directory: str = "") -> Callable[[], Awaitable[None]]:
    return lambda: files.write(f"{directory}prompt", "x")


def cloning(files: Files) -> Callable[[], Awaitable[object]]:
    """A conversation more, for as long as its client is there."""
    return lambda: files.open("clone")


IN_CLONE = Roles(directory="0", leaf="0/status")
IN_WORKER = Roles(
    directory="worker-0000",
    leaf="worker-0000/status",
    ctl="worker-0000/ctl",
    system="worker-0000/system",
    stream="worker-0000/out",
)
IN_NODES = Roles(directory="nodes", leaf="nodes/worker-0000")
IN_MODELS = Roles(directory="models", leaf="models/default")
IN_REGISTRY = Roles(directory="registry", leaf="registry/index")


@contextlib.asynccontextmanager
async def worker() -> AsyncIterator[Subject]:
    """A worker that is attached by its name; `0/` is a cloned conversation."""
    gate = Gate()
    async with (
        simulated_host(gate=gate) as host,
        files_of(host.address, "worker-0000") as files,
        await files.open("clone"),
    ):
        yield Subject(
            host.address, asking(files), gate.allow, gate.open, cloning(files),
            "worker-0000", IN_CLONE,
        )


@contextlib.asynccontextmanager
async def host() -> AsyncIterator[Subject]:
    """A host's root, with a worker in it."""
    gate = Gate()
    async with simulated_host(gate=gate) as host, files_of(host.address) as files:
        ask = asking(files, "worker-0000/")

        async def grow() -> None:
            await files.write("ctl", "grow 1")

        yield Subject(host.address, ask, gate.allow, gate.open, grow, roles=IN_WORKER)


@contextlib.asynccontextmanager
async def mounting(gate: Gate) -> AsyncIterator[RunningCluster]:
    """An orchestrator with one worker."""
    async with cluster() as running, simulated_host(gate=gate) as host:
        await running.files.write("ctl", f"mount {host.address}")
        yield running


@contextlib.asynccontextmanager
async def orchestrator() -> AsyncIterator[Subject]:
    """An orchestrator's root, whose answers come from a worker."""
    gate = Gate()
    async with mounting(gate) as running:
        ask, grow = asking(running.files), cloning(running.files)
        yield Subject(running.address, ask, gate.allow, gate.open, grow, roles=IN_NODES)


@contextlib.asynccontextmanager
async def models() -> AsyncIterator[Subject]:
    """The same, where a directory is that is searched for."""
    async with orchestrator() as subject:
        yield replace(subject, roles=IN_MODELS)


@contextlib.asynccontextmanager
async def registry() -> AsyncIterator[Subject]:
    """And where hosts register; one has."""
    async with (
        orchestrator() as subject,
        simulated_host(0) as host,
        files_of(subject.address) as files,
        await files.open("registry/new", c.ORDWR) as lease,
    ):
        await lease.write(str(host.address).encode())
        yield replace(subject, roles=IN_REGISTRY)


@contextlib.asynccontextmanager
async def mounted() -> AsyncIterator[Subject]:
    """A worker seen through an orchestrator, attached by its name there."""
    gate = Gate()
    async with (
        mounting(gate) as running,
        files_of(running.address, "worker-0000") as files,
        await files.open("clone"),
    ):
        yield Subject(
            running.address, asking(files), gate.allow, gate.open, cloning(files),
            "worker-0000", IN_CLONE,
        )


SUBJECTS = {
    each.__name__: each
    for each in (static, worker, host, orchestrator, models, registry, mounted)
}
