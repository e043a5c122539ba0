"""dish as a user runs it, the trees that it runs on, and what is then on the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from typing import Any

import pyte
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
_PATIENCE_S = 15.0


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


class Screen:
    """dish on a terminal of its own, and what is on that."""

    def __init__(self, *words: str, columns: int = 80, lines: int = 24, **env: str) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        wanted = {"PROMPT_TOOLKIT_NO_CPR": "1", "LINES": str(lines), "COLUMNS": str(columns)}
        try:
            self.process = subprocess.Popen(
                ["setsid", "--ctty", *DISH, *words],  # else ^C would be no signal
                stdin=slave, stdout=slave, stderr=slave,
                env=environment(**wanted, **env),
            )  # fmt: skip
        finally:
            os.close(slave)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def enter(self, line: str) -> None:
        self.type(f"{line}\r")

    def wait_for(self, text: str) -> None:
        """Until it can be seen."""
        deadline = time.monotonic() + _PATIENCE_S
        while text not in self.text:
            assert time.monotonic() < deadline, f"no {text!r} in\n{self.text}"
            self._read(0.1)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux's end of a terminal that nobody has open
            return False
        self._stream.feed(data)
        return True

    def finish(self) -> int:
        """Its exit code, once it has ended by itself."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._read(0.1):
            assert time.monotonic() < deadline, self.text
        return self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
