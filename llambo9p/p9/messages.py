"""The messages of 9P2000: every message once, as its fields in wire order.

Source: intro(5) and the page of each message.  What 9P2000.u and .L add or change is
in `dialects`, and so are the tables from type number to class.  Nothing else in the
project knows a type number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

from .wire import (
    U8,
    U16,
    U32,
    U64,
    Data,
    Names,
    QidField,
    Qids,
    Stat,
    Str,
    codec,
    field_kinds,
)


@dataclasses.dataclass(slots=True)
class Message:
    """A 9P message.  `number` is its type; a T is even, its R is one more."""

    tag: U16
    number: ClassVar[int]
    kinds: ClassVar[dict[str, str]]
    """name -> wire type of each field after the tag, in wire order"""

    def pack(self) -> bytes:
        """The whole frame, size and all."""
        raise NotImplementedError

    @classmethod
    def unpack(cls, frame: bytes) -> Self:
        """The message in a whole frame.  Raises `BadMessage`."""
        raise NotImplementedError


_M = TypeVar("_M", bound=type[Message])


@dataclass_transform()
def message(number: int) -> Callable[[_M], _M]:
    """Make a class a message: a dataclass with its codec."""

    def define(cls: _M) -> _M:
        made: Any = dataclasses.dataclass(slots=True)(cls)
        pack, unpack = codec(made, number)
        made.number = number
        made.kinds = field_kinds(made)
        made.pack = pack
        made.unpack = staticmethod(unpack)
        return made  # type: ignore[no-any-return]

    return define


@message(100)
class Tversion(Message):
    msize: U32
    version: Str


@message(101)
class Rversion(Message):
    msize: U32
    version: Str


@message(102)
class Tauth(Message):
    afid: U32
    uname: Str
    aname: Str


@message(103)
class Rauth(Message):
    aqid: QidField


@message(104)
class Tattach(Message):
    fid: U32
    afid: U32
    uname: Str
    aname: Str


@message(105)
class Rattach(Message):
    qid: QidField


@message(107)
class Rerror(Message):
    ename: Str


@message(108)
class Tflush(Message):
    oldtag: U16


@message(109)
class Rflush(Message):
    pass


@message(110)
class Twalk(Message):
    fid: U32
    newfid: U32
    wname: Names


@message(111)
class Rwalk(Message):
    wqid: Qids


@message(112)
class Topen(Message):
    fid: U32
    mode: U8


@message(113)
class Ropen(Message):
    qid: QidField
    iounit: U32


@message(114)
class Tcreate(Message):
    fid: U32
    name: Str
    perm: U32
    mode: U8


@message(115)
class Rcreate(Message):
    qid: QidField
    iounit: U32


@message(116)
class Tread(Message):
    fid: U32
    offset: U64
    count: U32


@message(117)
class Rread(Message):
    data: Data


@message(118)
class Twrite(Message):
    fid: U32
    offset: U64
    data: Data


@message(119)
class Rwrite(Message):
    count: U32


@message(120)
class Tclunk(Message):
    fid: U32


@message(121)
class Rclunk(Message):
    pass


@message(122)
class Tremove(Message):
    fid: U32


@message(123)
class Rremove(Message):
    pass


@message(124)
class Tstat(Message):
    fid: U32


@message(125)
class Rstat(Message):
    stat: Stat


@message(126)
class Twstat(Message):
    fid: U32
    stat: Stat


@message(127)
class Rwstat(Message):
    pass
