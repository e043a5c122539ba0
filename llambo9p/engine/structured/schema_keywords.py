"""The keywords of JSON schema: which concern what, which are never kept, and what a few say.

Every other keyword is an annotation, or no keyword at all, and constrains nothing.
"""

from __future__ import annotations

from typing import Any

from llambo9p.engine.structured import pattern, schema_numbers
from llambo9p.engine.structured.pattern import UNWRITABLE
from llambo9p.engine.structured.schema_text import Path, refusal

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
CONSTRAINS = {
    **dict.fromkeys(
        "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split(), "number"
    ),
    **dict.fromkeys("minLength maxLength pattern format".split(), "string"),
    **dict.fromkeys(
        "items prefixItems additionalItems minItems maxItems uniqueItems contains"
        " unevaluatedItems".split(),
        "array",
    ),
    **dict.fromkeys(
        "properties patternProperties additionalProperties required minProperties maxProperties"
        " propertyNames dependentRequired dependentSchemas dependencies"
        " unevaluatedProperties".split(),
        "object",
    ),
}
"""the keywords that concern one type, and the type"""
IN_PLACE = ("$ref", "allOf", "anyOf", "oneOf", "const", "enum")
NEVER_KEPT = {
    "not": "no grammar says what a text is not",
    "contains": "no grammar counts the items that match",
    "uniqueItems": "no grammar remembers the items before",
    "dependentSchemas": "write anyOf",
    "dependentRequired": "write anyOf with required",
    "dependencies": "write anyOf with required",
    "unevaluatedItems": "write items",
    "unevaluatedProperties": "write additionalProperties",
    "propertyNames": "only an enum or a pattern alone is kept, without properties beside it",
    "$dynamicRef": "write $ref",
    "$recursiveRef": "write $ref",
}
MOST_COUNTED = 64
"""properties that are not required, beside minProperties or maxProperties.  llguidance writes out
each choice of them"""
MANY = 10**9
"""no answer has as many characters or items"""


def says_nothing(keyword: str, value: Any, node: dict[str, Any]) -> bool:
    """Whether every value satisfies this keyword, one of those that are never kept."""
    if keyword == "uniqueItems":
        return value is False or _short(node)
    if keyword == "not":
        return value is False
    if keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        return bool(value == {})
    if keyword == "contains":
        return node.get("minContains") == 0 and "maxContains" not in node
    if keyword == "propertyNames" and isinstance(value, dict):
        value = about_strings(value)
    return value is True or value == {}


def about_strings(node: dict[str, Any]) -> dict[str, Any]:
    """What of a schema constrains a string."""
    if node.get("type") == "string":
        node = {k: v for k, v in node.items() if k != "type"}
    return {
        k: v
        for k, v in node.items()
        if k in IN_PLACE or k in ("type", "not", "if") or CONSTRAINS.get(k) == "string"
    }


def check_name(name: str, at: Path) -> None:
    if not UNWRITABLE.isdisjoint(name):
        raise refusal(at, f"no answer holds the name {name!r}, for its control character")


def name_pattern(value: dict[str, Any]) -> str:
    """What `propertyNames` asks of a name, as one pattern; empty: it asks more."""
    if value.keys() == {"pattern"} and isinstance(value["pattern"], str):
        try:
            return pattern.translated(value["pattern"])
        except pattern.Unkept:
            return ""
    least = schema_numbers.whole(value.get("minLength", 0))
    most = schema_numbers.whole(value.get("maxLength", MANY))
    if value.keys() <= {"minLength", "maxLength"} and least is not None and most is not None:
        if 0 <= least <= most <= MANY:
            return f"^(?s:.{{{least},{'' if most == MANY else most}}})$"
    return ""


class Unwritable(Exception):
    """A constant that llguidance cannot write."""


def constant(value: Any) -> Any:
    if isinstance(value, str):
        if not UNWRITABLE.isdisjoint(value):
            raise Unwritable("it has a control character that no answer writes")
        return value
    if isinstance(value, list):
        return [constant(v) for v in value]
    if isinstance(value, dict):
        return {name: constant(v) for name, v in value.items()}
    if is_number(value):
        kept = schema_numbers.constant(value)
        if kept is None:
            raise Unwritable("numbers are kept up to 2**53, and fractions up to 15 digits")
        return kept
    return value


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(node: dict[str, Any]) -> bool:
    """Whether its arrays have one item at most."""
    most = schema_numbers.whole(node.get("maxItems"))
    return most is not None and most <= 1
