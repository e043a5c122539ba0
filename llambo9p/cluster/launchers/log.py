"""A host's log: a file that the host itself appends to, and what its end says of the host's.

It is bounded from outside, by copying and truncating, as what a crash of llama.cpp says comes
from no code of ours.  So what was written lies in two files, and a reader's position, which
counts bytes from the file's beginning when this was made, goes over from the one to the other.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path
from typing import BinaryIO

from ...errors import Error, ModelError, Stale
from .base import PROGRAM

LOG_BYTES = 1 << 20
"""when there is more, it moves to `NAME.log.1` and the log begins anew"""
_TAIL_BYTES = 16 << 10


class FileLog:
    """Have one for a path, or positions would not be kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = Path(f"{path}.1")
        self._moved = 0
        """the position of the file's first byte"""
        self._begin = 0
        """what is before is of an earlier host of that name"""

    def open(self) -> BinaryIO:
        """For one more host to append to.  Raises Error."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self.path, flags, 0o600)
            self.bound()
            self._begin = os.fstat(fd).st_size
        except OSError as e:
            raise Error(f"cannot write the log {self.path}: {e.strerror}") from e
        return os.fdopen(fd, "ab")

    def bound(self) -> None:
        """Raises OSError."""
        if self.path.stat().st_size > LOG_BYTES:
            shutil.copyfile(self.path, self._before)
            os.truncate(self.path, 0)
            self._moved += _size(self._before)
            self._begin = 0

    def begin(self) -> int:
        return self._moved - _size(self._before)

    def read(self, position: int, count: int) -> bytes:
        if position >= self._moved:
            return self._read(self.path, position - self._moved, count)
        if position < self.begin():
            raise Stale(f"{Stale.ename}: the log has moved on, open it again")
        return self._read(self._before, position - self.begin(), count)

    def _read(self, path: Path, offset: int, count: int) -> bytes:
        try:
            with path.open("rb") as file:
                if offset > os.fstat(file.fileno()).st_size:  # somebody truncated it
                    raise Stale(f"{Stale.ename}: the log began anew, open it again")
                file.seek(offset)
                return file.read(count)
        except OSError as e:
            raise Error(f"cannot read the log {path}: {e.strerror}") from e

    def lines(self) -> list[str]:
        """The last ones of the host that it was opened for."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                begin = self._begin if self._begin <= size else 0  # it has begun anew
                file.seek(max(begin, size - _TAIL_BYTES))
                return file.read().decode(errors="replace").splitlines()
        except OSError:
            return []


def _size(path: Path) -> int:
    """0 of what is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def why(status: int | None, log: FileLog) -> str:
    """Why a process ended, which did with `status`, negative for a signal, None when nobody
    knows."""
    if status is None:
        return "host ended"
    lines = log.lines()
    if status < 0:
        name = {each.value: each.name for each in signal.Signals}.get(-status, f"signal {-status}")
        failed = (re.search(r"[^/]*GGML_ASSERT.*", line) for line in lines)
        return ": ".join([name, *(found[0] for found in failed if found)])
    if status == 0 or not lines:
        return f"host ended with {status}"
    return lines[-1].removeprefix(f"{PROGRAM}: ")


def start_error(status: int, log: FileLog, model: str) -> Error:
    """As `why`, of a host that ended before it listened."""
    if status < 0:
        return ModelError(f"loading {model} crashed llama.cpp: {why(status, log)}")
    return Error(why(status, log))
