"""Plays a written conversation against a `ServerConn`, with no clock and no socket.

    -> Tread tag 1 fid 1 offset 0 count 5       the client sends
    <- Rread tag 1 data "hello"                 the server has answered
    ! feed out "abc"                            something happens (see `Player`)
    ** drop vault                               what the tree was asked to do
    # Linux does this                           a comment

Lines run in order.  `->` lines that follow each other arrive in one segment.  The
event loop is run until nothing is left to do before a block of `<-` or `**` lines
is compared: the replies, or the calls noted since the last such block, must be
exactly those, in that order.  At the end no reply may be left over.  Messages are
written as `llambo9p.p9.text` has them, and so is what is none: `-> hex 0700000063ffff`.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import shlex
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Sequence
from itertools import groupby
from typing import Any

from llambo9p import errors
from llambo9p.fs.ctl import Command, Commands, CtlFile
from llambo9p.fs.file import File, OpenFile
from llambo9p.fs.pending import Pending
from llambo9p.fs.stream import Stream
from llambo9p.fs.tree import Directory, SyntheticFile, TextFile, Tree
from llambo9p.p9.fid import Request
from llambo9p.p9.node import Handle, Maybe, Walk
from llambo9p.p9.server import Limits, ServerConn
from llambo9p.p9.text import format, parse, parse_bytes
from llambo9p.p9.wire import Dir

HELLO = """
    -> Tversion tag NOTAG msize 8192 version "9P2000"
    <- Rversion tag NOTAG msize 8192 version "9P2000"
    -> Tattach tag 0 fid 0 afid NOFID uname "glenda" aname ""
    <- Rattach tag 0 qid (d 0 1)
"""


class StepLoop(asyncio.SelectorEventLoop):
    """An event loop that can tell when it is idle."""

    scheduled = 0

    def call_soon(self, *args: Any, **kw: Any) -> asyncio.Handle:
        self.scheduled += 1
        return super().call_soon(*args, **kw)

    def run_to_idle(self) -> None:
        """Run until a whole turn schedules nothing more."""
        while True:
            before = self.scheduled
            self.call_soon(self.stop)
            self.run_forever()
            if self.scheduled == before + 1:  # its own stop, and nothing else
                return


class Journal:
    """What the tree was asked to do, and the calls that wait for the transcript."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.waiting: dict[str, deque[asyncio.Future[Any]]] = defaultdict(deque)

    def note(self, line: str) -> None:
        self.lines.append(line)

    def gate(self, call: str) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting[call].append(future)
        return future

    def oldest(self, call: str) -> asyncio.Future[Any]:
        while self.waiting[call] and self.waiting[call][0].done():
            self.waiting[call].popleft()
        assert self.waiting[call], f"nothing waits in {call!r}"
        return self.waiting[call].popleft()


class StreamFile(SyntheticFile):
    def __init__(self, tree: Tree, name: str) -> None:
        super().__init__(tree, name, 0o444)
        self.stream = Stream()

    def open(self, mode: int) -> Maybe[OpenFile]:
        return OpenStream(self.stream)


class OpenStream(OpenFile):
    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        return self.stream.read(offset, count)


class Gate(SyntheticFile):
    """A file whose calls are noted; those in `slow` wait for `! let` or `! refuse`.

    `deaf` ones go on when they are cancelled; a `bare` read is a Future and no coroutine.
    """

    def __init__(
        self, tree: Tree, journal: Journal, name: str, slow: str = "", style: str = ""
    ) -> None:
        super().__init__(tree, name, 0o666)
        self.journal = journal
        self.slow = slow.split()
        self.style = style

    def does(self, call: str, result: Any, *details: object) -> Any:
        self.journal.note(" ".join(map(str, [call, self.name, *details])))
        if call not in self.slow:
            return result
        if self.style == "bare":
            return self.journal.gate(f"{call} {self.name}")
        return self._waits(call, result)

    async def _waits(self, call: str, result: Any) -> Any:
        gate = self.journal.gate(f"{call} {self.name}")
        while not gate.done():
            try:
                await asyncio.shield(gate)
            except asyncio.CancelledError:
                self.journal.note(f"cancelled {call} {self.name}")
                if self.style != "deaf":
                    gate.cancel()
                    raise
        gate.result()
        return result

    def walk(self, names: Sequence[str]) -> Maybe[Walk]:
        walk = super().walk(names)
        assert isinstance(walk, Walk)
        return walk if walk.file is None else self.does("walk", walk)

    def open(self, mode: int) -> Maybe[OpenFile]:
        return self.does("open", OpenGate(self))

    def stat(self) -> Maybe[Dir]:
        return self.does("stat", super().stat())

    def wstat(self, stat: Dir, handle: Handle | None) -> Maybe[None]:
        return self.does("wstat", None)

    def remove(self) -> Maybe[None]:
        return self.does("remove", None)

    def release(self, was_open: bool) -> None:
        self.journal.note(f"release {self.name}")


