"""How the fields of a struct of linux/fuse.h lie in memory.

A struct is a dataclass whose fields are annotated with the types below, every padding
field named, so that nothing is aligned silently.
"""

from __future__ import annotations

import dataclasses
import struct
import typing
from typing import Annotated

U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]
Name = Annotated[str, "name"]
"""ends with NUL; bytes that are not UTF-8 are kept as Python keeps file names"""
Data = Annotated[bytes, "data"]
"""the rest of the request"""

_NUMBERS = "HIQ"


def layout(cls: type, after: tuple[str, ...] = ()) -> tuple[struct.Struct, list[str], list[str]]:
    """The struct of the numbers in dataclass `cls`, in this machine's byte order; their
    names; and the names of the fields that follow.  Fields in `after` are passed over."""
    hints = typing.get_type_hints(cls, include_extras=True)
    codes, numbers, rest = "=", [], []
    for field in dataclasses.fields(cls):
        if field.name in after:
            continue
        code = getattr(hints[field.name], "__metadata__", ("",))[0]
        if code and code in _NUMBERS:
            codes += code
            numbers.append(field.name)
        else:
            rest.append(field.name)
    return struct.Struct(codes), numbers, rest
