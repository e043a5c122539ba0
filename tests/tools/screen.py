"""llamboctl on a terminal whose screen is looked at: what is where after all escape sequences."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
from collections.abc import Callable
from typing import Self

import pyte

from .cluster import COMMAND, environment


class Screen:
    """As a context it ends the program when that has not ended."""

    def __init__(self, *args: str, columns: int = 80, lines: int = 24, **env: str) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.seen = b""
        """all that was sent to the terminal"""
        self._master, slave = pty.openpty()
        self._tell_size(columns, lines)
        own = {name: value for name, value in environment(**env).items() if name != "COLUMNS"}
        try:
            self.process = subprocess.Popen(
                # a shell's background job, and so its tests, would ignore SIGINT
                ["env", "--default-signal=INT", *COMMAND, *args],
                stdin=slave, stdout=slave, stderr=slave,
                env=own, preexec_fn=_controlling,
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
        """What is on the screen as soon as that is as it should; the test's time limit bounds
        it."""
        while not condition(self.text):
            assert self._read(), f"it ended with\n{self.text}"
        return self.text

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def resize(self, columns: int, lines: int) -> None:
        self._screen.resize(lines, columns)
        self._tell_size(columns, lines)

    def finish(self) -> int:
        """Its exit code."""
        while self._read():
            pass
        return self.process.wait()

    def _read(self) -> bool:
        select.select([self._master], [], [])
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux's end of a terminal that nobody has open
            data = b""
        self.seen += data
        self._stream.feed(data)
        return bool(data)

    def _tell_size(self, columns: int, lines: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)


def _controlling() -> None:
    """In the child: the terminal is its own, so that ^C and a new size are its signals."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
