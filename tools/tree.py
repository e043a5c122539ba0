"""What the tools see of a cluster: a tree of files, and nothing else.

Owns the two interfaces that commands are written against, and what follows from them.
A `remote.Remote` does what it is asked over 9P; an `explain.Explained` writes it down as
what a shell would do on a mount.  Whatever goes wrong is a `Failure` that names the path.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

from py9p.constants import DMDIR, OREAD, OWRITE
from py9p.messages import Dir
from py9p.native import decode_dir

from llambo9p.errors import Stale

from .failure import Failure, NoCluster

_FOLLOW_S = 0.5
"""between looks at a file that grows"""


class _Moved(Failure):
    """What was to be read next is gone."""


@contextlib.contextmanager
def _moving() -> Iterator[None]:
    try:
        yield
    except Failure as e:
        if Stale.ename not in e.message:
            raise
        raise _Moved(e.message) from None


class OpenFile(ABC):
    """As a context it is closed at the end, and what the close says counts."""

    is_directory: bool
    iounit: int
    """bytes that one read or write may carry"""

    @abstractmethod
    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """The file from there to its end, each piece as it comes."""

    @abstractmethod
    def write(self, data: bytes, offset: int = 0) -> None: ...

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, exc_type: type[BaseException] | None, *exc: object) -> None: ...


class Tree(ABC):
    """Paths are from the root; a leading `/` makes no difference."""

    @abstractmethod
    def open(self, path: str, mode: int = OREAD) -> OpenFile: ...

    @abstractmethod
    def stat(self, path: str) -> Dir: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def read(self, path: str) -> bytes:
        """The whole of a file that ends by itself."""
        with self.open(path) as f:
            return b"".join(f.chunks())

    def text(self, path: str) -> str:
        return self.read(path).decode(errors="replace")

    def texts(self, path: str) -> Iterator[str]:
        """Those of a directory's files; what goes while we look is left out."""
        for entry in self.entries(path):
            try:
                yield self.text(f"{path}/{entry.name}")
            except NoCluster:
                raise
            except Failure:
                continue

    def write(self, path: str, data: bytes) -> None:
        """One open, as many writes as it takes, and a close, which may fail, too."""
        with self.open(path, OWRITE) as f:
            f.write(data)

    def follow(self, path: str) -> Iterator[bytes]:
        """A file that grows: what there is, b"" whenever that is all, and then what comes.  One
        whose next bytes are not kept any more is read anew."""
        while True:
            with contextlib.suppress(_Moved), self.open(path) as f:
                offset = 0
                while True:
                    with _moving():
                        for data in f.chunks(offset):
                            offset += len(data)
                            yield data
                    yield b""
                    time.sleep(_FOLLOW_S)

    def entries(self, path: str) -> list[Dir]:
        """A directory's entries in its own order; of a file, itself."""
        found = self.stat(path)
        if not found.mode & DMDIR:
            return [found]
        data = self.read(path)
        entries = []
        while data:
            size = 2 + int.from_bytes(data[:2], "little")
            entries.append(decode_dir(data[:size]))
            data = data[size:]
        return entries


def lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Each with its newline, but maybe the last."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest
