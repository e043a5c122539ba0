"""`llamboctl --explain`: a command as what a shell would do on a mount of the tree.

`Explained` is a tree of which nobody reads anything: it answers with names that a shell
makes something of, `*` for the entries of a directory and `$n` for the number that a
`clone` gives, and keeps a line of sh for each operation.  These lines, run where the tree
is mounted, do what the command does; the tests hold them to it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

from py9p.constants import DMDIR, ORDWR, OREAD
from py9p.messages import Dir

from .tree import OpenFile, Tree

_IOUNIT = 1 << 16
_FIRST_FD = 3


class Explained(Tree):
    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` is given each line."""
        self._tell = tell
        self._fds = _FIRST_FD

    def open(self, path: str, mode: int = OREAD) -> OpenFile:
        if mode & 3 != ORDWR:
            return _File(self._tell, path)
        file = _Descriptor(self._tell, self._fds, path)
        self._fds += 1
        return file

    def stat(self, path: str) -> Dir:
        return Dir(name=path, mode=DMDIR)

    def entries(self, path: str) -> list[Dir]:
        self._tell(f"ls {_word(path)}" if path.strip("/") else "ls")
        return [Dir(name="*")]

    def follow(self, path: str) -> Iterator[bytes]:
        self._tell(f"exec {self._fds}<{_word(path)}")
        self._tell(f"while cat <&{self._fds}; do sleep 1; done")
        return iter(())

    def close(self) -> None:
        """Nothing is held."""


class _File(OpenFile):
    """Read or written as a whole, by name."""

    is_directory = False
    iounit = _IOUNIT

    def __init__(self, tell: Callable[[str], None], path: str) -> None:
        self._tell = tell
        self._path = path
        self._written: bytes | None = None

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        self._tell(f"cat {_word(self._path)}")
        return iter(())

    def write(self, data: bytes, offset: int = 0) -> None:
        self._written = (self._written or b"") + data

    def __exit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        if self._written is not None:
            self._tell(f"{_say(self._written)} >{_word(self._path)}")


class _Descriptor(OpenFile):
    """Open for reading and writing: what is said on it depends on what was."""

    is_directory = False
    iounit = _IOUNIT

    def __init__(self, tell: Callable[[str], None], fd: int, path: str) -> None:
        self._tell = tell
        self._fd = fd
        self._is_clone = path.rpartition("/")[2] == "clone"
        tell(f"exec {fd}<>{_word(path)}")

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        if self._is_clone:
            self._tell(f"read n <&{self._fd}")
            return iter((b"$n",))
        self._tell(f"cat <&{self._fd}")
        return iter(())

    def write(self, data: bytes, offset: int = 0) -> None:
        if data:
            self._tell(f"{_say(data)} >&{self._fd}")

    def __exit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        self._tell(f"exec {self._fd}>&-")


def _word(path: str) -> str:
    """As it stands in a command; the shell finds what `*` and `$n` stand for."""
    names = [name for name in path.split("/") if name]
    return "/".join(name if name in ("*", "$n") else shlex.quote(name) for name in names)


def _say(data: bytes) -> str:
    """The command that writes `data` and nothing else to standard output."""
    text = data.decode("utf-8", "surrogateescape")
    line = text.removesuffix("\n")
    if text.endswith("\n") and "\\" not in line and not line.startswith("-"):
        return f"echo {shlex.quote(line)}"
    return f"printf %s {shlex.quote(text)}"
