"""What a client asks in 9P2000, said in 9P2000.L, for servers that speak nothing else (diod).

Owns the pairs: each T-message of 9P2000 that .L has not, as the one of .L that asks for the
same, and the reply to that as 9P2000's.  Of what .L says differently but in the same message
(Tattach, Tread, Twrite, Twalk, Tclunk, Tremove) nothing is here.

Rules kept here:
- .L tells no names: those of a stat are empty, and its owners are numbers.
- An entry of a listing is its name, qid and kind; whoever wants more asks for its stat.
- What cannot be said is NotSupported: a directory that is made, a rename.

Source: diod's protocol.md; Linux's include/net/9p/9p.h.
"""

from __future__ import annotations

import os
import stat
import struct

from .. import errors
from . import constants as c
from . import dialects as d
from . import messages as m
from .dotl import (
    DT_DIR,
    ENTRY,
    GETATTR_BASIC,
    O_TRUNC,
    SETATTR_MODE,
    SETATTR_SIZE,
)
from .wire import Dir, Qid, dont_touch

_O_CREAT = 0o100
_SETATTR_ATIME, _SETATTR_MTIME = 0x10, 0x20
_SETATTR_ATIME_SET, _SETATTR_MTIME_SET = 0x80, 0x100


def asked(msg: m.Message) -> m.Message:
    """The message as .L has it.  Raises NotSupported."""
    match msg:
        case m.Topen(fid=fid, mode=mode):
            return d.Tlopen(0, fid, _flags(mode))
        case m.Tcreate(fid=fid, name=name, perm=perm, mode=mode) if not perm & c.DMDIR:
            return d.Tlcreate(0, fid, name, _flags(mode) | _O_CREAT, perm & 0o777, os.getegid())
        case m.Tstat(fid=fid):
            return d.Tgetattr(0, fid, GETATTR_BASIC)
        case m.Twstat(fid=fid, stat=change) if change == dont_touch():
            return d.Tfsync(0, fid, 0)
        case m.Twstat(fid=fid, stat=change) if not change.name:
            return _setattr(fid, change)
        case m.Tcreate() | m.Twstat():
            raise errors.NotSupported(f"{errors.NotSupported.ename}: in 9P2000.L")
    return msg


def _flags(mode: int) -> int:
    if mode & c.ORCLOSE:
        raise errors.NotSupported(f"{errors.NotSupported.ename}: ORCLOSE in 9P2000.L")
    access = c.OREAD if mode & 3 == c.OEXEC else mode & 3  # the numbers are Linux's, too
    return access | (O_TRUNC if mode & c.OTRUNC else 0)


def _setattr(fid: int, change: Dir) -> d.Tsetattr:
    valid = 0
    if change.mode != c.DONT_TOUCH_32:
        valid |= SETATTR_MODE
    if change.length != c.DONT_TOUCH_64:
        valid |= SETATTR_SIZE
    if change.atime != c.DONT_TOUCH_32:
        valid |= _SETATTR_ATIME | _SETATTR_ATIME_SET
    if change.mtime != c.DONT_TOUCH_32:
        valid |= _SETATTR_MTIME | _SETATTR_MTIME_SET
    return d.Tsetattr(
        0, fid, valid, change.mode & 0o777, 0, 0, change.length, change.atime, 0, change.mtime, 0
    )


def answered(reply: m.Message) -> m.Message:
    """The reply as 9P2000 has it."""
    match reply:
        case d.Rlerror(ecode=ecode):
            return d.Rerror_u(reply.tag, errors.ename_of(ecode), ecode)
        case d.Rlopen(qid=qid, iounit=iounit):
            return m.Ropen(reply.tag, qid, iounit)
        case d.Rlcreate(qid=qid, iounit=iounit):
            return m.Rcreate(reply.tag, qid, iounit)
        case d.Rgetattr():
            return m.Rstat(reply.tag, _stat(reply))
        case d.Rfsync() | d.Rsetattr():
            return m.Rwstat(reply.tag)
    return reply


def _stat(of: d.Rgetattr) -> Dir:
    mode = of.mode & 0o777 | (c.DMDIR if stat.S_ISDIR(of.mode) else 0)
    uid, gid = str(of.uid), str(of.gid)
    return Dir(
        "",
        of.qid,
        mode,
        atime=of.atime_sec & c.DONT_TOUCH_32,
        mtime=of.mtime_sec & c.DONT_TOUCH_32,
        length=0 if mode & c.DMDIR else of.size,
        uid=uid,
        gid=gid,
        muid=uid,
        n_uid=of.uid,
        n_gid=of.gid,
        n_muid=of.uid,
    )


def entries(data: bytes) -> tuple[list[Dir], int]:
    """What one Rreaddir gave, without `.` and `..`, and the offset at which the listing goes on.
    Raises ValueError for what is no listing."""
    found: list[Dir] = []
    at = offset = 0
    while at < len(data):
        try:
            kind, vers, path, offset, type, size = ENTRY.unpack_from(data, at)
            at += ENTRY.size + size
            raw = data[at - size : at]
            if len(raw) < size:
                raise ValueError("an entry of a listing reaches beyond its end")
            name = raw.decode()
        except (struct.error, UnicodeDecodeError) as e:
            raise ValueError(f"a listing is not understood: {e}") from None
        mode = c.DMDIR | 0o555 if type == DT_DIR else 0o444
        if name not in (".", ".."):
            found.append(Dir(name, Qid(kind, vers, path), mode))
    return found, offset
