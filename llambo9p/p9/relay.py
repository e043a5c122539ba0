"""Reads and writes of a file on another server, passed on as they came.

What a fid of ours and the fid there say to each other differs in tag and fid only, so
the frame of a Tread or Twrite is sent on with those two replaced, and the frame of its
reply comes back with the tag replaced; no payload is taken apart or made again.  A message
that is anything but plain (a tag in use, a fid that is busy, a count that does not fit on
either side) is not taken, and goes the usual way, as the replies that are errors do.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from . import constants as c
from . import messages as m
from .fid import Fid

if TYPE_CHECKING:
    from .server import ServerConn

_HEAD = struct.Struct("<IBHIQI")
"""of Tread and Twrite: size[4] type[1] tag[2] fid[4] offset[8] count[4]"""
TYPES = (m.Tread.number, m.Twrite.number)


Relay = Callable[[bytes, int], Awaitable[bytes] | None]
"""sends a frame on, whose count is given, and gives the frame that will come back; None
when it cannot be sent as it is"""


class Passed(m.Message):
    """A reply of the other server, to be sent under our tag."""

    def __init__(self, tag: int, frame: bytes) -> None:
        self.tag = tag
        self._frame = frame

    def pack(self) -> bytes:
        frame = self._frame
        return b"".join((frame[:5], self.tag.to_bytes(2, "little"), frame[7:]))


class Relays:
    """The open fids of a connection whose files are on other servers."""

    def __init__(self, conn: ServerConn) -> None:
        self._conn = conn
        self._fids: dict[int, tuple[Fid, Relay]] = {}

    def __bool__(self) -> bool:
        return bool(self._fids)

    def add(self, fid: Fid, relay: Relay) -> None:
        self._fids[fid.fid] = fid, relay

    def discard(self, fid: int) -> None:
        self._fids.pop(fid, None)

    def clear(self) -> None:
        self._fids.clear()

    def take(self, frame: bytes) -> bool:
        """Pass a Tread or Twrite on; whether that could be done."""
        if len(frame) < _HEAD.size:
            return False
        size, kind, tag, number, offset, count = _HEAD.unpack_from(frame)
        found = self._fids.get(number)
        if found is None:
            return False
        fid, relay = found
        conn = self._conn
        if fid.busy is not None or tag in conn.requests:
            return False
        if len(conn.requests) >= conn.limits.requests:
            return False
        msg: m.Message
        if kind == m.Tread.number:
            if size != _HEAD.size or fid.mode == c.OWRITE or not 0 < count:
                return False
            if count > conn.msize - c.READHDRSZ:
                return False
            msg = m.Tread(tag, number, offset, count)
        else:
            if size != _HEAD.size + count or fid.mode not in (c.OWRITE, c.ORDWR):
                return False
            msg = m.Twrite(tag, number, offset, b"")
        reply = relay(frame, count)
        if reply is None:
            return False
        conn.answer(msg, fid, reply, partial(Passed, tag))
        return True
