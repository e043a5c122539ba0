"""How one field of a message lies on the wire.

A message is a dataclass whose fields are annotated with the types below
(`U32`, `Str`, ...); this module turns such a class into the functions that
pack and unpack it, so that a message is written down once, as its fields.

Rules: every length is checked against what is there before it is used; a
frame must be used up exactly; strings are valid UTF-8 without NUL.  A
violation raises `BadMessage`, never anything else.

Shapes: integers are little-endian; Str is s[2] bytes; Data is n[4] bytes;
a Qid is type[1] vers[4] path[8]; a stat field is n[2] and then a Dir, which
begins with its own size[2] (stat(5)); in 9P2000.u it ends with extension[s] n_uid[4]
n_gid[4] n_muid[4].
"""

from __future__ import annotations

import dataclasses
import operator
import struct
import typing
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from . import constants as c


class BadMessage(Exception):
    """A sound frame whose contents are not a message of the table.

    `tag` says whom to answer with the error.
    """

    def __init__(self, tag: int, reason: str) -> None:
        super().__init__(reason)
        self.tag = tag
        self.reason = reason


class Qid(NamedTuple):
    """The server's identity of a file: intro(5)."""

    type: int
    vers: int
    path: int


@dataclasses.dataclass(slots=True)
class Dir:
    """A stat record: stat(5).  `dev` and `type` are the kernel's, 0 here."""

    name: str
    qid: Qid
    mode: int
    """permission bits and DM* bits"""
    type: int = 0
    dev: int = 0
    atime: int = 0
    mtime: int = 0
    length: int = 0
    uid: str = ""
    gid: str = ""
    muid: str = ""
    n_uid: int = c.NONUNAME
    """these three are sent by 9P2000.u and .L only"""
    n_gid: int = c.NONUNAME
    n_muid: int = c.NONUNAME


def dont_touch() -> Dir:
    """The stat that a Twstat changes nothing with (stat(5))."""
    return Dir(
        "",
        Qid(c.DONT_TOUCH_8, c.DONT_TOUCH_32, c.DONT_TOUCH_64),
        mode=c.DONT_TOUCH_32,
        type=c.DONT_TOUCH_16,
        dev=c.DONT_TOUCH_32,
        atime=c.DONT_TOUCH_32,
        mtime=c.DONT_TOUCH_32,
        length=c.DONT_TOUCH_64,
    )


class _Short(Exception):
    """A field reaches beyond its frame, or a string is malformed."""


Unpack = Callable[[bytes, int], tuple[Any, int]]
Pack = Callable[[Any], bytes]


class _Kind(NamedTuple):
    """One wire type: a struct code if its size is fixed, else functions."""

    code: str
    pack: Pack
    unpack: Unpack


_u16 = struct.Struct("<H")
_u32 = struct.Struct("<I")
_qid = struct.Struct("<BIQ")
_stat = struct.Struct("<HHIBIQIIIQ")
_stat_after_size = struct.Struct("<HIBIQIIIQ")
_numbers = struct.Struct("<III")


def _fixed(code: str) -> _Kind:
    s = struct.Struct("<" + code)

    def unpack(frame: bytes, at: int) -> tuple[Any, int]:
        return s.unpack_from(frame, at)[0], at + s.size

    return _Kind(code, s.pack, unpack)


def _pack_str(value: str) -> bytes:
    raw = value.encode()
    return _u16.pack(len(raw)) + raw


def _unpack_str(frame: bytes, at: int) -> tuple[str, int]:
    (n,) = _u16.unpack_from(frame, at)
    end = at + 2 + n
    raw = frame[at + 2 : end]
    if len(raw) != n:
        raise _Short(f"a string of {n} bytes reaches beyond its message")
    if b"\0" in raw:
        raise _Short("a string contains NUL")
    return raw.decode(), end


def _pack_data(value: bytes) -> bytes:
    return _u32.pack(len(value)) + value


def _unpack_data(frame: bytes, at: int) -> tuple[bytes, int]:
    (n,) = _u32.unpack_from(frame, at)
    end = at + 4 + n
    if end > len(frame):
        raise _Short(f"data of {n} bytes reaches beyond its message")
    return frame[at + 4 : end], end


