"""The dialects: 9P2000, 9P2000.u and 9P2000.L, each a table of messages.

Owns what .u and .L add to `messages` or change there, and what else differs between
dialects: how an error is said, and how a stat record is packed.  Everything else is
the same server for all three.

Sources: intro(5) of Plan 9; the 9P2000.u draft (ericvh.github.io/9p-rfc); for .L,
diod's protocol.md and Linux's include/net/9p/9p.h.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import Error
from . import messages as m
from .constants import HEADER, NONUNAME, VERSION_9P2000, VERSION_9P2000_L, VERSION_9P2000_U
from .messages import Message, message
from .wire import (
    U8,
    U32,
    U64,
    BadMessage,
    Data,
    Dir,
    QidField,
    StatU,
    Str,
    frame_tag,
    pack_dir,
    pack_dir_u,
    unpack_dirs,
    unpack_dirs_u,
)

# -- 9P2000.u: the messages of 9P2000 with more fields ----------------------------------


@message(102)
class Tauth_u(m.Tauth):
    n_uname: U32 = NONUNAME


@message(104)
class Tattach_u(m.Tattach):
    n_uname: U32 = NONUNAME


@message(107)
class Rerror_u(m.Rerror):
    errno: U32


@message(114)
class Tcreate_u(m.Tcreate):
    extension: Str = ""


@message(125)
class Rstat_u(m.Rstat):
    stat: StatU


@message(126)
class Twstat_u(m.Twstat):
    stat: StatU


# -- 9P2000.L -----------------------------------------------------------------------------
# `fid` is in every T-message the fid that it acts on, whatever the field is called.


@message(7)
class Rlerror(Message):
    ecode: U32


@message(8)
class Tstatfs(Message):
    fid: U32


@message(9)
class Rstatfs(Message):
    type: U32
    bsize: U32
    blocks: U64
    bfree: U64
    bavail: U64
    files: U64
    ffree: U64
    fsid: U64
    namelen: U32


@message(12)
class Tlopen(Message):
    fid: U32
    flags: U32


@message(13)
class Rlopen(Message):
    qid: QidField
    iounit: U32


@message(14)
class Tlcreate(Message):
    fid: U32
    name: Str
    flags: U32
    mode: U32
    gid: U32


@message(15)
class Rlcreate(Message):
    qid: QidField
    iounit: U32


@message(16)
class Tsymlink(Message):
    dfid: U32
    name: Str
    symtgt: Str
    gid: U32
    fid = property(operator.attrgetter("dfid"))


@message(17)
class Rsymlink(Message):
    qid: QidField


@message(18)
class Tmknod(Message):
    dfid: U32
    name: Str
    mode: U32
    major: U32
    minor: U32
    gid: U32
    fid = property(operator.attrgetter("dfid"))


@message(19)
class Rmknod(Message):
    qid: QidField


@message(20)
class Trename(Message):
    fid: U32
    dfid: U32
    name: Str


@message(21)
class Rrename(Message):
    pass


@message(22)
class Treadlink(Message):
    fid: U32


@message(23)
class Rreadlink(Message):
    target: Str


@message(24)
class Tgetattr(Message):
    fid: U32
    request_mask: U64


@message(25)
class Rgetattr(Message):
    valid: U64
    qid: QidField
    mode: U32
    uid: U32
    gid: U32
    nlink: U64
    rdev: U64
    size: U64
    blksize: U64
    blocks: U64
    atime_sec: U64
    atime_nsec: U64
    mtime_sec: U64
    mtime_nsec: U64
    ctime_sec: U64
    ctime_nsec: U64
    btime_sec: U64
    btime_nsec: U64
    gen: U64
    data_version: U64


@message(26)
class Tsetattr(Message):
    fid: U32
    valid: U32
    mode: U32
    uid: U32
    gid: U32
    size: U64
    atime_sec: U64
    atime_nsec: U64
    mtime_sec: U64
    mtime_nsec: U64


@message(27)
class Rsetattr(Message):
    pass


@message(30)
class Txattrwalk(Message):
    fid: U32
    newfid: U32
    name: Str


@message(31)
class Rxattrwalk(Message):
    size: U64


@message(32)
class Txattrcreate(Message):
    fid: U32
    name: Str
    attr_size: U64
    flags: U32


@message(33)
class Rxattrcreate(Message):
    pass


@message(40)
class Treaddir(Message):
    fid: U32
    offset: U64
    count: U32


@message(41)
class Rreaddir(Message):
    data: Data


@message(50)
class Tfsync(Message):
    fid: U32
    datasync: U32


@message(51)
class Rfsync(Message):
    pass


@message(52)
class Tlock(Message):
    fid: U32
    type: U8
    flags: U32
    start: U64
    length: U64
    proc_id: U32
    client_id: Str


@message(53)
class Rlock(Message):
    status: U8


@message(54)
class Tgetlock(Message):
    fid: U32
    type: U8
    start: U64
    length: U64
    proc_id: U32
    client_id: Str


@message(55)
class Rgetlock(Message):
    type: U8
    start: U64
    length: U64
    proc_id: U32
    client_id: Str


@message(70)
class Tlink(Message):
    dfid: U32
    fid: U32
    name: Str


@message(71)
class Rlink(Message):
    pass


@message(72)
class Tmkdir(Message):
    dfid: U32
    name: Str
    mode: U32
    gid: U32
    fid = property(operator.attrgetter("dfid"))


@message(73)
class Rmkdir(Message):
    qid: QidField


@message(74)
class Trenameat(Message):
    olddirfid: U32
    oldname: Str
    newdirfid: U32
    newname: Str
    fid = property(operator.attrgetter("olddirfid"))


@message(75)
class Rrenameat(Message):
    pass


@message(76)
class Tunlinkat(Message):
    dirfd: U32
    name: Str
    flags: U32
    fid = property(operator.attrgetter("dirfd"))


@message(77)
class Runlinkat(Message):
    pass


# -- the tables -----------------------------------------------------------------------------


def _say_ename(tag: int, error: Error, room: int) -> Message:
    """Enames quote what clients wrote: what is no 9P string in them is replaced."""
    return m.Rerror(tag, _ename(error, room))


def _say_both(tag: int, error: Error, room: int) -> Message:
    return Rerror_u(tag, _ename(error, room - 4), error.errno)


def _say_errno(tag: int, error: Error, room: int) -> Message:
    return Rlerror(tag, error.errno)


def _ename(error: Error, room: int) -> str:
    ename = error.ename.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return ename.encode(errors="replace")[: min(room, 0xFFFF)].decode(errors="ignore")


class Dialect:
    """A protocol version: its name, its messages, and how it says an error."""

    def __init__(
        self,
        version: str,
        messages: Iterable[type[Message]],
        say: Callable[[int, Error, int], Message],
        pack_dir: Callable[[Dir], bytes],
        unpack_dirs: Callable[[bytes], list[Dir]],
    ) -> None:
        self.version = version
        self.table = {cls.number: cls for cls in messages}
        self.by_name = {name_of(cls): cls for cls in messages}
        self._pack_dir = pack_dir
        self.unpack_dirs = unpack_dirs
        """all that one such Tread gave; raises ValueError"""
        self.has_readdir = Treaddir.number in self.table
        """a directory is read with Treaddir, and a Tread of it is refused"""
        self._say = say
        self._unpackers = {cls.number: cls.unpack for cls in messages}
        self._fields: dict[type[Message], Callable[[Message], tuple[Any, ...]]] = {}
        """of the messages that this dialect adds to: what 9P2000 has in them"""
        for cls in messages:
            base = cls.__bases__[0]
            if issubclass(base, Message) and base is not Message:
                names = (field.name for field in dataclasses.fields(base))
                self._fields[cls] = operator.attrgetter(*names)

    def pack_dirs(self, entries: Sequence[Dir]) -> list[bytes]:
        """The entries of a directory as Tread gives them, one by one."""
        return list(map(self._pack_dir, entries))

    def unpack(self, frame: bytes) -> Message:
        """The message of a sound frame (see `framing`).  Raises `BadMessage`."""
        unpack = self._unpackers.get(frame[4])
        if unpack is None:
            raise BadMessage(frame_tag(frame), f"unknown message type {frame[4]}")
        return unpack(frame)

    def of(self, msg: Message) -> Message:
        """A message of 9P2000 as this dialect has it, what it adds at its default."""
        cls = self.table[msg.number]
        if type(msg) is cls:
            return msg
        return cls(*self._fields[cls](msg))

    def error(self, tag: int, error: Error, msize: int) -> Message:
        """`error` as a reply of at most `msize` bytes."""
        return self._say(tag, error, msize - HEADER - 2)

    def __repr__(self) -> str:
        return f"<Dialect {self.version}>"


def name_of(cls: type[Message]) -> str:
    """A message's name in the manuals, the same in every dialect that has it."""
    return cls.__name__.removesuffix("_u")


