"""Grammars and schemas that are refused, and where they are wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator

import llama_cpp.llama_grammar as examples
import pytest

from llambo9p.engine import gbnf, json_schema
from llambo9p.engine.base import SamplingParams
from llambo9p.engine.llama import LlamaRunner
from llambo9p.errors import InvalidArgument

GOOD = [
    *(text for name, text in sorted(vars(examples).items()) if name.endswith("_GBNF")),
    'root ::= "a" | ',
    "root ::=",
    'root::="a"#no newline',
    'root ::= ("a"\n | "b" # and\n)\n\n# a comment\nb-2 ::= root?',
    'root ::= "a"{2}"b"{2,}"c"{ 2 , 3 }"d"*?("e"|"f"+)+',
    'root ::= (a){0,3} a{5}\na ::= "x"? | ',
    r'root ::= "\x41\u00e9\U0001F600\t\r\n\\\"\[\]" [^\]a-z-] .',
    'root ::= "é☃" []',
    'root ::= ("x"\n (a b)*)\na ::= b\nb ::= "y"?',
    'root ::= ("x"? | "y"){2,}',
    'root ::= a a\na ::= "x" root?',
]
"""llama.cpp takes them, too"""

BAD = [
    ('root ::= "a" )', "line 1: the end of the line was expected, not ')'"),
    ('root ::= "a"\n\nb ::= foo | foo', "line 3: the rule `foo` is used and not defined"),
    ('x ::= "a"', "there is no rule `root`"),
    ('root ::= "a"\n  b" ::= "a"', "line 2: `::=` was expected after `b`, not '\"'"),
    ('root ::= "a"\n| "b"', "line 2: a rule's name was expected, not '|'"),
    ('root ::= "a"\n b ::= "a', "line 2: this string is not closed"),
    ('root ::= (\n"a" (\n"b")', "line 1: this parenthesis is not closed"),
    ("root ::= [a-", "line 1: this set of characters is not closed"),
    (r'root ::= "\q"', r"line 1: unknown escape '\\q'"),
    (r'root ::= "\x4"', "line 1: unknown escape"),
    ("root ::= *", "line 1: there is nothing before '*' to repeat"),
    ('root ::= "a"{,3}', r"line 1: a repetition is written {N}, {N,} or {N,M}"),
    ('root ::= "a"{2001}', "line 1: more than 2000 repetitions"),
    ("root ::= <", "line 1: a token is written <NAME> or <[ID]>"),
    ('root ::= "d"*+', "line 1: what may be empty is repeated without end"),
    ('root ::= "x"\n (a b)*\na ::= "b"\nb ::= a?', "line 2: a rule's name was expected"),
    ('root ::= ("x"\n a*)\na ::= "y" | ', "line 2: what may be empty is repeated"),
    ('root ::= ("x" | ""){2,}', "line 1: what may be empty is repeated without end"),
    ('root ::= root "a"', "line 1: the rule `root` begins with itself"),
    ('root ::= b\nb ::= "a" | ("")? c?\nc ::= [] b', "line 1: the rule `b` begins with itself"),
]

TOO_MUCH = [
    ("", "there is no rule `root`"),
    ("root ::= [z-a]", "line 1: the range 'z' to 'a' is empty"),
    (r'root ::= "\U00110000"', r"line 1: \U00110000 is no character"),
    ('root ::= "a"{3,2}', r"line 1: {3,2} ends before it begins"),
    ('root ::= ("a"{1000}){1000}', r"line 1: {1000} repeats too much: more than 20000"),
    ("root ::= " + "(" * 101, "line 1: more than 100 parentheses"),
    ('root ::= "a"{2000}\nb ::= ' + '"a"{2000}' * 10, "line 2: more than 20000 elements"),
]
"""likewise, but some of these llama.cpp takes, and some take all memory there"""


@pytest.fixture(scope="module")
def loaded(llama: LlamaRunner) -> Iterator[LlamaRunner]:
    llama.load(lambda fraction: True)
    yield llama
    llama.close()


@pytest.mark.parametrize("text", GOOD)
def test_what_llama_cpp_takes_is_taken(text: str, loaded: LlamaRunner) -> None:
    gbnf.check(text)
    assert loaded.sampler(SamplingParams(grammar=text), [1]).grammar


@pytest.mark.parametrize(("text", "why"), BAD + TOO_MUCH)
def test_what_is_wrong_is_named_with_its_line(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^grammar:? {re.escape(why)}"):
        gbnf.check(text)


@pytest.mark.parametrize("text", [text for text, _ in BAD])
def test_what_is_refused_llama_cpp_does_not_take_either(text: str, loaded: LlamaRunner) -> None:
    with pytest.raises(InvalidArgument, match="no tokens for"):
        loaded.sampler(SamplingParams(grammar=text), [1])


def test_the_largest_repetition_is_taken_by_llama_cpp(loaded: LlamaRunner) -> None:
    text = f'root ::= ("a"{{10}}){{{gbnf.MAX_SIZE // 10}}}'
    gbnf.check(text)
    assert loaded.sampler(SamplingParams(grammar=text), [1]).grammar


def test_a_token_that_the_model_does_not_have_is_refused(loaded: LlamaRunner) -> None:
    with pytest.raises(InvalidArgument, match="what this model has no tokens for"):
        loaded.sampler(SamplingParams(grammar="root ::= <nosuch>"), [1])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{\n"type": \n}', "schema line 3: Expecting value"),
        ("[1]", "schema: a JSON object was expected"),
        ("[" * 100_000, "schema: "),
        ('{"anyOf": [{"minItems": 2001}]}', "schema: minItems must be at most 2000"),
        ('{"maximum": 1e400}', f"schema: maximum must be at most {10**15}"),
        ('{"x": NaN}', "schema: x must be"),
        ('{"x": 1%s}' % ("0" * 5000), "schema: "),
        ('{"pattern": "^(a{2,200}){200,}$"}', "schema: a pattern repeats more than 20000 times"),
    ],
)
def test_a_schema_that_is_none_or_too_much_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        json_schema.check(text)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ('{"$ref": "#/nowhere"}', "schema: it cannot be made a grammar: "),
        ('{"type": "frob"}', "schema: it cannot be made a grammar: "),
    ],
)
def test_a_schema_that_makes_no_grammar_says_why(
    schema: str, why: str, loaded: LlamaRunner
) -> None:
    json_schema.check(schema)
    with pytest.raises(InvalidArgument, match=why):
        loaded.sampler(SamplingParams(schema=schema), [1])
