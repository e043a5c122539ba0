"""Directories, and the two static kinds of file: the tree's shape.

A `Tree` numbers the files of one server: qid.path is unique in it and never used
again.  A `Directory` holds its children by name, in the order they were added;
listings are snapshots, so a tree may change while it is read, and are made once until
something changes: a child's stat must not (its times do not, its contents have no stat).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from ..errors import Exists, NotFound, PermissionDenied
from ..p9 import constants as c
from ..p9.node import Listing, Maybe, Walk
from ..p9.wire import Dir, Qid
from . import user
from .file import File, OpenFile
from .pending import Pending

F = TypeVar("F", bound=File)


class Tree:
    """Numbers the files of one server and says who owns them: by default whoever runs
    this process."""

    def __init__(self, owner: str | None = None, first: int = 1) -> None:
        """`first` is the first qid.path.  A server whose clients stay when it is started
        again takes one by chance, so that its new files are not taken for the old ones."""
        self.owner = owner or user.owner().name
        self._paths = itertools.count(first)
        self._mounts = itertools.count(1)
        self._others = {self.owner: self}

    def owned_by(self, owner: str) -> Tree:
        """The same tree, for files of somebody else."""
        tree = self._others.get(owner)
        if tree is None:
            tree = self._others[owner] = Tree(owner)
            tree._paths, tree._mounts, tree._others = self._paths, self._mounts, self._others
        return tree

    def qid(self, type: int = c.QTFILE) -> Qid:
        return Qid(type, 0, next(self._paths))

    def mount_prefix(self, bits: int) -> int:
        """Upper bits for the qid paths of one mounted server, above `bits` of its own.

        2**(64 - bits) - 1 mounts can be made in a tree's life; our own paths stay
        below 2**bits.
        """
        return next(self._mounts) << bits


class Uses:
    """How often a group of files is in use; `unused` is called when it is so no more."""

    __slots__ = ("_unused", "count")

    def __init__(self, unused: Callable[[], None]) -> None:
        self.count = 0
        self._unused = unused

    def retain(self) -> None:
        self.count += 1

    def release(self) -> None:
        self.count -= 1
        if self.count == 0:
            self._unused()


class SyntheticFile(File):
    """A file of this process: its qid comes from its tree.

    `opens` counts the open fids of a group that this file belongs to; children of a
    `Directory` belong to their parent's group.
    """

    __slots__ = ("opens", "tree")

    def __init__(self, tree: Tree, name: str, perm: int, qid: Qid | None = None) -> None:
        super().__init__(name, perm, qid or tree.qid(), tree.owner, int(time.time()))
        self.tree = tree
        self.opens: Uses | None = None

    def opened(self) -> None:
        if self.opens is not None:
            self.opens.retain()

    def release(self, was_open: bool) -> None:
        if was_open and self.opens is not None:
            self.opens.release()


class OpenDirectory(OpenFile):
    __slots__ = ("_directory",)

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def readdir(self) -> Maybe[Sequence[Dir]]:
        return self._directory.entries()


class Directory(SyntheticFile):
    """A directory of files by name.

    With `fill` its files are made, by `fill(directory)`, when it is first looked into:
    one that nobody visits costs next to nothing.
    """

    __slots__ = ("_children", "_entries", "_fill", "parent")

    def __init__(
        self,
        tree: Tree,
        name: str,
        perm: int = 0o555,
        fill: Callable[[Directory], None] | None = None,
    ) -> None:
        super().__init__(tree, name, c.DMDIR | perm, tree.qid(c.QTDIR))
        self.parent: Directory = self
        """the root's parent is itself"""
        self._fill = fill
        self._children: dict[str, File] = {}
        self._entries: Listing | None = None
        """the listing, until a child comes or goes"""

    def add(self, child: F) -> F:
        """Give `child` a place here.  Raises `Exists`."""
        if child.name in self._children:
            raise Exists(f"{child.name} already exists")
        self._children[child.name] = child
        self._entries = None
        if isinstance(child, SyntheticFile) and child.opens is None:
            child.opens = self.opens
        if isinstance(child, Directory):
            child.parent = self
        return child

    def discard(self, name: str) -> None:
        """Take a child out; fids that point at it keep it."""
        self._children.pop(name, None)
        self._entries = None

    def set_version(self, vers: int) -> None:
        """Of its qid, for a directory that counts its changes."""
        self.qid = self.qid._replace(vers=vers & 0xFFFF_FFFF)
        self.parent._entries = None

    @property
    def children(self) -> Iterable[File]:
        return self._filled().values()

    def _filled(self) -> dict[str, File]:
        if self._fill is not None:
            fill, self._fill = self._fill, None
            fill(self)
        return self._children

    def find(self, name: str) -> File | None:
        """The child of that name."""
        return self._filled().get(name)

    def entries(self) -> Maybe[Sequence[Dir]]:
        """A stat of each child."""
        children = self._filled()
        if self._entries is None:
            self._entries = Listing(stat_now(child) for child in children.values())
        return self._entries

    def walk(self, names: Sequence[str]) -> Maybe[Walk]:
        qids: list[Qid] = []
        here: File = self
        for i, name in enumerate(names):
            if not isinstance(here, Directory):
                rest = here.walk(names[i:])
                if isinstance(rest, Walk):
                    return Walk([*qids, *rest.qids], rest.file, rest.error)
                return joined(qids, rest)
            child = here.parent if name == ".." else here.find(name)
            if child is None:
                return Walk(qids, None, NotFound())
            qids.append(child.qid)
            here = child
        if isinstance(here, Directory):
            return Walk(qids, here)
        last = here.walk(())
        if isinstance(last, Walk):
            return Walk(qids, last.file, last.error)
        return joined(qids, last)

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        return OpenDirectory(self)


def joined(qids: list[Qid], rest: Awaitable[Walk]) -> Pending[Walk]:
    """A walk of `qids` that goes on elsewhere.  A name that is not there ends it half-way
    (walk(5)); any other failure is told, for a partial Rwalk has no words.

    `rest` may be on its way to another server already, so that cancelling the whole must
    cancel it, even when nobody has begun to await the whole.
    """

    def told(walk: Walk | None, error: BaseException | None) -> None:
        if isinstance(error, NotFound):
            whole.succeed(Walk(qids, None, error))
        elif walk is not None:
            whole.succeed(Walk([*qids, *walk.qids], walk.file, walk.error))
        elif error is not None:
            whole.fail(error)

    def ended(walking: asyncio.Future[Walk]) -> None:
        if walking.cancelled():
            told(None, asyncio.CancelledError())
        elif (error := walking.exception()) is not None:
            told(None, error)
        else:
            told(walking.result(), None)

    whole: Pending[Walk]
    if isinstance(rest, Pending):
        whole = Pending(rest.cancel)
        rest.listen(told)
    else:
        walking = asyncio.ensure_future(rest)
        whole = Pending(walking.cancel)
        walking.add_done_callback(ended)
    return whole


def stat_now(child: File) -> Dir:
    """A child's entry in a listing.  A file that must ask elsewhere for its stat
    is listed with what is known here."""
    return File.stat(child)  # type: ignore[return-value]


class OpenSnapshot(OpenFile):
    """The bytes that a file had when it was opened."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def held(self) -> int:
        return len(self._data)

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        return self._data[offset : offset + count]


class TextFile(SyntheticFile):
    """A read-only file whose text is made when it is opened."""

    __slots__ = ("_text",)

    def __init__(self, tree: Tree, name: str, text: Callable[[], str], perm: int = 0o444) -> None:
        super().__init__(tree, name, perm)
        self._text = text

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        return OpenSnapshot(self._text().encode())
