"""YAML that means what it says.

PyYAML reads YAML 1.1, in which `010` is 8, `1:30` is 90 and `no` is false, and of a key that is
given twice it keeps the last.  Each of that is a problem here, which names the line; text and
values are otherwise PyYAML's.

It must not know the configuration's keys: whoever reads says where a switch is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import yaml

from ..errors import InvalidArgument

_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9]+")


class Problem(NamedTuple):
    line: int
    """from 1"""
    loc: list[str]
    """the keys that lead there"""
    text: str


class Text(NamedTuple):
    root: yaml.Node | None
    value: Any
    problems: list[Problem]
    """that a reader of the value would not see"""


def read(text: str, name: str, wants_switch: Callable[[list[str]], bool]) -> Text:
    """`wants_switch` says whether yes, no, on or off may be the value that these keys lead to.
    Raises InvalidArgument, beginning with `name`, for what is no YAML."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f":{mark.line + 1}" if mark is not None else ""
        raise InvalidArgument(f"{name}{where}: {getattr(e, 'problem', None) or e}") from None
    return Text(root, value, list(_problems(root, [], wants_switch)))


def line_of(node: yaml.Node | None, loc: list[str]) -> int:
    """The line of the deepest key of `loc` that is in the file."""
    line = 1
    for part in loc:
        if not isinstance(node, yaml.MappingNode):
            break
        for key, value in node.value:
            if key.value == part:
                line, node = key.start_mark.line + 1, value
                break
        else:
            break
    return line


def _problems(
    node: yaml.Node | None, loc: list[str], wants_switch: Callable[[list[str]], bool]
) -> Iterator[Problem]:
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            here = [*loc, str(key.value)]
            line = key.start_mark.line + 1
            if problem := _of_scalar(key, is_switch=False):
                yield Problem(line, here, problem)
            if (before := lines.get(here[-1])) is not None:
                yield Problem(line, here, f"it is given twice, in line {before} too")
            lines[here[-1]] = line
            yield from _problems(value, here, wants_switch)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _problems(item, loc, wants_switch)
    elif node is not None and (problem := _of_scalar(node, wants_switch(loc))):
        yield Problem(node.start_mark.line + 1, loc, problem)


def _of_scalar(node: yaml.Node, is_switch: bool) -> str:
    """What is wrong with a word or number; empty: nothing."""
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        return ""  # what is quoted is a text
    said, kind = node.value, node.tag.rpartition(":")[2]
    if kind in ("int", "float") and not _DECIMAL.fullmatch(said):
        return f"{said} means {yaml.safe_load(said)!r} here: write that, or quotes for a text"
    if kind == "timestamp":
        return f"{said} means a date here: write quotes for a text"
    if kind == "bool" and not is_switch:
        means = "true" if yaml.safe_load(said) else "false"
        return f"{said} means {means} here, where no switch is: write quotes for a text"
    return ""
