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
from .base import PROGRAM, End

LOG_BYTES = 1 << 20
"""when there is more, it moves to `NAME.log.1` and the log begins anew"""
_TAIL_BYTES = 16 << 10
_LAST_WORDS = r"[^/]*GGML_ASSERT.*|host is lost: .*"
_ASKED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
"""signals by which others end a process"""


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


def end(status: int | None, log: FileLog) -> End:
    """How a process ended.  `status` is negative for a signal, and None when nobody knows it."""
    if status is None:
        return End("host ended", crashed=None)
    lines = log.lines()
    if status < 0:
        name = {each.value: each.name for each in signal.Signals}.get(-status, f"signal {-status}")
        failed = (re.search(_LAST_WORDS, line) for line in lines)
        reason = ": ".join([name, *(found[0] for found in failed if found)])
        return End(reason, crashed=None if -status == signal.SIGKILL else -status not in _ASKED)
    if status == 0 or not lines:
        return End(f"host ended with {status}", crashed=status != 0)
    return End(lines[-1].removeprefix(f"{PROGRAM}: "), crashed=True)


def start_error(status: int, log: FileLog, model: str) -> Error:
    """Why a host ended before it listened."""
    reason = end(status, log).reason
    if status < 0:
        return ModelError(f"loading {model} crashed llama.cpp: {reason}")
    return Error(reason)
