"""dish as a user runs it, and the trees that it runs on."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from llambo9p_tools.commands.dish import dish as command_line
from llambo9p_tools.failure import Failure

from llambo9p.errors import WorkerLost
from llambo9p.fs.stream import Stream
from llambo9p.fs.tree import Directory, TextFile, Tree
from llambo9p.net.address import parse
from llambo9p.net.server import Server
from tests.tools.cluster import OutFile, PromptFile, ScriptedCluster, environment

DISH = [sys.executable, "-m", "llambo9p_tools.commands.dish"]


def dish(*words: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    """The program, run to its end, with nothing that is a terminal."""
    return subprocess.run(
        [*DISH, *words], input=stdin, capture_output=True, env=environment(**env), timeout=60
    )


class Scripts:
    """Scripts on one cluster, in this process, which starts faster than another."""

    def __init__(self, address: str, capture: pytest.CaptureFixture[str]) -> None:
        self.address = address
        self._capture = capture

    def _run(self, script: str, *words: str) -> tuple[str | None, str]:
        """Why it failed, and what it printed."""
        command = ["--addr", self.address, "-c", script, *words]
        self._capture.readouterr()
        try:
            code = command_line.main(command, prog_name="dish", standalone_mode=False)
        except Failure as e:
            return e.message, self._capture.readouterr().out
        return f"exit {code}" if code else None, self._capture.readouterr().out

    def out(self, script: str, *words: str) -> str:
        """What it prints when it succeeds."""
        why, printed = self._run(script, *words)
        assert why is None
        return printed

    def error(self, script: str, *words: str) -> str:
        """What it says when it fails, and has printed nothing."""
        why, printed = self._run(script, *words)
        assert why is not None and printed == ""
        return why


class Workers(ScriptedCluster):
    """`count` workers, of which none answers before all were asked; the last one fails
    when it `fails`."""

    def __init__(self, count: int, fails: bool = False) -> None:
        self.count = count
        self.fails = fails
        super().__init__()

    async def _start(self) -> None:
        self.tree = tree = Tree("glenda")
        root = Directory(tree, "/")
        root.add(TextFile(tree, "status", lambda: f"workers {self.count}\n"))
        self.streams = [Stream() for _ in range(self.count)]
        self.prompts = []
        for number, stream in enumerate(self.streams):
            worker = root.add(Directory(tree, f"worker-{number:04d}"))
            prompt = worker.add(PromptFile(tree))
            prompt.submitted = _Asked(self._answer)
            self.prompts.append(prompt)
            worker.add(OutFile(tree, "out", stream))
        self.server = Server(lambda uname, aname: root)
        self.address = str(await self.server.listen(parse("tcp!127.0.0.1!0")))

    def _answer(self) -> None:
        if all(prompt.submitted for prompt in self.prompts):
            # the first comes last
            for number, stream in reversed([*enumerate(self.streams)]):
                if self.fails and number == self.count - 1:
                    stream.fail(WorkerLost())
                    continue
                stream.append(f"answer {number}\nof two lines".encode())
                stream.finish()


class _Asked(list[bytes]):
    def __init__(self, then: Any) -> None:
        self._then = then

    def append(self, prompt: bytes) -> None:
        super().append(prompt)
        self._then()
