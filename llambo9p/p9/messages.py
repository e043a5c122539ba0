"""The message table of 9P2000: every message once, as its fields in wire order.

Source: intro(5) and the page of each message.  A dialect is a version string
and a table from type number to class; 9P2000.u and .L are further tables that
share most classes.  Nothing else in the project knows a type number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

from ..errors import Error
from .constants import HEADER, NOTAG, VERSION_9P2000
from .wire import (
    U8,
    U16,
    U32,
    U64,
    BadMessage,
    Data,
    Names,
    QidField,
    Qids,
    Stat,
    Str,
    codec,
    frame_tag,
)


@dataclasses.dataclass(slots=True)
class Message:
    """A 9P message.  `type` is its number; a T is even, its R is one more."""

    tag: U16
    type: ClassVar[int]

    def pack(self) -> bytes:
        """The whole frame, size and all."""
        raise NotImplementedError

    @classmethod
    def unpack(cls, frame: bytes) -> Self:
        """The message in a whole frame.  Raises `BadMessage`."""
        raise NotImplementedError


_M = TypeVar("_M", bound=type[Message])


@dataclass_transform()
def _message(number: int) -> Callable[[_M], _M]:
    def define(cls: _M) -> _M:
        made: Any = dataclasses.dataclass(slots=True)(cls)
        pack, unpack = codec(made, number)
        made.type = number
        made.pack = pack
        made.unpack = staticmethod(unpack)
        return made  # type: ignore[no-any-return]

    return define


@_message(100)
class Tversion(Message):
    msize: U32
    version: Str


@_message(101)
class Rversion(Message):
    msize: U32
    version: Str


@_message(102)
class Tauth(Message):
    afid: U32
    uname: Str
    aname: Str


@_message(103)
class Rauth(Message):
    aqid: QidField


@_message(104)
class Tattach(Message):
    fid: U32
    afid: U32
    uname: Str
    aname: Str


@_message(105)
class Rattach(Message):
    qid: QidField


@_message(107)
class Rerror(Message):
    ename: Str


@_message(108)
class Tflush(Message):
    oldtag: U16


@_message(109)
class Rflush(Message):
    pass


@_message(110)
class Twalk(Message):
    fid: U32
    newfid: U32
    wname: Names


@_message(111)
class Rwalk(Message):
    wqid: Qids


@_message(112)
class Topen(Message):
    fid: U32
    mode: U8


@_message(113)
class Ropen(Message):
    qid: QidField
    iounit: U32


@_message(114)
class Tcreate(Message):
    fid: U32
    name: Str
    perm: U32
    mode: U8


@_message(115)
class Rcreate(Message):
    qid: QidField
    iounit: U32


@_message(116)
class Tread(Message):
    fid: U32
    offset: U64
    count: U32


@_message(117)
class Rread(Message):
    data: Data


@_message(118)
class Twrite(Message):
    fid: U32
    offset: U64
    data: Data


@_message(119)
class Rwrite(Message):
    count: U32


@_message(120)
class Tclunk(Message):
    fid: U32


@_message(121)
class Rclunk(Message):
    pass


@_message(122)
class Tremove(Message):
    fid: U32


@_message(123)
class Rremove(Message):
    pass


@_message(124)
class Tstat(Message):
    fid: U32


@_message(125)
class Rstat(Message):
    stat: Stat


@_message(126)
class Twstat(Message):
    fid: U32
    stat: Stat


@_message(127)
class Rwstat(Message):
    pass


class Dialect:
    """A protocol version: its name, its messages, and how it says an error."""

    def __init__(self, version: str, messages: tuple[type[Message], ...]) -> None:
        self.version = version
        self.table = {cls.type: cls for cls in messages}
        self.by_name = {cls.__name__: cls for cls in messages}
        self._unpackers = {cls.type: cls.unpack for cls in messages}

    def unpack(self, frame: bytes) -> Message:
        """The message of a sound frame (see `framing`).  Raises `BadMessage`."""
        unpack = self._unpackers.get(frame[4])
        if unpack is None:
            raise BadMessage(frame_tag(frame), f"unknown message type {frame[4]}")
        return unpack(frame)

    def error(self, tag: int, error: Error, msize: int) -> Message:
        """`error` as a reply of at most `msize` bytes.

        Enames quote what clients wrote: what is no 9P string in them is replaced.
        """
        room = min(msize - HEADER - 2, 0xFFFF)
        ename = error.ename.replace("\0", "\N{REPLACEMENT CHARACTER}")
        return Rerror(tag, ename.encode(errors="replace")[:room].decode(errors="ignore"))

    def __repr__(self) -> str:
        return f"<Dialect {self.version}>"


P9_2000 = Dialect(
    VERSION_9P2000,
    (
        Tversion,
        Rversion,
        Tauth,
        Rauth,
        Tattach,
        Rattach,
        Rerror,
        Tflush,
        Rflush,
        Twalk,
        Rwalk,
        Topen,
        Ropen,
        Tcreate,
        Rcreate,
        Tread,
        Rread,
        Twrite,
        Rwrite,
        Tclunk,
        Rclunk,
        Tremove,
        Rremove,
        Tstat,
        Rstat,
        Twstat,
        Rwstat,
    ),
)

__all__ = ["NOTAG", "P9_2000", "BadMessage", "Dialect", "Message", *P9_2000.by_name]
