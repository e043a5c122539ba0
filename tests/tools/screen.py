"""A tool on a terminal whose screen is looked at: what is where after all escape sequences."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import pyte

from .cluster import environment

PATIENCE_S = 15.0


class _Screen(pyte.Screen):
    """Answers what programs ask a terminal."""

    answer: Callable[[bytes], object]

    def write_process_input(self, data: str) -> None:
        self.answer(data.encode())


class Screen:
    """As a context it ends the program when that has not ended."""

    def __init__(
        self,
        command: Sequence[str],
        columns: int = 80,
        lines: int = 24,
        cwd: Path | None = None,
        **env: str,
    ) -> None:
        self.columns = columns
        self._master, slave = pty.openpty()
        self._screen = _Screen(columns, lines)
        self._screen.answer = lambda data: os.write(self._master, data)
        self._stream = pyte.ByteStream(self._screen)
        self.seen = b""
        """all that was sent to the terminal"""
        termios.tcsetwinsize(slave, (lines, columns))
        own = {name: value for name, value in environment(**env).items() if name != "COLUMNS"}
        # so that ^C and a new size are its signals; and a shell's background job, and so its
        # tests, would ignore SIGINT
        as_a_shell_does = ["env", "--default-signal=INT", "setsid", "--ctty"]
        try:
            self.process = subprocess.Popen(
                [*as_a_shell_does, *command],
                stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=own,
            )  # fmt: skip
        finally:
            os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, condition: Callable[[str], object]) -> str:
        """What is on the screen as soon as that is as it should."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition(self.text):
            assert self._read(deadline), f"it ended with\n{self.text}"
        return self.text

    def wait_for(self, *texts: str, times: int = 1) -> None:
        """Until all can be seen, each so many times."""
        self.until(lambda shown: all(shown.count(text) >= times for text in texts))

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def enter(self, line: str) -> None:
        self.type(f"{line}\r")

    def resize(self, columns: int, lines: int) -> None:
        self._screen.resize(lines, columns)
        termios.tcsetwinsize(self._master, (lines, columns))

    def finish(self) -> int:
        """Its exit code, once it has ended by itself."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        return self.process.wait()

    def _read(self, deadline: float) -> bool:
        left = max(deadline - time.monotonic(), 0)
        assert select.select([self._master], [], [], left)[0], self.text
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux's end of a terminal that nobody has open
            data = b""
        self.seen += data
        self._stream.feed(data)
        return bool(data)
