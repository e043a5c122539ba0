"""Texts that are small to write and costly to obey, a table: what each is, its file, the text.

Owns the texts alone.  Each is written to a conversation's file, which may refuse it, and a prompt
is asked with it; nobody else may have to wait for that.  Add a line for each text that ever held up
a host or the orchestrator, whether it is refused today or not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple


class Text(NamedTuple):
    what: str
    file: str
    text: Callable[[], str]


def _doubled(rules: int) -> str:
    """Each rule is the next one twice: 2^rules ways to say nothing."""
    lines = [f"x{n} ::= x{n - 1} x{n - 1}" for n in range(rules, 0, -1)]
    return "\n".join([f"root ::= x{rules}", *lines, 'x0 ::= "a"?'])


def _chained(rules: int) -> str:
    """Each rule may be empty when the next one may be."""
    lines = [f"r{n} ::= r{n + 1}" for n in range(rules)]
    return "\n".join(["root ::= r0", *lines, f'r{rules} ::= "a"?'])


def _nested(depth: int, opening: str, inner: str, closing: str) -> str:
    return opening * depth + inner + closing * depth


def _refs(count: int) -> str:
    """Each definition refers to the next one."""
    defs: dict[str, object] = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(count)}
    defs[f"d{count}"] = {"type": "string"}
    return json.dumps({"$ref": "#/$defs/d0", "$defs": defs})


def _schema(**keys: object) -> Callable[[], str]:
    return lambda: json.dumps(keys)


TEXTS = [
    Text(
        "optional repeats within optional repeats",
        "grammar",
        lambda: 'root ::= ([a-z]{0,20} " "?){0,50} "."',
    ),
    Text("rules that double", "grammar", lambda: _doubled(9)),
    Text("rules that double for ever", "grammar", lambda: _doubled(40)),
    Text("5,350 chained rules, 61 KB", "grammar", lambda: _chained(5350)),
    Text("10,000 parentheses", "grammar", lambda: "root ::= " + _nested(10_000, "(", '"a"', ")")),
    Text("a rule that begins with itself", "grammar", lambda: 'root ::= root "a" | "a"'),
    Text("a huge repeat", "grammar", lambda: 'root ::= ("a" | "b"){100000}'),
    Text("a megabyte of alternatives", "grammar", lambda: 'root ::= "a"' + ' | "abcdefgh"' * 10**5),
    Text(
        "names that differ in one sign",
        "grammar",
        lambda: 'root ::= a-b a_b\na-b ::= "x"\na_b ::= "y"',
    ),
    Text("a Lark grammar of nothing", "grammar", lambda: 'start: a*\na: ""'),
    Text("a Lark grammar of all text", "grammar", lambda: "start: /(.|\\n)*/"),
    Text("repeats", "schema", _schema(type="string", pattern="^((((a?){8}){8}){8})b$")),
    Text("a pattern of many ways", "schema", _schema(type="string", pattern="^(a|a)*(a|aa)+$")),
    Text("1,200 references", "schema", lambda: _refs(1200)),
    Text("a reference to itself", "schema", _schema(**{"$ref": "#"})),
    Text(
        "1,000 levels of arrays",
        "schema",
        lambda: _nested(1000, '{"type":"array","items":', "{}", "}"),
    ),
    Text("100,000 levels", "schema", lambda: _nested(100_000, '{"not":', "{}", "}")),
    Text(
        "10,000 properties, all optional",
        "schema",
        _schema(type="object", properties={f"p{n}": {"type": "string"} for n in range(10_000)}),
    ),
    Text(
        "all subsets of 30 alternatives",
        "schema",
        _schema(allOf=[{"anyOf": [{"minimum": n}, {"maximum": -n}]} for n in range(30)]),
    ),
    Text("a string of a billion", "schema", _schema(type="string", minLength=10**9)),
    Text("an array of a billion", "schema", _schema(type="array", minItems=10**9)),
    Text("a number of 4,000 digits", "schema", lambda: '{"minimum": %s}' % ("9" * 4000)),
    Text("a number of a million digits", "schema", lambda: '{"const": %s}' % ("9" * 10**6)),
    Text("repeats of repeats", "regex", lambda: "((((a?){30}){30}){30})b"),
    Text("all ways of all ways", "regex", lambda: "(a|b|ab)*(c|d|cd)*" * 200),
    Text("a huge class", "regex", lambda: "[^\\x00-\\x1f]{0,100000}x"),
    Text("10,000 groups", "regex", lambda: _nested(10_000, "(", "a", ")")),
    Text("a look-around", "regex", lambda: "(?=a)(?!b).*"),
    Text("a million tokens", "tokens", lambda: "1000\n" * 1_000_000),
    Text("long system prompt", "system", lambda: "be short. " * 100_000),
]
