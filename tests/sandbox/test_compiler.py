"""Hostile texts end a child process at most; whoever else writes one is served."""

from __future__ import annotations

import json
import time

import pytest

from llambo9p.engine.sandbox import compiler as module
from llambo9p.engine.sandbox.compiler import Compiler
from llambo9p.engine.sandbox.limits import Limits
from llambo9p.engine.structured.constraint import Constraint
from llambo9p.errors import InvalidArgument

CHAIN = "".join(f"r{i} ::= r{i + 1}\n" for i in range(5350))
REFS = {
    "$ref": "#/$defs/d0",
    "$defs": {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(1200)}
    | {"d1200": {"type": "integer"}},
}


@pytest.fixture(scope="module")
def compiler():
    compiler = Compiler(limits=Limits(cpu=2, wall=30))
    yield compiler
    compiler.close()


HOSTILE = {
    "chain": Constraint("grammar", f'root ::= r0\n{CHAIN}r5350 ::= "a"'),
    "refs": Constraint("schema", json.dumps(REFS)),
    "nested": Constraint("schema", '{"items":' * 20_000 + "{}" + "}" * 20_000),
    "lark": Constraint("grammar", "start: " + "(" * 50_000 + '"a"' + ")" * 50_000),
    "gbnf": Constraint("grammar", "root ::= " + "(" * 50_000 + '"a"' + ")" * 50_000),
    "regex": Constraint("regex", "(" * 100_000 + "a" + ")" * 100_000),
    "counts": Constraint("regex", "(((((a?){99}){99}){99}){99}){99}"),
    "squares": Constraint(
        "grammar",
        "root ::= x9\n"
        + "".join(f"x{i} ::= {f'x{i - 1} ' * 8}\n" for i in range(1, 10))
        + 'x0 ::= "a"?',
    ),
    "words": Constraint("grammar", 'root ::= ([a-z]{0,20} " "?){0,50} "."'),
    "pattern": Constraint("schema", '{"type":"string","pattern":"^((((a?){8}){8}){8})b$"}'),
    "union": Constraint("regex", "|".join(f".*{i}.*{i + 1}.*" for i in range(3000))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_refused_or_compiled_within_its_bounds(compiler, name):
    """Refused with what was wrong; and whoever comes next is served."""
    constraint = HOSTILE[name]
    try:
        assert compiler.grammar(constraint, "mallory").result(60)
    except InvalidArgument as error:
        assert str(error).startswith(constraint.kind)
        assert len(str(error)) < 700
    assert compiler.grammar(Constraint("regex", f"a{name}"), "alice").result(60)


def test_a_refusal_is_remembered(compiler):
    bad = Constraint("regex", "(")
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="^regex: .*unclosed group"):
            compiler.grammar(bad, "alice").result(60)
    assert compiler.grammar(bad, "bob").done(), "no child is asked again"
    with pytest.raises(InvalidArgument):
        compiler.check(bad, "bob").result()


def test_what_is_known_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "CACHED", 3)
    compiler = Compiler(children=1)
    try:
        for i in range(5):
            compiler.grammar(Constraint("regex", f"a{i}"), "alice").result(60)
        assert compiler.grammar(Constraint("regex", "a4"), "alice").done()
        again = compiler.grammar(Constraint("regex", "a0"), "alice")
        assert not again.done()
        again.result(60)
    finally:
        compiler.close()


def test_another_users_text_does_not_wait_for_those_of_one(compiler):
    """Mallory's texts run one after the other, for all the time that each may take."""
    slow = [
        Constraint("regex", "|".join(f".*{i}.*{i + 1}.*{n}" for i in range(3000)))
        for n in range(4)
    ]
    hostile = [compiler.grammar(text, "mallory") for text in slow]
    compiler.grammar(Constraint("regex", "b"), "alice").result(60)
    assert sum(each.done() for each in hostile) < len(hostile)
    for each in hostile:
        each.exception(60)


def test_a_grammar_that_allows_nothing_is_refused(compiler):
    with pytest.raises(InvalidArgument, match="^schema: "):
        compiler.grammar(Constraint("schema", '{"enum": []}'), "alice").result(60)


def test_close_ends_what_waits():
    compiler = Compiler(children=1)
    futures = [compiler.grammar(Constraint("regex", f"c{i}"), "alice") for i in range(9)]
    began = time.monotonic()
    compiler.close()
    assert all(future.done() for future in futures)
    assert time.monotonic() - began < 60
