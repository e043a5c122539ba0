"""The FUSE kernel protocol, sans I/O: requests from bytes, replies to bytes.

Owns the numbers and structs of linux/fuse.h, under their names there: one class a
struct, its fields in order.  Requests are unpacked, replies packed; numbers are in this
machine's byte order.  A read(2) of /dev/fuse gives one whole request, a write(2) takes
one whole reply.

Version 7 only.  The layout is that of minor 31, the same since 23; a newer kernel goes
down to what our INIT says, and for an older one our answer goes down to its.
"""

from __future__ import annotations

import dataclasses
import enum
import errno
import operator
import struct
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, dataclass_transform

from .layout import U16, U32, U64, Data, Name, layout

MAJOR = 7
MINOR = 31
OLDEST_MINOR = 23
"""the first with today's fuse_init_out: Linux 3.15"""
ROOT_ID = 1
MAX_WRITE = 128 * 1024
"""bytes in one WRITE: what 32 pages of 4 KiB hold, the kernel's limit unless asked for more"""
REQUEST_SIZE = MAX_WRITE + 4096
"""room for any request; the kernel refuses to be read with less than a WRITE needs"""

# INIT
ATOMIC_O_TRUNC = 1 << 3
"""O_TRUNC comes with OPEN, instead of a SETATTR before it"""
BIG_WRITES = 1 << 5
DO_READDIRPLUS = 1 << 13
READDIRPLUS_AUTO = 1 << 14
"""only where entries are then looked at"""
PARALLEL_DIROPS = 1 << 18
"""a blocked LOOKUP does not block the others of its directory"""
FEATURES = ATOMIC_O_TRUNC | BIG_WRITES | DO_READDIRPLUS | READDIRPLUS_AUTO | PARALLEL_DIROPS

# fuse_open_out.open_flags
FOPEN_DIRECT_IO = 1 << 0
"""no page cache: each read(2) is a READ, and a short answer a short read"""

# fuse_setattr_in.valid
FATTR_MODE = 1 << 0
FATTR_UID = 1 << 1
FATTR_GID = 1 << 2
FATTR_SIZE = 1 << 3
FATTR_ATIME = 1 << 4
FATTR_MTIME = 1 << 5
FATTR_FH = 1 << 6
"""`fh` is the open file that it was asked with"""


