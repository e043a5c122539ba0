"""Reads and writes of a file on another server, passed on as they came.

What a fid of ours and the fid there say to each other differs in tag and fid only, so
the frame of a Tread or Twrite is sent on with those two replaced, and the frame of its
reply comes back with the tag replaced; no payload is taken apart or made again, and all
that is kept of one meanwhile is a `Relayed`.  A message that is anything but plain (a tag
in use, a fid that is busy, a count that does not fit on either side) is not taken, and
goes the usual way, as the replies that are errors do.

What other servers may answer is bounded as our own replies are.  A read promises as many bytes
as it asks for.  When the reads of a connection have promised `Limits.unsent` bytes, further reads
are held: each waits on its fid, and what comes after it on that fid waits, too.  A read that
blocks on the other server (an `out` without new tokens) promises nothing: while reads are held,
the other servers are sent a message that they answer at once, and what they have not answered
before that blocks.  Both ways of a read, the quick one here and the usual one, are counted.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from . import constants as c
from . import messages as m
from .fid import Fid, Request

if TYPE_CHECKING:
    from .server import ServerConn

_HEAD = struct.Struct("<IBHIQI")
"""of Tread and Twrite: size[4] type[1] tag[2] fid[4] offset[8] count[4]"""
_SIZE, _unpack = _HEAD.size, _HEAD.unpack_from
_TREAD, _TWRITE = m.Tread.number, m.Twrite.number


class Other(Protocol):
    """A connection to the other server."""

    def relay(self, frame: bytes, fid: bytes, whose: Relayed) -> int | None:
        """Send the frame of a Tread or Twrite, its fid replaced by `fid` (as it lies on the
        wire) and its tag by the one that is returned.  `whose` is told of the reply, by
        `succeed` with its frame or by `fail`, later.  None when nothing can be sent now."""

    def cancel(self, tag: int, whose: Relayed) -> None:
        """Flush it: `whose` fails now."""

    def probe(self, told: Callable[[], None]) -> None:
        """`told` is called when the other server has seen all that was sent before, or is lost:
        what it has not answered then, blocks."""


class Way(NamedTuple):
    """Where what is read and written on an open fid goes."""

    other: Other
    fid: bytes
    """of the other server, as it lies on the wire"""
    most: int
    """bytes that a Tread or Twrite may have there"""


class Relayed(Request):
    """A Tread or Twrite that was sent on.  There is one for each, so it is as little as a
    request can be, and listens to the other connection itself."""

    __slots__ = ("_conn", "_other", "there", "wire_tag")

    begun = cancellable = True
    abandon = None
    weight = 0

    def __init__(
        self, conn: ServerConn, fid: Fid, tag: int, wire_tag: bytes, other: Other
    ) -> None:
        self.tag = tag
        self.wire_tag = wire_tag
        """as it lies on the wire"""
        self.fid = fid
        self.over = self.flushed = False
        self.flushes = []
        self.there = 0
        """its tag on the other connection"""
        self._conn = conn
        self._other = other

    def succeed(self, frame: bytes) -> None:
        if not self.over:
            self._conn.answer_relayed(self, frame)
            self._conn.ready()

    def fail(self, error: BaseException) -> None:
        self._conn.fail(self, error)
        self._conn.ready()

    def cancel(self) -> None:
        self._other.cancel(self.there, self)

    def __repr__(self) -> str:
        return f"<Relayed tag {self.tag} on {self.fid!r}>"


class Relays:
    """The open fids of a connection whose files are on other servers."""

    __slots__ = ("_conn", "_most", "_probes", "held", "promised", "ways")

    def __init__(self, conn: ServerConn) -> None:
        self._conn = conn
        self._most = conn.limits.unsent
        self.ways: dict[int, tuple[Fid, Other, bytes, int, int]] = {}
        """by fid: itself, the other connection, its fid there, and the most bytes of a read
        and of a write that both sides can take, -1 where it is not open for that"""
        self.promised = 0
        """bytes that may come as replies of reads that do not block"""
        self.held: deque[Request] = deque()
        """reads that wait until less is promised, the oldest first"""
        self._probes = 0
        """that are under way"""

    def add(self, fid: Fid, way: Way) -> None:
        read = -1 if fid.mode == c.OWRITE else min(way.most, self._conn.msize - c.READHDRSZ)
        write = way.most if fid.mode in (c.OWRITE, c.ORDWR) else -1
        self.ways[fid.fid] = fid, way.other, way.fid, read, write

    def clear(self) -> None:
        """The fids are gone, and so are the requests."""
        self.ways.clear()
        self.held.clear()
        self.promised = 0

    def take(self, frame: bytes) -> bool:
        """Pass a Tread or Twrite on; whether it is one and that could be done."""
        if len(frame) < _SIZE:
            return False
        size, kind, tag, number, _, count = _unpack(frame)
        found = self.ways.get(number)
        if found is None:
            return False
        fid, other, fid_there, read, write = found
        if kind == _TREAD:
            if size != _SIZE or not 0 < count <= read or self.promised >= self._most:
                return False
            promised = count
        elif kind != _TWRITE or size != _SIZE + count or count > write:
            return False
        else:
            promised = 0
        conn = self._conn
        requests = conn.requests
        if fid.busy is not None or tag in requests or len(requests) >= conn.room_for:
            return False
        request = Relayed(conn, fid, tag, frame[5:7], other)
        there = other.relay(frame, fid_there, request)
        if there is None:
            return False
        request.there = there
        requests[tag] = request
        fid.pending += 1
        request.promised = promised
        self.promised += promised
        return True

    # -- the bound of what is promised ------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether one more read may be sent on."""
        return self.promised < self._most

    def promise(self, request: Request, count: int) -> None:
        """`request` is a read of `count` bytes, and was sent on."""
        request.promised = count
        self.promised += count
        if self.held and not self.has_room:
            self._probe()

    def hold(self, msg: m.Tread, fid: Fid) -> None:
        """There is no room for this read: it waits, and all that comes after it on `fid`."""
        self.held.append(self._conn.hold(msg, fid))
        self._probe()

    def let_go(self) -> None:
        """Let as many reads go on as there is room for."""
        room = self._most - self.promised
        while self.held and room > 0:
            request = self.held.popleft()
            if not request.over:
                assert isinstance(request.msg, m.Tread)
                room -= request.msg.count
                self._conn.release(request)
        self._conn.more()

    def _probe(self) -> None:
        """Find out which of the reads that were sent on block."""
        if self._probes:
            return
        sent: dict[Other, list[Request]] = {}
        for request in self._conn.requests.values():
            if request.promised and request.fid is not None:
                way = self.ways.get(request.fid.fid)
                if way is not None:
                    sent.setdefault(way[1], []).append(request)
        self._probes = len(sent)
        for other, requests in sent.items():
            other.probe(partial(self._told, requests))

    def _told(self, sent: list[Request]) -> None:
        """Those of `sent` that have no reply yet block."""
        self._probes -= 1
        for request in sent:
            if not request.over:
                self.promised -= request.promised
                request.promised = 0
        self.let_go()
