"""What a connection remembers: its fids, and the requests that have no reply yet.

A fid knows where it is, how deep below the root of its attach, and what is open.
The rules that move fids and end requests are `server`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from .. import errors
from . import constants as c
from .messages import Message
from .node import Handle, Listing, Node
from .wire import Dir, Qid

_MORE_FIDS = 64
"""for which room is taken at once"""
FID_BYTES = 1024
"""about what a fid takes: so many bytes that one holds while it is open count as one more"""
REQUEST_BYTES = 2048
"""that a request without a reply takes, and its task: 1.4 to 2.9 KB were measured"""
FREE_REQUESTS = 16
"""of each connection, which no room is taken for"""
REQUESTS_AT_ONCE = 64
"""for which room is taken at once"""


class Fid:
    """A fid of this connection.  `handle` is None until it is open."""

    __slots__ = (
        "busy",
        "cursor",
        "depth",
        "ended",
        "entries",
        "far",
        "fid",
        "handle",
        "mode",
        "near",
        "node",
        "pending",
        "root",
        "waiting",
        "weight",
    )

    def __init__(self, fid: int, node: Node | None) -> None:
        self.fid = fid
        self.node = node
        """None while the walk or attach that makes it is awaited"""
        self.root: Qid | None = None
        """of the attach that it descends from"""
        self.depth = 0
        """names below that root, so that `..` cannot leave it"""
        self.handle: Handle | None = None
        self.mode = 0
        self.pending = 0
        """requests on it that are awaited"""
        self.busy: Request | None = None
        """the walk, attach, open, create or directory read that is awaited"""
        self.waiting: deque[Request] | None = None
        self.cursor: DirCursor | None = None
        """of Treads on a directory"""
        self.entries: Sequence[bytes] | None = None
        """of Treaddirs: the packed directory as it was at offset 0"""
        self.weight = 0
        """how many fids what it holds counts as"""
        self.far = False
        """it is open, and what is read from it comes from another server"""
        self.near = False
        """it is a file of this server's, and open for reading"""
        self.ended = False
        """the connection is lost or began anew"""

    def __repr__(self) -> str:
        state = "busy" if self.busy else "open" if self.handle else "walked"
        return f"<Fid {self.fid} {state} {self.node!r}>"


class FidShare:
    """How many fids the connections of one user may have together, `whose` he is."""

    __slots__ = ("limit", "used", "whose")

    def __init__(self, limit: int, whose: str) -> None:
        self.limit = limit
        self.whose = whose
        self.used = 0

    def take(self, count: int) -> None:
        """Raises Busy when there are not as many left."""
        if self.used + count > self.limit:
            raise errors.Busy(
                f"{errors.Busy.ename}: more than {self.limit} fids on all connections of "
                f"{self.whose}"
            )
        self.used += count


class FidTable(dict[int, Fid]):
    """The fids of a connection by number, at most `limit`, what they hold included; `share`
    bounds them, too, where their user has other connections."""

    __slots__ = ("_limit", "_room", "_weight", "share")

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.share: FidShare | None = None
        self._limit = limit
        self._room = 0
        """how many there may be until more room is taken, which is kept until `clear`"""
        self._weight = 0
        """room that what they hold has taken"""

    def make(self, number: int) -> Fid:
        """A new fid.  Raises UnknownFid, InUse or Busy."""
        if number == c.NOFID:
            raise errors.UnknownFid
        if number in self:
            raise errors.InUse(f"fid {number} is in use")
        if len(self) >= self._room:
            self._take_room(1)
        fid = self[number] = Fid(number, None)
        return fid

    def load(self, fid: Fid, held: int) -> None:
        """`fid` holds so many bytes, and nothing else any more, until `unload`.  Raises Busy."""
        self.unload(fid)
        fid.weight = self.hold(held)

    def unload(self, fid: Fid) -> None:
        self.let_go(fid.weight)
        fid.weight = 0

    def hold(self, held: int) -> int:
        """Something else of the connection holds so many bytes: its weight, until it is
        `let_go`.  Raises Busy."""
        weight = held // FID_BYTES
        missing = len(self) + weight - self._room
        if missing > 0:
            self._take_room(missing)
        self._room -= weight
        self._weight += weight
        return weight

    def let_go(self, weight: int) -> None:
        self._room += weight
        self._weight -= weight

    def _take_room(self, count: int) -> None:
        """For `count` fids at least."""
        left = self._limit - self._room - self._weight
        if left < count:
            raise errors.Busy(f"more than {self._limit} fids on one connection")
        more = min(max(count, _MORE_FIDS), left)
        if self.share is not None:
            self.share.take(more)
        self._room += more

    def clear(self) -> None:
        super().clear()
        if self.share is not None:
            self.share.used -= self._room + self._weight
        self._room = self._weight = 0