class OpenGate(OpenFile):
    def __init__(self, file: Gate) -> None:
        self.file = file

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        return self.file.does("read", b"something", offset, count)

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        return self.file.does("write", len(data), offset, data.decode())

    def sync(self) -> Maybe[None]:
        return self.file.does("sync", None)

    def clunk(self) -> Maybe[None]:
        return self.file.does("clunk", None)

    def drop(self) -> None:
        self.file.journal.note(f"drop {self.file.name}")


class SlowDirectory(Directory):
    """Walks from it and reads of it wait; files can be created in it."""

    def __init__(self, tree: Tree, journal: Journal, name: str) -> None:
        super().__init__(tree, name, 0o777)
        self.journal = journal

    def walk(self, names: Sequence[str]) -> Maybe[Walk]:
        return self._walk(list(names))

    async def _walk(self, names: list[str]) -> Walk:
        await self.journal.gate(f"walk {self.name}")
        walk = super().walk(names)
        return walk if isinstance(walk, Walk) else await walk

    def entries(self) -> Maybe[Sequence[Dir]]:
        return self._listed()

    async def _listed(self) -> Sequence[Dir]:
        await self.journal.gate(f"readdir {self.name}")
        entries = super().entries()
        assert isinstance(entries, Sequence)
        return entries

    def create(self, name: str, perm: int, mode: int) -> Maybe[tuple[File, OpenFile]]:
        return self._create(name)

    async def _create(self, name: str) -> tuple[File, OpenFile]:
        await self.journal.gate(f"create {self.name}")
        made = self.add(Gate(self.tree, self.journal, name))
        made.mtime = 0
        return made, OpenGate(made)

    def release(self, was_open: bool) -> None:
        self.journal.note(f"release {self.name}")


class World:
    """The tree that transcripts speak of; the numbers are the files' qid paths."""

    def __init__(self) -> None:
        self.journal = journal = Journal()
        self.settings: list[str] = []
        tree = Tree(owner="glenda")
        add = (root := Directory(tree, "/")).add  # 1
        add(TextFile(tree, "hello", lambda: "hello, world\n"))  # 2
        self.out = add(StreamFile(tree, "out"))  # 3
        add(CtlFile(tree, "ctl", self._ctl_text, self._verbs()))  # 4
        add(Gate(tree, journal, "note"))  # 5, nothing waits
        self.dir = add(Directory(tree, "dir"))  # 6
        self.dir.add(TextFile(tree, "a", lambda: "a"))  # 7
        sub = self.dir.add(Directory(tree, "sub"))  # 8
        sub.add(TextFile(tree, "leaf", lambda: "leaf"))  # 9
        add(Gate(tree, journal, "gate", "read write stat wstat remove"))  # 10
        add(Gate(tree, journal, "bare", "read", "bare"))  # 11
        add(Gate(tree, journal, "deaf", "read open", "deaf"))  # 12
        add(Gate(tree, journal, "vault", "open clunk"))  # 13
        self.slow = add(SlowDirectory(tree, journal, "slow"))  # 14
        self.slow.add(Gate(tree, journal, "leaf"))  # 15
        add(Gate(tree, journal, "late", "walk", "deaf"))  # 16
        self.tree, self.root = tree, root
        for file in [root, *root.children, *self.dir.children, *sub.children, *self.slow.children]:
            file.mtime = 0

    def attach(self, uname: str, aname: str) -> Maybe[File]:
        if aname == "":
            return self.root
        if aname == "slow":
            return self._attach_slow()
        walk = self.root.walk(aname.split("/"))
        assert isinstance(walk, Walk)
        if not isinstance(walk.file, File):
            raise errors.NotFound
        return walk.file

    async def _attach_slow(self) -> File:
        await self.journal.gate("attach slow")
        return self.slow

    def _ctl_text(self) -> str:
        return "".join(f"set {word}\n" for word in self.settings)

    def _verbs(self) -> Commands:
        def validate(words: Sequence[str]) -> Callable[[], None]:
            return lambda: self.settings.append(words[0])

        return Commands([Command("set", "WORD", 1, 1, validate)])


