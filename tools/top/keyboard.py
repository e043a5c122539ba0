"""Keys as they are pressed, by name, for as long as a `Keyboard` is open.

^C and ^Z stay what they are: signals.
"""

from __future__ import annotations

import os
import termios
import tty
from typing import Self

_SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "pgup",
    b"\x1b[6~": "pgdn",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1bOH": "home",
    b"\x1bOF": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
}


class Keyboard:
    """The terminal behind a file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._before = termios.tcgetattr(fd)

    def __enter__(self) -> Self:
        tty.setcbreak(self.fd, termios.TCSANOW)
        return self

    def __exit__(self, *exc: object) -> None:
        termios.tcsetattr(self.fd, termios.TCSANOW, self._before)

    def read(self) -> list[str]:
        """Those pressed; waits for one.  `eof` when there is no terminal any more."""
        try:
            data = os.read(self.fd, 1024)
        except OSError:
            data = b""
        return names(data) if data else ["eof"]


def names(data: bytes) -> list[str]:
    """What a terminal sent, key by key; a sequence that nobody knows is none."""
    found = []
    while data:
        sequence = next((s for s in _SEQUENCES if data.startswith(s)), None)
        if sequence is not None:
            found.append(_SEQUENCES[sequence])
            data = data[len(sequence) :]
        elif data.startswith(b"\x1b"):
            return found
        else:
            found.append(chr(data[0]))
            data = data[1:]
    return found
