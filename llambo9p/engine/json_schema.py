"""Checks a JSON schema before it is made a grammar, and says where it is no JSON.

What cannot be converted is found by the conversion (`llama_schema`).  Here is refused what
would never end there, or be written out without bound: counts, numbers and patterns are read
as the converter reads them.
"""

from __future__ import annotations

import json
import re
from typing import Any

from llambo9p.engine.gbnf import MAX_REPETITIONS, MAX_SIZE, count, whole_characters
from llambo9p.errors import InvalidArgument

MAX_NUMBER = 10**15
_COUNTS = {"minItems", "maxItems", "minLength", "maxLength"}
_SET = re.compile(r"\[(?:\\.|[^]\\])*\]", re.DOTALL)
_REPEAT = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}", re.ASCII)


def check(text: str) -> None:
    """Raises InvalidArgument naming the line, or what is too much."""
    try:
        schema = json.loads(text)
    except json.JSONDecodeError as e:
        raise InvalidArgument(f"schema line {e.lineno}: {e.msg}") from None
    except (ValueError, RecursionError) as e:
        raise InvalidArgument(f"schema: {e}") from None
    if not isinstance(schema, dict):
        raise InvalidArgument("schema: a JSON object was expected")
    waiting: list[Any] = [schema]
    while waiting:
        here = waiting.pop()
        if isinstance(here, list):
            waiting += here
        elif isinstance(here, dict):
            for key, value in here.items():
                waiting += key, value
                if key == "pattern" and isinstance(value, str):
                    _check_pattern(value)
                if isinstance(value, int | float):
                    _check_number(key, value)
        elif isinstance(here, str):
            whole_characters(here, "schema")


def _check_number(key: str, value: float) -> None:
    most = MAX_REPETITIONS if key in _COUNTS else MAX_NUMBER
    if not -most <= value <= most:  # a NaN is not either
        raise InvalidArgument(f"schema: {key} must be at most {most}")


def _check_pattern(pattern: str) -> None:
    """Its size, when repetitions are written out, is that of the groups in it."""
    if len(pattern) > MAX_SIZE:
        raise InvalidArgument(f"schema: a pattern is longer than {MAX_SIZE} characters")
    groups = [(0, 0)]
    """those that are open: the size of what is in them but the last item, and of that"""
    at = 0
    while at < len(pattern):
        char = pattern[at]
        size, last = groups[-1]
        end = at + 1
        if char == "(":
            groups.append((0, 0))
        elif char == ")" and len(groups) > 1:
            groups.pop()
            before, item = groups[-1]
            groups[-1] = before + item, size + last
        elif char == "{":
            found = _REPEAT.match(pattern, at)
            if found is None:
                raise _wrong(pattern, at, "a repetition is written {N}, {N,} or {N,M}")
            times = max(count(found[1] or "0"), count(found[2] or "0"))
            groups[-1] = size, last * max(1, times)
            end = found.end()
        elif char == "[":
            found = _SET.match(pattern, at)
            if found is None:
                raise _wrong(pattern, at, "this set of characters is not closed")
            groups[-1] = size + last, 1
            end = found.end()
        elif char in ")]}":
            raise _wrong(pattern, at, f"nothing is open here; the character itself is \\{char}")
        elif char not in "*+?":
            groups[-1] = size + last, 1
            end += char == "\\"
        if sum(groups[-1]) > MAX_SIZE:
            raise InvalidArgument(f"schema: a pattern repeats more than {MAX_SIZE} times in all")
        at = end


def _wrong(pattern: str, at: int, why: str) -> InvalidArgument:
    return InvalidArgument(f"schema: at {pattern[at : at + 20]!r} of a pattern: {why}")
