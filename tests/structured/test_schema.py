"""JSON schemas are kept in each word, or refused with keyword and path."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from llambo9p.engine.structured.constraint import Constraint
from llambo9p.engine.structured.grammars import grammar_of
from llambo9p.engine.structured.schema_keywords import CONSTRAINS, IN_PLACE, NEVER_KEPT
from llambo9p.errors import InvalidArgument
from tests.structured.harness import accepts, allowed
from tests.structured.judge import Judge
from tests.structured.keywords import ANNOTATIONS, KEPT, REFUSED
from tests.structured.random_schemas import Maker, spoiled

# Draft 2020-12, all vocabularies, and what older drafts had instead.
ALL_KEYWORDS = set(
    """$id $schema $ref $anchor $dynamicRef $dynamicAnchor $vocabulary $comment $defs
    prefixItems items contains additionalProperties properties patternProperties dependentSchemas
    propertyNames if then else allOf anyOf oneOf not unevaluatedItems unevaluatedProperties
    type const enum multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength
    pattern maxItems minItems uniqueItems maxContains minContains maxProperties minProperties
    required dependentRequired title description default deprecated readOnly writeOnly examples
    format contentEncoding contentMediaType contentSchema
    definitions dependencies additionalItems $recursiveRef""".split()
)


def grammar(schema: Any, **settings: bool) -> str:
    text = schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False)
    return grammar_of(Constraint("schema", text, **settings))


def refusal(schema: Any, **settings: bool) -> str:
    with pytest.raises(InvalidArgument) as caught:
        grammar(schema, **settings)
    return str(caught.value)


def test_the_tables_know_every_keyword() -> None:
    tested = {row[0] for row in KEPT} | {row[0] for row in REFUSED} | ANNOTATIONS.keys()
    assert tested - {"true"} >= ALL_KEYWORDS - {"additionalItems"}  # test_draft_7
    assert {*CONSTRAINS, *IN_PLACE, *NEVER_KEPT} <= ALL_KEYWORDS


@pytest.mark.parametrize(("keyword", "schema", "good", "bad"), KEPT)
def test_a_keyword_is_kept(keyword: str, schema: Any, good: list[str], bad: list[str]) -> None:
    made = grammar(schema)
    judge = Judge(json.dumps(schema))
    for text in good:
        assert not judge.error(text)
        assert accepts(made, text), text
    for text in bad:
        assert not accepts(made, text), text


@pytest.mark.parametrize("keyword", ANNOTATIONS)
def test_an_annotation_takes_nothing_away(keyword: str) -> None:
    made = grammar({"type": ["object", "array"], keyword: ANNOTATIONS[keyword]})
    assert accepts(made, '{"a":1}') and accepts(made, "[1,1]")
    assert not accepts(made, "1") and not accepts(made, "null") and not accepts(made, "{ }")


@pytest.mark.parametrize(("keyword", "schema", "path"), REFUSED)
def test_a_keyword_is_refused_with_its_place(keyword: str, schema: Any, path: str) -> None:
    said = refusal(schema)
    assert said.startswith(f"schema: at {path}: ") and keyword in said


@pytest.mark.parametrize(
    ("keyword", "schema", "path"), [row for row in REFUSED if row[0] != "patternProperties"]
)
def test_lenient_leaves_out_what_cannot_be_kept(keyword: str, schema: Any, path: str) -> None:
    grammar(schema, lenient=True)


@pytest.mark.parametrize("keyword", sorted(NEVER_KEPT.keys() - {"unevaluatedProperties"}))
def test_a_keyword_that_is_refused_names_the_setting(keyword: str) -> None:
    schema = next(s for k, s, _ in REFUSED if k == keyword)
    assert "or set lenient on" in refusal(schema)


def test_one_of_names_its_setting_and_is_any_of_with_it() -> None:
    schema = {"oneOf": [{"type": "number"}, {"type": "integer"}]}
    assert "coerce_one_of on" in refusal(schema)
    assert accepts(grammar(schema, coerce_one_of=True), "1")


def test_white_space_is_a_setting() -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    assert not accepts(grammar(schema), "[1, 2]")
    assert accepts(grammar(schema, whitespace_flexible=True), "[1,\n 2 ]")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "schema line 1: no JSON"),
        ('{"type":\n "string",\n}', "schema line 3: no JSON"),
        ('{"a": "NaN",\n"b": NaN}', "schema line 2: no JSON: NaN is no number"),
        ('{"minimum": -Infinity}', "schema line 1: no JSON: -Infinity is no number"),
        ('{"const": %s}' % ("9" * 5000), "an integer has more than 4,300 digits"),
        ('{"const": 1e999}', "at #/const: the number is too large"),
        (r'{"const": "\ud83d"}', "at #/const: a string has half a surrogate pair"),
        (r'{"properties": {"\udc00": {}}}', "at #/properties: a string has half"),
        (
            '{"properties": {"a": {"type": "string", "type": "null"}}}',
            "at #/properties/a: the name",
        ),
        ("[" * 100_000, "nested deeper than 100 levels"),
        ('{"items":' * 5000 + "{}" + "}" * 5000, "nested deeper than 100 levels"),
        ('{"items":' * 101 + "{}" + "}" * 101, "nested deeper than 100 levels"),
        ("[]", "at #: a schema is an object, true or false"),
        ('{"items": 3}', "at #/items: a schema is an object, true or false"),
        ('{"properties": {"a~/b": {"type": "strin"}}}', 'at #/properties/a~0~1b: type "strin" is'),
        ('{"type": []}', "type lists no type"),
        ('{"enum": []}', "enum lists no value"),
        ('{"anyOf": []}', "anyOf is a list of schemas"),
        ('{"minLength": -1}', "minLength is a whole number"),
        ('{"minLength": true}', "minLength is a whole number"),
        ('{"minimum": "1"}', "minimum is a number"),
        ('{"multipleOf": 0}', "multipleOf is greater than 0"),
        ('{"required": true}', "required is a list of names"),
        ('{"pattern": "["}', "it has a `[` without its `]`"),
        ('{"$ref": "#/$defs/nope"}', "$ref #/$defs/nope leads nowhere"),
        ('{"$ref": "http://example.com/x"}', "leads nowhere"),
        ("false", "no finite JSON satisfies it"),
        ('{"type": "string", "minLength": 3, "maxLength": 2}', "no JSON satisfies it"),
        ('{"type": "string", "pattern": "^ab$", "minLength": 3}', "no string satisfies"),
        ('{"type": "integer", "minimum": 3, "maximum": 2}', "no JSON satisfies it"),
        ('{"type": "integer", "const": "a"}', "no JSON satisfies it"),
        ('{"$ref": "#"}', "no finite JSON satisfies it"),
        ('{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}', "no finite"),
        ('{"type": "array", "items": {"$ref": "#"}, "minItems": 1}', "no finite"),
    ],
)
def test_a_text_that_is_no_schema(text: str, said: str) -> None:
    assert said in refusal(text)


def test_a_byte_order_mark_is_no_fault() -> None:
    assert accepts(grammar('\ufeff{"type":"null"}'), "null")


def test_what_needs_itself_for_ever_is_left_out_where_it_may_be() -> None:
    endless = {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}, "required": ["b"]}
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": endless}}
    made = grammar(schema)
    assert accepts(made, "{}") and accepts(made, '{"z":1}')
    assert ord('"') not in allowed(made, '{"a')


def test_a_schema_changes_no_setting() -> None:
    inside = {"type": "array", "x-guidance": {"lenient": True}, "uniqueItems": True}
    assert "uniqueItems" in refusal(inside)
    assert "at #/items: uniqueItems" in refusal({"items": inside})
    spaced = {"type": "array", "x-guidance": {"whitespace_flexible": True}}
    assert not accepts(grammar(spaced), "[ ]")


def test_draft_7() -> None:
    tuples = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [{"type": "integer"}, {"type": "string"}],
        "anyOf": [{"minItems": 1}],
        "additionalItems": {"type": "null"},
    }
    made = grammar(tuples)
    judge = Judge(json.dumps(tuples))
    for text in ("[1]", '[1,"a"]', '[1,"a",null]'):
        assert not judge.error(text) and accepts(made, text)
    for text in ("[]", '["a"]', '[1,"a",2]'):
        assert judge.error(text) and not accepts(made, text)
    assert accepts(grammar({"items": {"type": "null"}, "additionalItems": False}), "[null,null]")


def test_draft_4_exclusive_bounds() -> None:
    made = grammar({"type": "number", "minimum": 3, "exclusiveMinimum": True})
    assert accepts(made, "3.5") and not accepts(made, "3")
    made = grammar({"type": "number", "minimum": 3, "exclusiveMinimum": False})
    assert accepts(made, "3")


@pytest.mark.parametrize("keyword", ["uniqueItems", "contains", "minLength", "pattern", "required"])
def test_keywords_of_other_types_are_nothing(keyword: str) -> None:
    nonsense = {
        "uniqueItems": True,
        "contains": {},
        "minLength": 3,
        "pattern": "(?=a)",
        "required": ["a"],
    }
    assert accepts(grammar({"type": "integer", keyword: nonsense[keyword]}), "1")


def test_bounds_of_64_bits() -> None:
    zod = {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}
    made = grammar(zod)
    assert accepts(made, "9007199254740991") and not accepts(made, "9007199254740992")
    for low, high in ((-(2**63), 2**63 - 1), (0, 2**64 - 1), (-1.7e308, 1.7e308)):
        made = grammar({"type": "integer", "minimum": low, "maximum": high})
        assert accepts(made, "5") and accepts(made, "9000000000000000000")
        assert not accepts(made, "9223372036854775808")  # moved inwards, never outwards


def test_properties_come_in_the_schema_s_order() -> None:
    made = grammar(
        {
            "allOf": [{"properties": {"first": {}}, "required": ["first"]}],
            "type": "object",
            "properties": {"b": {}, "a": {}},
            "anyOf": [{"properties": {"last": {}}}],
            "required": ["a", "b"],
        }
    )
    assert accepts(made, '{"first":1,"b":1,"a":1,"last":1}')
    assert not accepts(made, '{"first":1,"a":1,"b":1}')


def test_a_long_chain_of_references_is_no_recursion_here() -> None:
    chain: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(400)}
    made = grammar({"$ref": "#/$defs/d0", "$defs": {**chain, "d400": {"type": "null"}}})
    assert accepts(made, "null") and not accepts(made, "1")


def test_what_is_rewritten_deeper_than_it_can_be_read_is_refused() -> None:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(40):
        schema = {"anyOf": [True], "oneOf": [schema]}
    assert "nested deeper" in refusal(schema)


def test_names_go_by_ecma_s_classes() -> None:
    """A name that the pattern leaves out goes by additionalProperties."""
    schema = {
        "type": "object",
        "patternProperties": {r"^\S+$": {"type": "integer"}},
        "additionalProperties": {"type": "string"},
    }
    made = grammar(schema)
    assert accepts(made, '{"é":1,"\u2029":"x"}') and not accepts(made, '{"é":"x"}')


def test_a_place_in_a_recursion_is_found() -> None:
    tree = {
        "type": "object",
        "properties": {
            "left": {"$ref": "#/$defs/tree"},
            "all": {"items": {"$ref": "#/$defs/tree"}},
            **{f"p{i}": {"type": "string"} for i in range(300)},
            "wrong": {"oneOf": [{"minimum": 1}, {"maximum": 2}]},
        },
    }
    said = refusal({"type": "array", "items": {"$ref": "#/$defs/tree"}, "$defs": {"tree": tree}})
    assert said.startswith("schema: at #/$defs/tree/properties/wrong: oneOf")


def test_nonsense_is_a_schema_or_refused_in_one_line() -> None:
    rng = random.Random(3)
    for _ in range(500):
        document = spoiled(Maker(rng).document(), sorted(ALL_KEYWORDS), rng)
        try:
            grammar(json.dumps(document), lenient=rng.random() < 0.5)
        except InvalidArgument as error:
            said = str(error)
            assert said.startswith("schema: at #") and "\n" not in said and len(said) < 700