class Opcode(enum.IntEnum):
    """The requests that have a meaning here; a kernel has more."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    CREATE = 35
    INTERRUPT = 36
    BATCH_FORGET = 42
    READDIRPLUS = 44
    RENAME2 = 45


class BadRequest(Exception):
    """Bytes that are not a request of this protocol version."""


# -- requests -------------------------------------------------------------------------

_HEADER = struct.Struct("=IIQQIIIHH")
"""fuse_in_header: len opcode unique nodeid uid gid pid total_extlen padding"""


@dataclasses.dataclass(slots=True)
class Request:
    """fuse_in_header.  By itself a request whose body nobody looks at."""

    opcode: int
    unique: int
    """names the request in its reply, and in an INTERRUPT"""
    nodeid: int
    uid: int
    gid: int
    pid: int


_HEADER_FIELDS = tuple(field.name for field in dataclasses.fields(Request))
_Unpack = Callable[[tuple[int, ...], bytes], Request]
_BODIES: dict[int, _Unpack] = {}
_R = TypeVar("_R", bound=type[Request])


@dataclass_transform()
def _request(*opcodes: Opcode) -> Callable[[_R], _R]:
    """Make a class the request of these opcodes."""

    def define(cls: _R) -> _R:
        made: Any = dataclasses.dataclass(slots=True)(cls)
        body, _, rest = layout(made, after=_HEADER_FIELDS)
        unpack_rest = {"name": _unpack_name, "data": _unpack_data, "items": _unpack_items}

        def unpack(header: tuple[int, ...], frame: bytes) -> Request:
            values = body.unpack_from(frame, _HEADER.size)
            at = _HEADER.size + body.size
            more = [unpack_rest[field](frame, at, values) for field in rest]
            return made(*header, *values, *more)  # type: ignore[no-any-return]

        for opcode in opcodes:
            _BODIES[opcode] = unpack
        return made  # type: ignore[no-any-return]

    return define


def _unpack_name(frame: bytes, at: int, values: tuple[int, ...]) -> str:
    end = frame.find(b"\0", at)
    if end < 0:
        raise BadRequest("a name without its end")
    return frame[at:end].decode(errors="surrogateescape")


def _unpack_data(frame: bytes, at: int, values: tuple[int, ...]) -> bytes:
    return frame[at:]


_FORGET_ONE = struct.Struct("=QQ")


def _unpack_items(frame: bytes, at: int, values: tuple[int, ...]) -> list[tuple[int, int]]:
    count = values[0]
    if len(frame) < at + count * _FORGET_ONE.size:
        raise BadRequest(f"{count} forgets reach beyond their request")
    return [_FORGET_ONE.unpack_from(frame, at + i * _FORGET_ONE.size) for i in range(count)]


def unpack(frame: bytes) -> Request:
    """The request in what one read(2) gave.  Raises BadRequest."""
    try:
        size, *header, _, _ = _HEADER.unpack_from(frame)
        if size != len(frame):
            raise BadRequest(f"a request of {size} bytes has {len(frame)}")
        body = _BODIES.get(header[0])
        return Request(*header) if body is None else body(tuple(header), frame)
    except struct.error as e:
        raise BadRequest(f"a request is too short: {e}") from e


@_request(Opcode.LOOKUP, Opcode.UNLINK, Opcode.RMDIR)
class OfName(Request):
    name: Name


@_request(Opcode.FORGET)
class Forget(Request):
    nlookup: U64


@_request(Opcode.BATCH_FORGET)
class BatchForget(Request):
    count: U32
    dummy: U32
    items: list[tuple[int, int]]
    """nodeid and nlookup of each"""


@_request(Opcode.SETATTR)
class Setattr(Request):
    valid: U32
    padding: U32
    fh: U64
    size: U64
    lock_owner: U64
    atime: U64
    mtime: U64
    ctime: U64
    atimensec: U32
    mtimensec: U32
    ctimensec: U32
    mode: U32


@_request(Opcode.MKDIR)
class Mkdir(Request):
    mode: U32
    umask: U32
    name: Name


@_request(Opcode.OPEN, Opcode.OPENDIR)
class Open(Request):
    flags: U32
    """open(2)'s, without O_CREAT, O_EXCL and O_NOCTTY"""


@_request(Opcode.CREATE)
class Create(Request):
    flags: U32
    mode: U32
    umask: U32
    open_flags: U32
    name: Name


@_request(Opcode.READ, Opcode.READDIR, Opcode.READDIRPLUS)
class Read(Request):
    fh: U64
    offset: U64
    size: U32


@_request(Opcode.WRITE)
class Write(Request):
    fh: U64
    offset: U64
    size: U32
    write_flags: U32
    lock_owner: U64
    flags: U32
    padding: U32
    data: Data


@_request(Opcode.RELEASE, Opcode.RELEASEDIR)
class Release(Request):
    fh: U64


@_request(Opcode.FLUSH)
class Flush(Request):
    """A close(2), of which an open file may have many."""

    fh: U64


@_request(Opcode.FSYNC)
class Fsync(Request):
    fh: U64


@_request(Opcode.INTERRUPT)
class Interrupt(Request):
    target: U64
    """`unique` of the request that nobody waits for any more"""


@_request(Opcode.INIT)
class Init(Request):
    major: U32
    minor: U32
    max_readahead: U32
    flags: U32


# -- replies --------------------------------------------------------------------------

_OUT_HEADER = struct.Struct("=IiQ")
_MAX_ERRNO = 512


def reply(unique: int, body: bytes = b"") -> bytes:
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(body), 0, unique) + body


def error(unique: int, number: int) -> bytes:
    """A reply with an errno; the kernel takes no reply with one that it cannot know."""
    number = number if 0 < number < _MAX_ERRNO else errno.EIO
    return _OUT_HEADER.pack(_OUT_HEADER.size, -number, unique)


