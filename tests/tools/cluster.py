"""What the tests of llamboctl talk to: a scripted tree in this process, real clusters, and
the program itself, run as a user runs it, in a pipe or in a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from llambo9p.errors import Busy, InvalidArgument
from llambo9p.fs.ctl import Action, Command, Commands, CtlFile
from llambo9p.fs.file import OpenFile
from llambo9p.fs.stream import Stream
from llambo9p.fs.tree import Directory, SyntheticFile, TextFile, Tree
from llambo9p.net.address import parse
from llambo9p.net.server import Server
from llambo9p.p9.messages import Tread, Twrite
from llambo9p.p9.node import Maybe

LINE = (
    "worker-0000 idle 0 0 0 0 0 healthy closed 4 - 1 1700000000.500 tiny tcp!127.0.0.1!9000 "
    "/models/some/where.gguf\n"
)
NODE = """id {id}
addr tcp!127.0.0.1!9000
type tiny
state idle
model /models/some/where.gguf
capacity 4
load 0
queued 0
requests 0
tokens 0
errors 0
heartbeat 1700000000.5
epoch 1
"""


VERBS = ("scale", "load", "drain", "save")
"""that a scripted cluster knows besides `spawn`"""


class Query(OpenFile):
    """`data`: the answer comes back by a cursor, whatever the offset; never, when it was asked
    to wait."""

    def __init__(self) -> None:
        self.asked = b""
        self.answer: bytes | None = None

    def write(self, offset: int, data: bytes) -> int:
        self.asked += data
        return len(data)

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        if self.asked == b"wait":
            return asyncio.get_running_loop().create_future()
        if self.answer is None:
            self.answer = b"You said: " + self.asked
        piece, self.answer = self.answer[:5], self.answer[5:]
        return piece


class DataFile(SyntheticFile):
    def open(self, mode: int) -> OpenFile:
        return Query()


class Blocking(OpenFile):
    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        return self.stream.read(offset, count)


class OutFile(SyntheticFile):
    def __init__(self, tree: Tree, name: str, stream: Stream) -> None:
        super().__init__(tree, name, 0o444)
        self.stream = stream

    def open(self, mode: int) -> OpenFile:
        return Blocking(self.stream)


class Buffer(OpenFile):
    """`prompt`: what it got is judged when it is clunked."""

    def __init__(self, file: PromptFile) -> None:
        self.file = file
        self.data = b""

    def write(self, offset: int, data: bytes) -> int:
        assert offset == len(self.data)
        self.data += data
        return len(data)

    def clunk(self) -> None:
        if b"too much" in self.data:
            raise Busy
        self.file.submitted.append(self.data)


class PromptFile(SyntheticFile):
    def __init__(self, tree: Tree) -> None:
        super().__init__(tree, "prompt", 0o666)
        self.submitted: list[bytes] = []

    def open(self, mode: int) -> OpenFile:
        return Buffer(self)


class ScriptedCluster:
    """Served on a thread of its own.  Verbs wait for `may_spawn`; `out` and `events` are
    `stream`, which only `call` may touch."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.call(self._start())

    async def _start(self) -> None:
        self.tree = tree = Tree("glenda")
        self.loading = ""
        self.may_spawn = asyncio.Event()
        self.spawning = threading.Event()
        self.stream = Stream()
        root = Directory(tree, "/")
        self.nodes = Directory(tree, "nodes")
        self.prompt = PromptFile(tree)
        spawn = Command("spawn", "--count N --type T", 0, 4, self._spawn)
        verbs = [Command(verb, "", 0, 9, lambda words: self._spawn_later) for verb in VERBS]
        root.add(CtlFile(tree, "ctl", lambda: "", Commands([spawn, *verbs])))
        root.add(TextFile(tree, "status", lambda: "workers 1\nstrategy random\n" + self.loading))
        root.add(self.nodes)
        root.add(TextFile(tree, "workers", lambda: LINE))
        root.add(self.prompt)
        root.add(OutFile(tree, "out", self.stream))
        root.add(OutFile(tree, "events", self.stream))
        root.add(DataFile(tree, "data", 0o666))
        root.add(TextFile(tree, "two words", lambda: "found\n"))
        root.add(TextFile(tree, "long", lambda: "0123456789" * 30_000))
        self.add_node(0)
        self.server = Server(lambda uname, aname: root)
        self.address = str(await self.server.listen(parse("tcp!127.0.0.1!0")))

    def add_node(self, number: int) -> None:
        name = f"worker-{number:04d}"
        self.nodes.add(TextFile(self.tree, name, lambda: NODE.format(id=name)))

    def _spawn(self, words: Any) -> Action:
        if "--type" in words and words[words.index("--type") + 1] != "tiny":
            raise InvalidArgument("no node type 'huge'; types are tiny")
        return self._spawn_later

    async def _spawn_later(self) -> None:
        self.loading = "loading worker-0001 40\n"
        self.spawning.set()
        await self.may_spawn.wait()
        self.loading = ""
        self.add_node(1)
        self.add_node(2)

    def has_waiting(self) -> bool:
        """Whether a client waits for the answer to a read or write."""

        async def waits() -> bool:
            return any(
                isinstance(request.msg, Tread | Twrite)
                for connection in self.server.connections
                for request in connection._conn.requests.values()
            )

        return bool(self.call(waits()))

    def die(self) -> None:
        """As if it was killed."""

        async def abort() -> None:
            await self.server.close()
            for connection in list(self.server.connections):
                connection.abort()

        self.call(abort())

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def do(self, function: Any, *args: Any) -> None:
        """Call `function` on the server's thread."""

        async def run() -> None:
            function(*args)

        self.call(run())

    def close(self) -> None:
        self.call(self.server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


COMMAND = [sys.executable, "-m", "llambo9p_tools.llamboctl"]


def environment(**changes: str) -> dict[str, str]:
    own = {"LLAMBO_ADDR", "LLAMBO_STATE", "CLUSTER_CONFIG"}
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return {**kept, "TERM": "xterm", "COLUMNS": "100", **changes}


def llamboctl(
    *args: str, stdin: bytes = b"", cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run to its end, with nothing that is a terminal."""
    return subprocess.run(
        [*COMMAND, *args],
        input=stdin, capture_output=True, cwd=cwd, env=environment(**env), timeout=60,
    )  # fmt: skip


CONFIG = """
cluster:
  nodes:
    tiny:
      count: 2
      resources: {model: simulated, memory: 16MB}
    broken:
      count: 1
      resources: {model: /nowhere/model.gguf}
"""


class Cluster:
    """A state file and a configuration, and llamboctl with both; `env` is for that, too."""

    def __init__(self, directory: Path, **env: str) -> None:
        self.state = directory / "state"
        self.config = directory / "cluster-config.yaml"
        self.config.write_text(CONFIG)
        self.env = {"LLAMBO_STATE": str(self.state), "CLUSTER_CONFIG": str(self.config), **env}

    def run(self, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return llamboctl(*args, stdin=stdin, **self.env)

    def out(self, *args: str, stdin: bytes = b"") -> str:
        done = self.run(*args, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    def error(self, *args: str) -> str:
        done = self.run(*args)
        assert (done.returncode, done.stdout) == (1, b"")
        [line] = done.stderr.decode().splitlines()
        return line

    def pid(self) -> int:
        pid = json.loads(self.state.read_text())["pid"]
        assert isinstance(pid, int)
        return pid


class Terminal:
    """llamboctl in a terminal of its own."""

    def __init__(self, *args: str, **env: str) -> None:
        self._master, slave = pty.openpty()
        self._seen = b""
        try:
            self.process = subprocess.Popen(
                [*COMMAND, *args],
                stdin=slave, stdout=slave, stderr=slave,
                env=environment(**env), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(slave)

    def wait_for(self, text: bytes) -> None:
        """Until it has shown `text`."""
        while text not in self._seen:
            self._seen += self._read()

    def _read(self) -> bytes:
        data = os.read(self._master, 4096)
        assert data, self._seen
        return data

    def finish(self) -> tuple[int, bytes]:
        """Its exit code and all that was on the screen."""
        try:
            while True:
                self._seen += self._read()
        except OSError:  # Linux's end of a terminal that nobody has open
            os.close(self._master)
        return self.process.wait(), self._seen

    def type(self, text: bytes) -> None:
        os.write(self._master, text)
