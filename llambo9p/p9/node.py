"""What `ServerConn` asks of a file, as types only.

`llambo9p.fs.file` holds the classes that implement it and the contract in
words: what has been checked before a call, what may run at once, how things end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from .wire import Dir, Qid

_T = TypeVar("_T")
Maybe: TypeAlias = _T | Awaitable[_T]
"""a result at once, or an awaitable of it"""


class Listing(list[Dir]):
    """A directory's entries for as long as it does not change: each form in which they
    are sent is made once, for all who read them."""

    __slots__ = ("_forms",)

    def __init__(self, entries: Iterable[Dir]) -> None:
        super().__init__(entries)
        self._forms: dict[Callable[[Sequence[Dir]], list[bytes]], list[bytes]] = {}

    def packed(self, pack: Callable[[Sequence[Dir]], list[bytes]]) -> list[bytes]:
        form = self._forms.get(pack)
        if form is None:
            form = self._forms[pack] = pack(self)
        return form


class Handle(Protocol):
    """What one open fid has."""

    @property
    def held(self) -> int: ...

    def read(self, offset: int, count: int) -> Maybe[bytes]: ...

    def readdir(self) -> Maybe[Sequence[Dir]]: ...

    def write(self, offset: int, data: bytes) -> Maybe[int]: ...

    def truncate(self) -> None: ...

    def sync(self) -> Maybe[None]: ...

    def clunk(self) -> Maybe[None]: ...

    def drop(self) -> None: ...


class Node(Protocol):
    """A file of the served tree."""

    @property
    def qid(self) -> Qid: ...

    def walk(self, names: Sequence[str]) -> Maybe[Walk]: ...

    def open(self, mode: int) -> Maybe[Handle]: ...

    def create(self, name: str, perm: int, mode: int) -> Maybe[tuple[Node, Handle]]: ...

    def remove(self) -> Maybe[None]: ...

    def stat(self) -> Maybe[Dir]: ...

    def wstat(self, stat: Dir, handle: Handle | None) -> Maybe[None]: ...

    def opened(self) -> None: ...

    def release(self, was_open: bool) -> None: ...


class Walk(NamedTuple):
    """How far a walk came: the qids of the names that exist, and the file it
    ended at when that is all of them, else why it stopped."""

    qids: Sequence[Qid]
    file: Node | None
    error: Exception | None = None