class Reply:
    """What follows the header of a reply, or is part of what does."""

    _struct: ClassVar[struct.Struct]
    _values: ClassVar[Callable[[Any], tuple[int, ...]]]

    def pack(self) -> bytes:
        return self._struct.pack(*type(self)._values(self))


_S = TypeVar("_S", bound=type[Reply])


@dataclass_transform(kw_only_default=True)
def _reply(cls: _S) -> _S:
    made: Any = dataclasses.dataclass(slots=True, kw_only=True)(cls)
    made._struct, numbers, _ = layout(made)
    made._values = operator.attrgetter(*numbers)
    return made  # type: ignore[no-any-return]


@_reply
class InitOut(Reply):
    major: U32
    minor: U32
    max_readahead: U32
    flags: U32
    max_background: U16
    congestion_threshold: U16
    max_write: U32
    time_gran: U32 = 1
    max_pages: U16 = 0
    map_alignment: U16 = 0
    flags2: U32 = 0
    unused: U32 = 0
    unused2: U64 = 0
    unused3: U64 = 0
    unused4: U64 = 0


@_reply
class Attr(Reply):
    ino: U64
    size: U64
    blocks: U64 = 0
    atime: U64
    mtime: U64
    ctime: U64
    atimensec: U32 = 0
    mtimensec: U32 = 0
    ctimensec: U32 = 0
    mode: U32
    nlink: U32 = 1
    uid: U32
    gid: U32
    rdev: U32 = 0
    blksize: U32 = 0
    flags: U32 = 0


@_reply
class AttrOut(Reply):
    attr_valid: U64 = 0
    attr_valid_nsec: U32 = 0
    dummy: U32 = 0
    attr: Attr

    def pack(self) -> bytes:
        return Reply.pack(self) + self.attr.pack()


@_reply
class EntryOut(Reply):
    SIZE: ClassVar[int] = 128
    """with its Attr"""

    nodeid: U64
    generation: U64 = 0
    entry_valid: U64 = 0
    attr_valid: U64 = 0
    entry_valid_nsec: U32 = 0
    attr_valid_nsec: U32 = 0
    attr: Attr

    def pack(self) -> bytes:
        return Reply.pack(self) + self.attr.pack()


@_reply
class OpenOut(Reply):
    fh: U64
    open_flags: U32 = 0
    padding: U32 = 0


@_reply
class WriteOut(Reply):
    size: U32
    padding: U32 = 0


@_reply
class StatfsOut(Reply):
    blocks: U64 = 0
    bfree: U64 = 0
    bavail: U64 = 0
    files: U64 = 0
    ffree: U64 = 0
    bsize: U32
    namelen: U32
    frsize: U32
    padding: U32 = 0
    spare: U64 = 0
    spare2: U64 = 0
    spare3: U64 = 0


@_reply
class Dirent(Reply):
    """fuse_dirent: an entry of a READDIR."""

    ino: U64
    off: U64
    """where the listing goes on after this entry"""
    namelen: U32 = 0
    type: U32
    """the file type bits of st_mode, shifted down by 12"""
    name: bytes

    def pack(self) -> bytes:
        """Padded to 8 bytes."""
        self.namelen = len(self.name)
        raw = Reply.pack(self) + self.name
        return raw + bytes(-len(raw) % 8)


def init_out(init: Init) -> InitOut:
    """Our side of the negotiation.  Raises BadRequest for a kernel we cannot talk to."""
    if init.major != MAJOR or init.minor < OLDEST_MINOR:
        raise BadRequest(
            f"the kernel speaks FUSE {init.major}.{init.minor}, "
            f"we {MAJOR}.{OLDEST_MINOR} and later ones of {MAJOR}"
        )
    return InitOut(
        major=MAJOR,
        minor=min(MINOR, init.minor),
        max_readahead=init.max_readahead,
        flags=init.flags & FEATURES,
        # RELEASEs count as background, and must not wait behind others (see bridge)
        max_background=0xFFFF,
        congestion_threshold=0xFFFF,
        max_write=MAX_WRITE,
    )
