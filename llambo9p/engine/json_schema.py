"""Checks a JSON schema before it is made a grammar, and says where it is no JSON.

llama-cpp-python's converter writes out what a schema says of numbers, for as long as that
takes; here those are bounded, so that nobody's schema stops everybody's decoding.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from llambo9p.engine.gbnf import MAX_REPETITIONS, MAX_SIZE
from llambo9p.errors import InvalidArgument

MAX_NUMBER = 10**15
_COUNTS = {"minItems", "maxItems", "minLength", "maxLength"}


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
                if key == "pattern" and isinstance(value, str):
                    _check_pattern(value)
                if isinstance(value, int | float):
                    _check_number(key, value)
                waiting.append(value)


def _check_number(key: str, value: float) -> None:
    most = MAX_REPETITIONS if key in _COUNTS else MAX_NUMBER
    if not -most <= value <= most:  # a NaN is not either
        raise InvalidArgument(f"schema: {key} must be at most {most}")


def _check_pattern(pattern: str) -> None:
    """A repetition of a repetition is written out, too."""
    counts = [int(count) for count in re.findall(r"\d+(?=[\d,]*\})", pattern[:MAX_SIZE])]
    if len(pattern) > MAX_SIZE or math.prod(max(1, count) for count in counts) > MAX_SIZE:
        raise InvalidArgument(f"schema: a pattern repeats more than {MAX_SIZE} times in all")
