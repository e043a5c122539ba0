"""A schema's text as JSON, read strictly.

What Python's reader lets through and JSON does not have (NaN, Infinity), what has two readings
(a name twice in one object) and what no answer can hold (half a surrogate pair, a number beyond
a double) is refused here, with its line or its path.  Nothing after this module meets it.

A path is a chain from the place up to the document, so that a step costs the same everywhere.
Messages show it as a JSON pointer: `#/properties/a`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn, TypeAlias

from llambo9p.errors import InvalidArgument

Path: TypeAlias = "tuple[Path, str | int] | None"
"""the path of what holds it, and its name there; None: the document"""

DEEPEST = 100
"""objects and arrays in one another.  llguidance's own JSON reader takes 127"""


class _Twice(dict[str, Any]):
    """An object of the text that has a name twice."""

    name = ""


def pointer(path: Path) -> str:
    names: list[str] = []
    while path is not None:
        path, name = path
        names.append(str(name).replace("~", "~0").replace("/", "~1"))
    return "/".join(["#", *reversed(names)])


def refusal(path: Path, why: str) -> InvalidArgument:
    return InvalidArgument(f"schema: at {shown(pointer(path))}: {why}")


def shown(text: str, longest: int = 200) -> str:
    """A part of the user's text for a message: one line, not too long, printable."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: longest + 1])
    return text if len(text) <= longest else text[:longest] + "…"


def read(text: str) -> Any:
    """The document.  InvalidArgument says what is wrong with the text."""
    try:
        document = json.loads(
            text.removeprefix("\ufeff"), object_pairs_hook=_object, parse_constant=_no_constant
        )
    except json.JSONDecodeError as error:
        raise InvalidArgument(
            f"schema line {error.lineno}: no JSON: {error.msg} (column {error.colno})"
        ) from None
    except RecursionError:
        raise InvalidArgument(
            f"schema: objects and arrays are nested deeper than {DEEPEST} levels"
        ) from None
    except _NoNumber as error:
        found = next(f for f in _CONSTANTS.finditer(text) if f[0] == str(error))
        line = text.count("\n", 0, found.start()) + 1
        raise InvalidArgument(f"schema line {line}: no JSON: {error} is no number") from None
    except ValueError:
        raise InvalidArgument("schema: no JSON: an integer has more than 4,300 digits") from None
    _check(document)
    return document


class _NoNumber(Exception):
    """NaN or an infinity."""


_CONSTANTS = re.compile(r'"(?:[^"\\]|\\.)*"|NaN|-?Infinity', re.DOTALL)


def _no_constant(name: str) -> NoReturn:
    raise _NoNumber(name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    twice = _Twice(members)
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            twice.name = name
        seen.add(name)
    return twice


def _check(document: Any) -> None:
    """Walk the whole document, without recursion."""
    todo: list[tuple[Any, Path, int]] = [(document, None, 1)]
    while todo:
        value, path, depth = todo.pop()
        if isinstance(value, str):
            _check_string(value, path)
        elif isinstance(value, float) and math.isinf(value):
            raise refusal(path, "the number is too large; a double holds up to 1.8e308")
        elif isinstance(value, (dict, list)):
            if depth > DEEPEST:
                raise refusal(path, f"nested deeper than {DEEPEST} levels")
            if isinstance(value, _Twice):
                raise refusal(path, f"the name {value.name!r} stands twice in one object")
            members = value.items() if isinstance(value, dict) else enumerate(value)
            for name, member in members:
                if isinstance(name, str):
                    _check_string(name, path)
                todo.append((member, (path, name), depth + 1))


def _check_string(text: str, path: Path) -> None:
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise refusal(path, "a string has half a surrogate pair, which is no character")
