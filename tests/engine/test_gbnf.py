"""Grammars and schemas that are refused, and where they are wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import llama_cpp.llama_grammar as examples
import pytest

from llambo9p.engine import gbnf, json_schema, llama_schema
from llambo9p.engine.base import SamplingParams
from llambo9p.engine.llama import LlamaRunner
from llambo9p.engine.llama_sampler import Candidates
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
    ('root ::= "d"*+', "line 1: what may be empty is repeated without end"),
    ('root ::= "x"\n (a b)*\na ::= "b"\nb ::= a?', "line 2: a rule's name was expected"),
    ('root ::= ("x"\n a*)\na ::= "y" | ', "line 2: what may be empty is repeated"),
    ('root ::= ("x" | ""){2,}', "line 1: what may be empty is repeated without end"),
    ('root ::= root "a"', "line 1: the rule `root` begins with itself"),
    ('root ::= b\nb ::= "a" | ("")? c?\nc ::= [] b', "line 1: the rule `b` begins with itself"),
]

TOO_MUCH = [
    ("root ::=\n. !<[0]>", "line 2: tokens, <NAME> or <[ID]>, are not supported"),
    ("root ::= <nosuch>", "line 1: tokens, <NAME> or <[ID]>, are not supported"),
    ('root ::= "a"{%s}' % ("9" * 5000), "line 1: more than 2000 repetitions"),
    ('root ::= "\ud800"', r"'\ud800' is no character"),
    ('root ::= "\0"', r"a NUL is written \x00"),
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
        ('{"pattern": "^a{999999999999 }$"}', "schema: a pattern repeats more than 20000 times"),
        ('{"pattern": "^%s$"}' % ("1" * 20_000), "schema: a pattern is longer than 20000"),
        ('{"pattern": "^a{2_0}$"}', r"schema: at '\{2_0\}\$' of a pattern: a repetition is writt"),
        ('{"pattern": "^}$"}', r"schema: at '\}\$' of a pattern: nothing is open"),
        ('{"pattern": "^[]abc]$"}', r"schema: at '\]\$' of a pattern: nothing is open"),
        ('{"pattern": "^(a))$"}', r"schema: at '\)\$' of a pattern: nothing is open"),
        ('{"pattern": "^[a$"}', r"schema: at '\[a\$' of a pattern: this set"),
        (r'{"pattern": "^\ud800$"}', r"schema: '\\ud800' is no character"),
        (r'{"\udfff": 1}', r"schema: '\\udfff' is no character"),
    ],
)
def test_a_schema_that_is_none_or_too_much_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        json_schema.check(text)


@pytest.mark.parametrize(
    "pattern",
    [
        r"^[\w.]{1,64}@[a-z]{1,64}(\.[a-z]{2,10}){1,5}$",
        r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}$",
        r"^\{[^{}]*\}$",
    ],
)
def test_a_pattern_is_as_large_as_its_groups(pattern: str) -> None:
    json_schema.check(json.dumps({"pattern": pattern}))


def _levels(count: int, name: str) -> str:
    """A schema each part of which refers to the next one twice."""
    refs = [{"$ref": f"#/$defs/{name}{i + 1}"} for i in range(count)]
    parts: dict[str, object] = {
        f"{name}{i}": {"properties": {"a": ref, "b": ref}} for i, ref in enumerate(refs)
    }
    parts[f"{name}{count}"] = {"type": "string"}
    return json.dumps({"$ref": f"#/$defs/{name}0", "$defs": parts})


@pytest.mark.parametrize("name", ["part", "a_part", "string", "ein Stück "])
def test_what_is_referred_to_is_converted_once(name: str) -> None:
    assert len(llama_schema.grammar(_levels(40, name)).splitlines()) < 400


def test_a_schema_that_is_written_out_without_bound_is_refused() -> None:
    inner: object = {"properties": {"x": {"type": "string"}}}
    parts = {}
    for i in range(40):
        parts[f"p{i}"] = inner
        inner = {"properties": dict.fromkeys("ab", {"allOf": [{"$ref": f"#/$defs/p{i}"}]})}
    for schema in (
        {"allOf": [inner], "$defs": parts},
        {"properties": {f"p{i}": {"type": "null"} for i in range(400)}},
    ):
        with pytest.raises(InvalidArgument, match="^schema: it is too large when it is written"):
            llama_schema.grammar(json.dumps(schema))


def test_what_refers_to_itself_has_one_rule(loaded: LlamaRunner) -> None:
    node = {"properties": {"next_one": {"$ref": "#/$defs/a_node"}}, "required": ["next_one"]}
    schema = json.dumps({"$ref": "#/$defs/a_node", "$defs": {"a_node": node}})
    assert loaded.sampler(SamplingParams(schema=schema), [1]).grammar
    itself = json.dumps({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})
    with pytest.raises(InvalidArgument, match="schema: its grammar line .* begins with itself"):
        llama_schema.grammar(itself)


@pytest.mark.parametrize("value", ["a\\b", 'a "b"', "é\n☃", "\b", 1.5, None, ["\\"]])
def test_a_constant_is_itself(value: object, loaded: LlamaRunner) -> None:
    sampler = loaded.sampler(SamplingParams(schema=json.dumps({"const": value})), [1])
    text = json.dumps(value, ensure_ascii=False)
    for token in loaded.model.tokens_of(text, add_special=False, parse_special=False):
        assert Candidates(1).fill_one(token).apply(sampler.grammar).any_left
        sampler.accept(token)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ('{"$ref": "#/nowhere"}', "schema: there is no '#/nowhere'"),
        ('{"$ref": "https://host/schema"}', "schema: a [$]ref begins with #/, not as 'https://"),
        ('{"$ref": 5}', "schema: it cannot be made a grammar: "),
        ('{"type": "frob"}', "schema: it cannot be made a grammar: "),
    ],
)
def test_a_schema_that_makes_no_grammar_says_why(
    schema: str, why: str, loaded: LlamaRunner
) -> None:
    json_schema.check(schema)
    with pytest.raises(InvalidArgument, match=why):
        loaded.sampler(SamplingParams(schema=schema), [1])
