"""A host that lies, over real TCP: in its files, in the names of its workers, in its answers.

Whatever it says, the orchestrator refuses the host or gives it up; the orchestrator's own files
stay, its state file can be loaded, and others answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from llambo9p.cluster.checkpoints import load
from llambo9p.cluster.config import Cluster, LoadBalancer
from llambo9p.cluster.health import Health
from llambo9p.errors import Error
from llambo9p.fs.file import File, OpenFile
from llambo9p.fs.tree import Directory, SyntheticFile, Tree
from llambo9p.fs.user import User
from llambo9p.net.server import Server
from llambo9p.p9.node import Maybe
from tests.files import ANYWHERE, story, until

from .harness import RunningCluster, cluster, simulated_host

HONEST = {
    "status": b"type tiny\nmodel simulated\ncontext 4096\nepoch 1\nslots 4\n",
    "workers": b"worker-0007 idle 0 0 0 0 0\n",
    "clone": b"0\n",
    "0/status": b"state decode\nposition 0\nprogress 0\n",
    "0/out": b"sim",
    "0/tokens": b"115 1\n105 2\n109 3\n",
    "0/usage": b"prompt_tokens 9\ncached_tokens 0\ncompletion_tokens 3\ngiven_tokens 0\n"
    b"queue_ms 0.1\nttft_ms 1.0\ntotal_ms 2.0\ninterrupted_ms 0.0\nfinish_reason stop\n",
    "0/logprobs": b"",
}
ENDLESS = b"endless"
"""stands for a file without an end"""
# what the answer begins with is true: whatever was passed on of it, others go on from there


class Lying(SyntheticFile):
    """A file that says what `said` has for it, and takes whatever is written."""

    def __init__(self, tree: Tree, name: str, said: Callable[[], bytes]) -> None:
        super().__init__(tree, name, 0o666)
        self._said = said

    def open(self, mode: int) -> Maybe[OpenFile]:
        return OpenLying(self._said())


class OpenLying(OpenFile):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        if self._data == ENDLESS:
            return b"7" * count
        return self._data[offset : offset + count]

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        return len(data)


class Liar:
    """A host with one worker.  `said` may be changed while it is mounted."""

    def __init__(self, **lies: bytes) -> None:
        self.said = HONEST | lies
        tree = Tree()
        self._root = Directory(tree, "/")
        for name in ("ctl", "status", "workers", "metrics"):
            self._root.add(self._file(tree, name, name))
        worker = self._root.add(Directory(tree, "worker-0007"))
        for name in ("ctl", "prompt", "out", "tokens", "usage", "clone", "status"):
            worker.add(self._file(tree, name, name if name == "clone" else ""))
        conversation = worker.add(Directory(tree, "0"))
        for name in ("ctl", "prompt", "out", "tokens", "usage", "status", "logprobs", "history",
                     "system", "grammar", "schema"):  # fmt: skip
            conversation.add(self._file(tree, name, f"0/{name}"))

    def _file(self, tree: Tree, name: str, key: str) -> Lying:
        return Lying(tree, name, lambda: self.said.get(key, b""))

    def attach(self, user: User, aname: str) -> File:
        name = aname.partition("@")[0]
        found = self._root.find(name) if name else self._root
        return found or self._root


@dataclass
class Place:
    running: RunningCluster
    liar: Liar
    server: Server
    at: str

    async def stands(self) -> None:
        """The orchestrator is as it was."""
        names = set(await self.running.files.ls())
        assert {"ctl", "prompt", "out", "nodes", "status", "workers", "worker-0000"} <= names
        await self.running.files.write("ctl", "max_tokens 30")
        state = self.running.orchestrator.config.state.path
        await self.running.files.write("ctl", "save")
        assert load(state) is not None
        for file in ("status", "workers", "metrics", "balancer", "health"):
            await self.running.files.read(file)


@contextlib.asynccontextmanager
async def place(**lies: bytes) -> AsyncIterator[Place]:
    """An orchestrator that has an honest host, and a liar whom it has not mounted yet."""
    balancer = LoadBalancer(strategy="round-robin", health_check_interval=20, timeout=5000)
    async with cluster(Cluster(load_balancer=balancer)) as running, simulated_host(1) as honest:
        await running.orchestrator.recovery.begin(running.address, None)
        await running.files.write("ctl", f"mount {honest.address}")
        liar = Liar(**lies)
        server = Server(liar.attach)
        at = await server.listen(ANYWHERE)
        try:
            yield Place(running, liar, server, str(at))
        finally:
            await server.close()


LONG = b"x" * 1_000_000

STATUS = [
    b"slots -5", b"slots 99999999999999999999", b"slots x", b"slots 1_0", b"slots 0x4",
    b"slots 4.0", "slots ٣".encode(), b"slots ", b"type a/b", b"type ", b"type ..",
    b"type \x1b[2J", b"type t t",
    b"type " + LONG, b"model " + LONG, b"model \x1b[2J\x07", b"model ", b"model \xff", b"epoch -1",
    b"epoch 9223372036854775808", b"epoch x", b"context -1", b"context 1e9", b"context nan",
    b"context 99999999999", b"\xff\xfe", ENDLESS,
]  # fmt: skip

NAMES = [
    b"ctl", b"prompt", b"nodes", b"a/b", b"..", b".", b"", b"'", LONG, b"\xff", b"0", b"worker-",
    b"worker-10000", b"worker-00007", b"worker-007", b"worker-0007/ctl", b"worker-0007\0",
    b"Worker-0007", "worker-٠٠٠٧".encode(), b"worker-0007\x0b", b"worker--001",
]  # fmt: skip

LINES = [
    b"worker-0007 idle -1 0 0 0 0", b"worker-0007 idle 0 0 0 0",
    b"worker-0007 idle 0 0 0 0 1e3", b"worker-0007 idle 0 0 0 9999999999999999999999 0",
    b"worker-0007 idle 1000001 0 0 0 0", b"worker-0007 asleep 0 0 0 0 0", b"worker-0007", b" ",
    b"worker-0007  0 0 0 0 0", b"worker-0007 idle 0 nan 0 0 0",
    b"worker-0007 idle 0 0 0 0 0\nworker-0007 idle 1 0 0 0 0",
    b"\n".join(b"worker-%04d idle 0 0 0 0 0" % number for number in range(10_001)),
    b"\xff", ENDLESS,
]  # fmt: skip


def short(lie: bytes) -> str:
    return ascii(lie[:40])


@pytest.mark.parametrize("lie", STATUS, ids=short)
@story
async def test_a_host_whose_status_is_a_lie_is_refused(lie: bytes) -> None:
    name = lie.partition(b" ")[0]
    lines = [line for line in HONEST["status"].splitlines() if not line.startswith(name)]
    status = lie if lie == ENDLESS else b"\n".join([*lines, lie, b""])
    async with place(status=status) as there:
        with pytest.raises(Error, match="its status file is not understood|is longer than"):
            await there.running.files.write("ctl", f"mount {there.at}")
        await there.stands()


@pytest.mark.parametrize(
    "lie", [*(name + b" idle 0 0 0 0 0" for name in NAMES), *LINES], ids=short
)
@story
async def test_a_host_whose_workers_are_a_lie_is_refused(lie: bytes) -> None:
    async with place(workers=lie if lie == ENDLESS else lie + b"\n") as there:
        with pytest.raises(Error, match="its workers file is not understood|is longer than"):
            await there.running.files.write("ctl", f"mount {there.at}")
        await there.stands()
        assert "worker-0007" not in await there.running.files.ls()
        with pytest.raises(Error, match="not understood|is longer than"):
            await there.running.files.write("registry/new", f"{there.at} epoch 1")
        await there.stands()


@pytest.mark.parametrize("lie", [b"ctl idle 0 0 0 0 0", *LINES], ids=short)
@story
async def test_a_host_that_begins_to_lie_is_given_up(lie: bytes) -> None:
    async with place() as there:
        await there.running.files.write("ctl", f"mount {there.at}")
        worker = there.running.orchestrator._members.workers["worker-0007"]
        there.liar.said["workers"] = lie if lie == ENDLESS else lie + b"\n"
        await until(lambda: worker.health is Health.LOST)
        await there.stands()
        assert await there.running.files.ask("hello") == "simulated: hello"


@story
async def test_a_worker_of_a_strange_name_beside_a_good_one_takes_nothing_with_it() -> None:
    """The whole host is refused."""
    lines = b"worker-0007 idle 0 0 0 0 0\nctl idle 0 0 0 0 0\n"
    async with place(workers=lines) as there:
        with pytest.raises(Error, match="'ctl' is not a worker's name"):
            await there.running.files.write("ctl", f"mount {there.at}")
        await there.stands()


USAGE = HONEST["0/usage"]
ANSWERS = {
    "clone": [b"", b"x", b"-1", b"0/../..", b"\xff", b"9" * 30, b"0 1"],
    "0/out": [b"\xff\xff\xff\xff", b"si", b""],
    "0/tokens": [
        ENDLESS, b"1\n", b"-1 2\n5 4\n", b"x y\n", b"1 -2\n5 4\n", b"115 2\n105 1\n",
        b"1 2 3\n5 4 1\n", b"4294967296 2\n5 4\n", b"115 9\n" * 5000,
        b"1 99999999999999999999\n",
        b"\xff 2\n", b"115 1\n\n", "١ 2\n".encode(),
    ],
    "0/usage": [
        b"", ENDLESS, b"\xff", USAGE.replace(b" 9\n", b" -9\n"), USAGE.replace(b" 9\n", b" 1e9\n"),
        USAGE.replace(b"cached_tokens 0", b"cached_tokens 10"), USAGE.replace(b"stop", b"whatever"),
        USAGE.replace(b"given_tokens 0", b"given_tokens 4"), USAGE.replace(b"1.0", b"nan"),
        USAGE.replace(b"2.0", b"inf"), USAGE.replace(b"1.0", b"-1"),
        USAGE.replace(b"1.0", b"1e308"),
        USAGE.replace(b"completion_tokens 3", b"completion_tokens " + b"9" * 30),
    ],
    "0/logprobs": [
        b"", ENDLESS, b"{}\n", b"[]\n", b"null\n", b"\xff\n", b"[" * 100_000 + b"\n",
        b"[1e999]\n",
        b'{"id":1,"bytes":1000000000000,"logprob":-1,"top_logprobs":[]}\n' * 2,
        b'{"id":1,"bytes":[300],"logprob":-1,"top_logprobs":[]}\n' * 2,
        b'{"id":1,"bytes":[65],"logprob":NaN,"top_logprobs":[]}\n' * 2,
        b'{"id":1,"bytes":[65],"logprob":5,"top_logprobs":[]}\n' * 2,
        b'{"id":-1,"bytes":[65],"logprob":-1,"top_logprobs":[]}\n' * 2,
        b'{"id":1,"bytes":[65],"logprob":-1,"top_logprobs":{}}\n' * 2,
        b'{"id":1,"bytes":[65],"logprob":-1,"top_logprobs":[' + b"1," * 99 + b"1]}\n",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "lie"),
    [(file, lie) for file, lies in ANSWERS.items() for lie in lies],
    ids=[f"{file} {short(lie)}" for file, lies in ANSWERS.items() for lie in lies],
)
@story
async def test_an_answer_that_is_a_lie_is_asked_of_another(file: str, lie: bytes) -> None:
    async with place(**{file: lie}) as there:
        await there.running.files.write("ctl", f"mount {there.at}")
        if file == "0/logprobs":
            await there.running.files.write("ctl", "logprobs 1")
        for number in range(2):  # in turn, so that one of them is the liar's at first
            answer = await there.running.files.ask(f"hello {number}")
            assert answer == f"simulated: hello {number}"
        usage = await there.running.files.attrs("usage")
        assert usage["finish_reason"] == "stop"
        await there.stands()


@story
async def test_an_answer_without_an_end_has_one() -> None:
    async with place(**{"0/out": ENDLESS}) as there:
        await there.running.files.write("ctl", f"mount {there.at}")
        for number in range(2):
            with contextlib.suppress(Error):  # what was passed on may be nobody else's answer
                assert len(await there.running.files.ask(f"hello {number}")) < 2**20
        await there.stands()


@story
async def test_words_of_a_host_do_nothing_to_a_terminal_and_have_an_end(tmp_path: Path) -> None:
    class Refusing(Liar):
        def attach(self, user: User, aname: str) -> File:
            raise Error("\x1b[2J" + "no\n" * 10_000)

    server = Server(Refusing().attach)
    at = await server.listen(ANYWHERE)
    async with cluster() as running:
        with pytest.raises(Error) as e:
            await running.files.write("ctl", f"mount {at}")
        assert str(e.value).isprintable() and len(str(e.value)) < 5000
    await server.close()