class Player:
    """A `ServerConn` over a `World`, with the transcript as its client.

    What can happen in a transcript:

    - `! open FID PATH MODE` walks from fid 0 and opens, and expects no trouble;
    - `! feed out TEXT`, `! end out`, `! break out REASON`: the stream goes on or ends;
    - `! let CALL FILE`, `! refuse CALL FILE REASON`: the oldest waiting call returns;
    - `! add NAME`, `! discard NAME`: the directory `dir` changes;
    - `! idle` runs the loop, `! silent` expects no replies after it;
    - `! lost`: the connection is gone.
    """

    def __init__(self, *, limits: Limits | None = None) -> None:
        self.loop = StepLoop()
        self.world = World()
        self.conn = ServerConn(self.world.attach, limits=limits)
        self.received = bytearray()

    def play(self, transcript: str) -> None:
        """Raises AssertionError with a diff where the server departs from it."""
        lines = [line.strip() for line in transcript.splitlines()]
        for mark, block in groupby(filter(None, lines), lambda line: line.split(" ")[0]):
            texts = [line[len(mark) :].strip() for line in block]
            match mark:
                case "->":
                    self.send(b"".join(parse_bytes(text, self.conn.dialect) for text in texts))
                case "<-":
                    dialect = self.conn.dialect
                    self._expect([format(parse(text, dialect)) for text in texts], self.replies())
                case "**":
                    self._expect(texts, self.noted())
                case "!":
                    for text in texts:
                        self.happens(*shlex.split(text))
                case "#":
                    pass
                case _:
                    raise ValueError(f"cannot play {mark!r}")
        self._expect([], self.replies())

    def replies(self) -> list[str]:
        """Every reply since the last call, when all that can happen has happened."""
        self.loop.run_to_idle()
        lines = []
        while self.received:
            size = int.from_bytes(self.received[:4], "little")
            lines.append(format(self.conn.dialect.unpack(bytes(self.received[:size]))))
            del self.received[:size]
        return lines

    def noted(self) -> list[str]:
        self.loop.run_to_idle()
        lines, self.world.journal.lines = self.world.journal.lines, []
        return lines

    def _expect(self, expected: list[str], got: list[str]) -> None:
        assert got == expected, "\n" + "\n".join(
            difflib.ndiff([e + " (expected)" for e in expected], [g + " (came)" for g in got])
        )

    def _do(self, action: Callable[..., None], *args: Any) -> None:
        """Call `action` inside the loop, in this very turn."""
        asyncio._set_running_loop(self.loop)
        try:
            action(*args)
        finally:
            asyncio._set_running_loop(None)

    def send(self, data: bytes) -> None:
        """One segment from the client."""
        self._do(self._receive, data)

    def happens(self, what: str, *words: str) -> None:
        """See the class: one `!` line, as its words."""
        out, journal = self.world.out.stream, self.world.journal
        match what, *words:
            case "open", fid, path, mode:
                names = " ".join(f'"{name}"' for name in path.split("/"))
                walk = parse(f"Twalk tag 900 fid 0 newfid {fid} wname [{names}]")
                self.send(walk.pack() + parse(f"Topen tag 901 fid {fid} mode {mode}").pack())
                replies = self.replies()
                assert "Rwalk" in replies[0] and "Ropen" in replies[1], replies
                journal.lines.clear()
            case "feed", "out", text:
                out.append(text.encode())
            case "end", "out":
                out.finish()
            case "break", "out", reason:
                out.fail(errors.Error(reason))
            case "let", call, name:
                self.loop.run_to_idle()
                # the result counts only where the call is that Future itself
                journal.oldest(f"{call} {name}").set_result(b"something")
            case "refuse", call, name, reason:
                self.loop.run_to_idle()
                journal.oldest(f"{call} {name}").set_exception(errors.Error(reason))
            case "add", name:
                self.world.dir.add(TextFile(self.world.tree, name, lambda: "")).mtime = 0
            case "discard", name:
                self.world.dir.discard(name)
            case ("idle",):
                self.loop.run_to_idle()
            case ("silent",):
                self._expect([], self.replies())
            case ("lost",):
                self._do(self.conn.lost)
            case _:
                raise ValueError(f"nothing like {what!r} happens here")

    # -- a shell as small as can be: what net.server does with sockets -----------

    def _receive(self, data: bytes) -> None:
        self.conn.receive(data)
        self._pump()

    def _pump(self) -> None:
        while True:
            for request in self.conn.take_started():
                self._await(request)
            self.received += b"".join(self.conn.data_to_send())
            if not self.conn.stalled:
                return
            self.conn.resume()

    def _await(self, request: Request) -> None:
        awaitable = request.awaitable
        assert awaitable is not None
        if isinstance(awaitable, Pending):
            request.cancel = awaitable.cancel
            awaitable.listen(lambda result, error: self._done(request, result, error))
            return
        future = asyncio.ensure_future(awaitable, loop=self.loop)
        request.cancel = future.cancel

        def done(future: asyncio.Future[Any]) -> None:
            if future.cancelled():
                self._done(request, None, asyncio.CancelledError())
            else:
                error = future.exception()
                self._done(request, future.result() if error is None else None, error)

        future.add_done_callback(done)

    def _done(self, request: Request, result: Any, error: BaseException | None) -> None:
        if error is not None:
            self.conn.fail(request, error)
        else:
            self.conn.complete(request, result)
        self._pump()


@contextlib.contextmanager
def playing(*, limits: Limits | None = None) -> Generator[Player, None, None]:
    """A Player whose loop is closed at the end, when nothing may be left running."""
    player = Player(limits=limits)
    try:
        yield player
        player._do(player.conn.lost)
        for gates in player.world.journal.waiting.values():
            for gate in gates:
                if not gate.done():
                    gate.set_result(None)
        player.loop.run_to_idle()
        assert not asyncio.all_tasks(player.loop), "tasks were left running"
        assert not player.conn.fids and not player.conn.requests
    finally:
        player.loop.close()


def play(transcript: str, *, limits: Limits | None = None) -> None:
    """Play a whole conversation, after a version and an attach of fid 0."""
    with playing(limits=limits) as player:
        player.play(HELLO)
        player.play(transcript)
