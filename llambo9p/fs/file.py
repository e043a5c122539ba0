"""The File contract: what a 9P server asks of a synthetic file, and what it has
checked before it asks.

A `File` is a node of a tree; any number of fids may point at one.  Opening a
fid gives an `OpenFile`, which belongs to that fid alone and holds whatever is
private to the open (a snapshot, a buffer, a cursor).

Every method may return its result, or an awaitable of it when it must wait.
Results that need no waiting are returned directly: the server then answers
without a task.  Errors are `llambo9p.errors.Error`s, raised or awaited.

What the server guarantees:

- All calls come on one event loop.  Nothing is called for a fid while its `open`,
  `create`, directory read or walk in place is still awaited, nor for the newfid of
  a walk; the fid walked from stays free.  Reads and writes of one `OpenFile` may
  overlap.
- `open`: mode is a known one; a directory is only opened OREAD; the fid was
  not open.  `read` and `write`: the fid is open for it, `offset` >= 0,
  `count` is what fits one reply.
- An awaitable is cancelled (`asyncio.CancelledError`) when its request is
  flushed, its fid clunked, or its connection lost.  A result that arrives in
  spite of that is still delivered if the client may see it.
- Each `OpenFile` ends in exactly one call of `clunk` (a Tclunk) or `drop` (the
  connection was lost or reset, or after `remove`).  Each file that a `walk`,
  `create` or attach gave ends, after that, in exactly one call of `release`; the
  same file given twice (a clone, even one in place) is released twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import IsDirectory, NotDirectory, PermissionDenied
from ..p9 import constants as c
from ..p9.node import Handle, Maybe, Walk
from ..p9.wire import Dir, Qid, dont_touch
from .user import numbers_of


class OpenFile:
    """What one open fid has.  The base refuses everything and ends quietly."""

    __slots__ = ()

    @property
    def held(self) -> int:
        """Bytes that it keeps until its end and that no quota has: they count as fids."""
        return 0

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        """At most `count` bytes; b"" is end of file.  Directories: see `readdir`."""
        raise PermissionDenied

    def readdir(self) -> Maybe[Sequence[Dir]]:
        """All entries of a directory, as they are now; called at offset 0."""
        raise NotDirectory

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        """How many bytes were taken: all of them unless it raises."""
        raise PermissionDenied

    def truncate(self) -> None:
        """Length 0 was asked for: what was written is as if it had not been.  Files that hold a
        text become empty at `clunk`, unless more is written; for all others it means nothing."""

    def sync(self) -> Maybe[None]:
        """The client wants to know whether what it wrote will be taken: raises what `clunk`
        would, and changes nothing."""
        return None

    def clunk(self) -> Maybe[None]:
        """The client is done with it.  The fid is free even if this raises;
        a result that is awaited delays the reply and is never cancelled."""
        self.drop()
        return None

    def drop(self) -> None:
        """The client is gone without a word.  Must not raise."""


class File:
    """A node of a synthetic tree.

    `name`, `mode` (permission and DM* bits), `qid` and the owner make its stat.
    Length is 0 and qid.vers is 0, but for directories that count their changes: contents
    change by themselves, and Linux then reads to the end and caches nothing.
    """

    __slots__ = ("gid", "mode", "mtime", "name", "qid", "uid")

    def __init__(self, name: str, mode: int, qid: Qid, owner: str, mtime: int) -> None:
        self.name = name
        self.mode = mode
        self.qid = qid
        self.uid = self.gid = owner
        self.mtime = mtime

    def walk(self, names: Sequence[str]) -> Maybe[Walk]:
        """Follow `names` (may be empty: the clone of a fid).  Names are non-empty,
        valid UTF-8, without `/`; `.` is an ordinary name, `..` the parent."""
        if names:
            return Walk([], None, NotDirectory())
        return Walk([], self)

    def open(self, mode: int) -> Maybe[OpenFile]:
        """Check permission once and open; `mode` is Topen's, OTRUNC included."""
        raise PermissionDenied

    def create(self, name: str, perm: int, mode: int) -> Maybe[tuple[File, OpenFile]]:
        """Make a file in this directory and open it."""
        raise PermissionDenied

    def remove(self) -> Maybe[None]:
        """Remove the file.  The fid goes in any case."""
        raise PermissionDenied

    def stat(self) -> Maybe[Dir]:
        n_uid, n_gid = numbers_of(self.uid)
        return Dir(
            self.name,
            self.qid,
            self.mode,
            atime=self.mtime,
            mtime=self.mtime,
            uid=self.uid,
            gid=self.gid,
            muid=self.uid,
            n_uid=n_uid,
            n_gid=n_gid,
            n_muid=n_uid,
        )

    def wstat(self, stat: Dir, handle: Handle | None) -> Maybe[None]:
        """Change what `stat` does not leave at "don't touch"; of an open fid, with its `handle`,
        a stat that changes nothing is a sync (stat(5)).

        Of a synthetic file only the length may be set, to 0 (what a shell's `>`
        asks for), and its times are accepted and ignored.
        """
        if handle is not None and stat == dont_touch():
            return handle.sync()
        if stat.length not in (0, c.DONT_TOUCH_64):
            raise PermissionDenied("the length of a synthetic file cannot be set")
        owners = (stat.n_uid, stat.n_gid, stat.n_muid)
        if (
            stat.mode != c.DONT_TOUCH_32
            or stat.name
            or stat.uid
            or stat.gid
            or stat.muid
            or any(number != c.NONUNAME for number in owners)
        ):
            raise PermissionDenied
        if stat.length == 0:
            if self.mode & c.DMDIR:
                raise IsDirectory
            (self if handle is None else handle).truncate()
        return None

    def truncate(self) -> None:
        """Length 0 was asked for, on a fid that is not open.  Files that hold a text become
        empty; for all others it means nothing."""

    def opened(self) -> None:
        """A fid that points here is open now."""

    def release(self, was_open: bool) -> None:
        """A fid does not point here any more; if it `was_open`, its `OpenFile` has ended.  Must
        not raise."""

    def allows(self, mode: int) -> bool:
        """Whether the owner's permission bits allow opening with `mode`."""
        wanted = (0o4, 0o2, 0o6, 0o1)[mode & 3]
        if mode & c.OTRUNC:
            wanted |= 0o2
        return (self.mode >> 6) & wanted == wanted

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} qid {self.qid.path}>"