class DirCursor:
    """The packed entries of a directory as they were at offset 0, read once through."""

    __slots__ = ("_entries", "_next", "_unfilled", "offset")

    def __init__(self, entries: Sequence[bytes]) -> None:
        self._entries = entries
        self._next = 0
        self._unfilled = 0
        """what the last read asked for and did not get"""
        self.offset = 0
        """where the next read must begin"""

    def take(self, count: int) -> bytes:
        """As many whole entries as fit into `count` bytes.

        Linux (9P2000 and .u) asks for what is missing to its count: it is told that there
        is nothing, and asks again with its whole count.
        """
        if count == self._unfilled and self._next < len(self._entries):
            if len(self._entries[self._next]) > count:
                return b""
        parts = whole(self._entries, self._next, count)
        data = b"".join(parts)
        self._unfilled = count - len(data)
        self._next += len(parts)
        self.offset += len(data)
        return data


def packed(
    entries: Sequence[Dir], pack: Callable[[Sequence[Dir]], list[bytes]]
) -> list[bytes]:
    """The entries as `pack` makes them; those of a `Listing` are made once."""
    return entries.packed(pack) if isinstance(entries, Listing) else pack(entries)


def whole(entries: Sequence[bytes], first: int, count: int) -> Sequence[bytes]:
    """Those of `entries` from `first` on that fit into `count` bytes.

    Raises InvalidArgument when not even one does.
    """
    room = count
    for at in range(first, len(entries)):
        room -= len(entries[at])
        if room < 0:
            if at == first:
                raise errors.InvalidArgument(
                    f"read of {count} bytes is too small for a directory entry of "
                    f"{len(entries[at])}"
                )
            return entries[first:at]
    return entries[first:]


class Request:
    """A T-message that has no reply yet."""

    __slots__ = (
        "abandon",
        "awaitable",
        "begun",
        "cancel",
        "cancellable",
        "commit",
        "fid",
        "flushed",
        "flushes",
        "msg",
        "over",
        "promised",
        "tag",
        "undo",
        "weight",
    )

    def __init__(self, msg: Message, fid: Fid | None) -> None:
        self.msg = msg
        self.tag = msg.tag
        self.fid = fid
        self.begun = False
        """the file was asked; not while it waits for a busy fid, and never of a Tflush"""
        self.awaitable: Awaitable[Any] | None = None
        """what to wait for, once it is begun"""
        self.commit: Callable[[Any], Message] | None = None
        """turns the result into the reply and enters it into the fid table"""
        self.undo: Callable[[Any], None] | None = None
        """gives a result back that came too late to be entered"""
        self.abandon: Callable[[], None] | None = None
        """releases the file of an open that is over only after the connection is gone"""
        self.cancel: Callable[[], object] | None = None
        """set by whoever awaits it"""
        self.cancellable = True
        self.flushed = False
        self.flushes: list[Request] = []
        """the Tflushes to answer when this is over, in order"""
        self.over = False
        self.promised = 0
        """bytes that another server may send soon as its answer"""
        self.weight = 0
        """how many fids the data of its message count as, in the fid table"""

    def __repr__(self) -> str:
        return f"<Request {self.msg!r}{' flushed' * self.flushed}{' over' * self.over}>"


def check_name(directory: Node, name: str) -> None:
    """Whether a file `name` could be made in `directory`."""
    if not directory.qid.type & c.QTDIR:
        raise errors.NotDirectory
    if name in ("", ".", "..") or "/" in name:
        raise errors.InvalidArgument(f"bad file name {name!r}")


def confine(wname: tuple[str, ...], depth: int) -> tuple[tuple[str, ...], int, list[int]]:
    """Take out of a walk each `..` that would leave the attach's root.

    Returns the names left, the depth they lead to from `depth`, and the places
    in `wname` that were taken out: there the walk stood at the root.
    """
    if ".." not in wname:
        return wname, depth + len(wname), []
    names, at_root = [], []
    for i, name in enumerate(wname):
        if name != "..":
            depth += 1
        elif depth > 0:
            depth -= 1
        else:
            at_root.append(i)
            continue
        names.append(name)
    return tuple(names), depth, at_root