def _pack_qid(value: Qid) -> bytes:
    return _qid.pack(*value)


def _unpack_qid(frame: bytes, at: int) -> tuple[Qid, int]:
    return Qid._make(_qid.unpack_from(frame, at)), at + 13


def _list_kind(pack_item: Pack, unpack_item: Unpack, what: str) -> _Kind:
    """n[2] and then n items, at most MAXWELEM."""

    def pack(value: tuple[Any, ...]) -> bytes:
        return _u16.pack(len(value)) + b"".join(map(pack_item, value))

    def unpack(frame: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        (n,) = _u16.unpack_from(frame, at)
        if n > c.MAXWELEM:
            raise _Short(f"{n} {what} in a walk, the limit is {c.MAXWELEM}")
        at += 2
        items = []
        for _ in range(n):
            item, at = unpack_item(frame, at)
            items.append(item)
        return tuple(items), at

    return _Kind("", pack, unpack)


def pack_dir(d: Dir) -> bytes:
    """A stat record as directory reads return it: size[2] and the fields."""
    return _pack_dir(d, b"")


def pack_dir_u(d: Dir) -> bytes:
    """The same in 9P2000.u: extension[s], always empty here, and numeric owners."""
    return _pack_dir(d, b"\0\0" + _numbers.pack(d.n_uid, d.n_gid, d.n_muid))


def _pack_dir(d: Dir, more: bytes) -> bytes:
    names = _pack_str(d.name) + _pack_str(d.uid) + _pack_str(d.gid) + _pack_str(d.muid)
    tail = names + more
    size = _stat_after_size.size + len(tail)
    return (
        _stat.pack(size, d.type, d.dev, *d.qid, d.mode, d.atime, d.mtime, d.length) + tail
    )


def _unpack_dir_at(raw: bytes, at: int, unix: bool = False) -> tuple[Dir, int]:
    size, type_, dev, qt, qv, qp, mode, atime, mtime, length = _stat.unpack_from(raw, at)
    end = at + 2 + size
    if end > len(raw):
        raise _Short(f"a stat record of {size} bytes reaches beyond its message")
    at += _stat.size
    name, at = _unpack_str(raw, at)
    uid, at = _unpack_str(raw, at)
    gid, at = _unpack_str(raw, at)
    muid, at = _unpack_str(raw, at)
    numbers = (c.NONUNAME,) * 3
    if unix:
        _, at = _unpack_str(raw, at)
        numbers = _numbers.unpack_from(raw, at)
        at += _numbers.size
    if at != end:
        raise _Short("a stat record's size does not match its fields")
    return Dir(
        name, Qid(qt, qv, qp), mode, type_, dev, atime, mtime, length, uid, gid, muid, *numbers
    ), at


def unpack_dirs(raw: bytes) -> list[Dir]:
    """The records of a directory read.  Raises ValueError on a broken one."""
    return _unpack_dirs(raw, unix=False)


def unpack_dirs_u(raw: bytes) -> list[Dir]:
    """The same in 9P2000.u."""
    return _unpack_dirs(raw, unix=True)


def _unpack_dirs(raw: bytes, unix: bool) -> list[Dir]:
    dirs = []
    at = 0
    try:
        while at < len(raw):
            d, at = _unpack_dir_at(raw, at, unix)
            dirs.append(d)
    except (_Short, struct.error, UnicodeDecodeError) as e:
        raise ValueError(f"malformed directory entry: {e}") from e
    return dirs


def _stat_kind(pack_record: Callable[[Dir], bytes], unix: bool) -> _Kind:
    def pack(value: Dir) -> bytes:
        raw = pack_record(value)
        return _u16.pack(len(raw)) + raw

    def unpack(frame: bytes, at: int) -> tuple[Dir, int]:
        (n,) = _u16.unpack_from(frame, at)
        d, end = _unpack_dir_at(frame, at + 2, unix)
        if end != at + 2 + n:
            raise _Short("a stat field's length does not match its record")
        return d, end

    return _Kind("", pack, unpack)


_KINDS = {
    "U8": _fixed("B"),
    "U16": _fixed("H"),
    "U32": _fixed("I"),
    "U64": _fixed("Q"),
    "Str": _Kind("", _pack_str, _unpack_str),
    "Data": _Kind("", _pack_data, _unpack_data),
    "QidField": _Kind("", _pack_qid, _unpack_qid),
    "Names": _list_kind(_pack_str, _unpack_str, "names"),
    "Qids": _list_kind(_pack_qid, _unpack_qid, "qids"),
    "Stat": _stat_kind(pack_dir, unix=False),
    "StatU": _stat_kind(pack_dir_u, unix=True),
}

U8 = Annotated[int, "U8"]
U16 = Annotated[int, "U16"]
U32 = Annotated[int, "U32"]
U64 = Annotated[int, "U64"]
Str = Annotated[str, "Str"]
Data = Annotated[bytes, "Data"]
QidField = Annotated[Qid, "QidField"]
Names = Annotated[tuple[str, ...], "Names"]
Qids = Annotated[tuple[Qid, ...], "Qids"]
Stat = Annotated[Dir, "Stat"]
StatU = Annotated[Dir, "StatU"]


def field_kinds(cls: type) -> dict[str, str]:
    """Name -> wire type of each field after the tag, in wire order."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        f.name: hints[f.name].__metadata__[0]
        for f in dataclasses.fields(cls)
        if f.name != "tag"
    }


def codec(cls: Any, number: int) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """The pack and unpack functions of a message class.

    The fixed-size fields at a message's front are one struct together with the
    header; what follows is packed field by field.  Most T-messages, and all that
    are frequent, are that one struct and nothing more; and the frequent Rread is
    that and its data, whose n[4] is made part of the struct.
    """
    kinds = list(field_kinds(cls).items())
    front = []
    while kinds and _KINDS[kinds[0][1]].code:
        front.append(kinds.pop(0))
    codes = "".join(_KINDS[k].code for _, k in front)
    head = struct.Struct("<IBH" + codes)
    fields = struct.Struct("<5xH" + codes)
    head_and_count = struct.Struct("<IBH" + codes + "I")
    names = ["tag"] + [name for name, _ in front]
    tail = [(name, _KINDS[k].pack, _KINDS[k].unpack) for name, k in kinds]
    size = head.size
    values_of = operator.attrgetter(*names) if front else lambda msg: (msg.tag,)

    def pack_fixed(msg: Any) -> bytes:
        return head.pack(size, number, *values_of(msg))

    def pack_and_data(msg: Any) -> bytes:
        data: bytes = msg.data
        n = len(data)
        return head_and_count.pack(size + 4 + n, number, *values_of(msg), n) + data

    def pack(msg: Any) -> bytes:
        rest = b"".join([pack_field(getattr(msg, name)) for name, pack_field, _ in tail])
        return head.pack(size + len(rest), number, *values_of(msg)) + rest

    def bad(frame: bytes, reason: object) -> BadMessage:
        return BadMessage(frame_tag(frame), f"bad {cls.__name__}: {reason}")

    def unpack_fixed(frame: bytes) -> Any:
        try:
            return cls(*fields.unpack(frame))
        except struct.error:
            beyond = len(frame) - size
            raise bad(
                frame, f"{beyond} bytes beyond its fields" if beyond > 0 else "message is too short"
            ) from None

    def unpack(frame: bytes) -> Any:
        try:
            values = list(fields.unpack_from(frame))
            at = size
            for _, _, unpack_field in tail:
                value, at = unpack_field(frame, at)
                values.append(value)
        except (struct.error, _Short, UnicodeDecodeError) as e:
            reason = "message is too short" if isinstance(e, struct.error) else e
            raise bad(frame, reason) from e
        if at != len(frame):
            raise bad(frame, f"{len(frame) - at} bytes beyond its fields")
        return cls(*values)

    if not tail:
        return pack_fixed, unpack_fixed
    return pack_and_data if list(kinds) == [("data", "Data")] else pack, unpack


def frame_tag(frame: bytes) -> int:
    """The tag of a frame of at least HEADER bytes."""
    tag: int = _u16.unpack_from(frame, 5)[0]
    return tag
