"""Looks at what a caller hands over before it is used: each function gives the value back, or
raises InvalidArgument with the argument's name, what it must be, and what it was.

Without that a wrong type would be told by whatever meets it first: ctypes, in the middle of a
step, or a child process.  Which numbers are allowed, those say who use them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from llambo9p.errors import InvalidArgument

T = TypeVar("T")

_SHOWN = 60
"""characters of a wrong value"""


def whole(name: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _wrong(name, "a whole number", value)


def number(name: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise _wrong(name, "a number", value)


def switch(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _wrong(name, "True or False", value)


def text(name: str, value: Any) -> str:
    """A str that is text: without lone surrogates."""
    if isinstance(value, str):
        try:
            value.encode()
            return value
        except UnicodeEncodeError:
            pass
    raise _wrong(name, "a text", value)


def word(name: str, value: Any) -> str:
    """A text of one line, that a command line or a file of ours can have."""
    if isinstance(value, str) and value.isprintable() and value:
        return text(name, value)
    raise _wrong(name, "a text of one line", value)


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Texts that are not empty, as a list or a tuple."""
    if not isinstance(value, list | tuple):
        raise _wrong(name, "strings, as a list or a tuple", value)
    for each in value:
        if not text(name, each):
            raise InvalidArgument(f"{name} must not have an empty string")
    return tuple(value)


def path(name: str, value: Any) -> Path | str:
    """A path that can be given to the system."""
    if isinstance(value, Path | str):
        try:
            if b"\0" not in os.fsencode(value):
                return value
        except UnicodeEncodeError:
            pass
    raise _wrong(name, "a path", value)


def kind(name: str, value: Any, of: type[T]) -> T:
    """An object of that class."""
    if isinstance(value, of):
        return value
    what = of.__name__
    raise _wrong(name, f"{'an' if what[0] in 'AEIOU' else 'a'} {what}", value)


def kinds(name: str, value: Any, of: type[T]) -> list[T]:
    """Objects of that class."""
    return [kind(f"each of {name}", each, of) for each in several(name, value)]


def several(name: str, value: Any) -> Sequence[Any]:
    """As a list or a tuple."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise _wrong(name, "a list or a tuple", value)
    return value


def _wrong(name: str, must_be: str, value: object) -> InvalidArgument:
    shown = ascii(value)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}..."
    return InvalidArgument(f"{name} must be {must_be}, not {shown}")