_9P2000: list[type[Message]] = [
    *(m.Tversion, m.Rversion, m.Tauth, m.Rauth, m.Tattach, m.Rattach, m.Rerror),
    *(m.Tflush, m.Rflush, m.Twalk, m.Rwalk, m.Topen, m.Ropen, m.Tcreate, m.Rcreate),
    *(m.Tread, m.Rread, m.Twrite, m.Rwrite, m.Tclunk, m.Rclunk, m.Tremove, m.Rremove),
    *(m.Tstat, m.Rstat, m.Twstat, m.Rwstat),
]
_ADDED_BY_U: list[type[Message]] = [Tauth_u, Tattach_u, Rerror_u, Tcreate_u, Rstat_u, Twstat_u]
_LEFT_OUT_BY_L = {
    *(m.Rerror, m.Topen, m.Ropen, m.Tcreate, m.Rcreate),
    *(m.Tstat, m.Rstat, m.Twstat, m.Rwstat),
}
_ADDED_BY_L: list[type[Message]] = [
    *(Tauth_u, Tattach_u, Rlerror, Tstatfs, Rstatfs, Tlopen, Rlopen, Tlcreate, Rlcreate),
    *(Tsymlink, Rsymlink, Tmknod, Rmknod, Trename, Rrename, Treadlink, Rreadlink),
    *(Tgetattr, Rgetattr, Tsetattr, Rsetattr, Txattrwalk, Rxattrwalk),
    *(Txattrcreate, Rxattrcreate, Treaddir, Rreaddir, Tfsync, Rfsync),
    *(Tlock, Rlock, Tgetlock, Rgetlock, Tlink, Rlink, Tmkdir, Rmkdir),
    *(Trenameat, Rrenameat, Tunlinkat, Runlinkat),
]

P9_2000 = Dialect(VERSION_9P2000, _9P2000, _say_ename, pack_dir, unpack_dirs)
P9_2000_U = Dialect(
    VERSION_9P2000_U, [*_9P2000, *_ADDED_BY_U], _say_both, pack_dir_u, unpack_dirs_u
)
P9_2000_L = Dialect(
    VERSION_9P2000_L,
    [*(cls for cls in _9P2000 if cls not in _LEFT_OUT_BY_L), *_ADDED_BY_L],
    _say_errno,
    pack_dir,
    unpack_dirs,
)
DIALECTS = {dialect.version: dialect for dialect in (P9_2000, P9_2000_U, P9_2000_L)}


def negotiated(version: str) -> Dialect | None:
    """The dialect to answer a Tversion with: the longest part of the name, up to its end or one
    of its periods, that is known here (version(5)); None for another protocol."""
    while version not in DIALECTS:
        version, period, _ = version.rpartition(".")
        if not period:
            return None
    return DIALECTS[version]
