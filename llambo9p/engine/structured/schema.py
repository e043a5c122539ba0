"""A JSON schema as llguidance's grammar: kept in each word, or refused with keyword and path.

Each text that the grammar lets through is JSON that satisfies the schema (Draft 2020-12, and
what people write of draft-07 and draft-04), with the properties in the schema's order.

Refused, each with keyword and path:
- What no context-free grammar says, or llguidance has no words for: `not`, `if`, `contains`,
  `uniqueItems`, `dependent…`, `unevaluated…` beside others, `propertyNames` beside `properties`,
  `oneOf` of parts that may both match, two patterns for one name (`schema_keywords`).
- Patterns that are no regular language, or that dialects read in two ways (`pattern`); formats
  that are not asserted (`formats`).
- Numbers that llguidance does not keep: constants beyond 2**53 or of more than 15 digits, a whole
  exclusive bound less than 1 from another bound, large divisors (`schema_numbers`).
- `minProperties` of more than one name that the schema does not list: a name may come twice.
- Characters that JSON writes as `\\uXXXX` in constants and names: that spelling is closed.
- A schema that nothing satisfies, or that needs itself for ever (`schema_proofs`).
- References to what the document does not hold (`schema_refs`).

Some limits are no refusals, as each text that comes still satisfies the schema:
- A number that is bounded or constant has few spellings: `1`, not `1.0` or `1e0`; below 0.51
  there is 0.50 and no 0.5.  A bound beyond 2**53 or 15 digits is moved inwards.
- A string has one spelling, and no control characters but \\b \\f \\n \\r \\t.
- A name that the schema does not list may come twice in an object.  Each of its values satisfies
  the schema, whichever of them a reader takes.
- `format` is asserted.  `pattern` matches what ECMA's and Python's dialects both match;
  `patternProperties` takes the names that ECMA's matches.
- A `multipleOf` without a multiple in its range may be found only while an answer is written.

llguidance itself is asked last.  Its messages name no place; the place is found by asking
again about ever smaller parts.
"""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher

from llambo9p.engine.structured.constraint import Constraint
from llambo9p.engine.structured.schema_proofs import without_endless
from llambo9p.engine.structured.schema_refs import children
from llambo9p.engine.structured.schema_rewrite import Rewriter
from llambo9p.engine.structured.schema_text import DEEPEST, Path, read, refusal, shown
from llambo9p.engine.structured.single_bytes import BYTES
from llambo9p.errors import InvalidArgument

# llguidance's message: what is said instead.
_MESSAGES = (
    (
        "oneOf constraints are not supported",
        "oneOf cannot be kept: one value may match two of its parts; write anyOf, or set"
        " coerce_one_of on: it is taken for anyOf",
    ),
    (
        "min/maxProperties only supported",
        "minProperties and maxProperties are kept only where each of the properties is required;"
        " or set lenient on: leave them out",
    ),
    (
        "circular references with sibling keys",
        "a $ref that leads back to itself stands alone in its schema; move the keywords beside it"
        " to where it leads",
    ),
    ("Schema intersection stack level exceeded", "the merged parts contain one another for ever"),
    ("schema too large", "the merged parts make more than 50,000 schemas"),
    ("Regex is empty", "no string satisfies pattern, format, minLength and maxLength together"),
    ("Unable to determine if regex", "pattern, format and lengths together are too costly"),
    ("lookarounds not supported", "in a pattern ^ and $ stand at the ends, nowhere between"),
    ("panic", "it is too large for a grammar"),
    ("grammar size", "it is too large for a grammar"),
    ("not disjoint", "patternProperties cannot be kept: one name may match two of the patterns"),
)


def to_llguidance(constraint: Constraint) -> str:
    """llguidance's grammar for a JSON schema.  InvalidArgument says what is wrong, and where."""
    rewriter = Rewriter(read(constraint.text), constraint.lenient)
    schema = without_endless(rewriter.rewritten())
    if isinstance(schema, bool):
        raise InvalidArgument("schema: at #: no finite JSON satisfies it")
    grammar = _grammar(schema, constraint)
    matcher = LLMatcher(BYTES, grammar, log_level=0)
    can_begin = any(matcher.compute_bitmask())
    if matcher.is_error():
        error = _words(matcher.get_error())
        path = _place(schema, rewriter.paths, constraint, error)
        raise refusal(path, _explained(error))
    if not can_begin:  # a contradiction further in is not seen
        raise InvalidArgument("schema: at #: no JSON satisfies it: its parts contradict each other")
    return grammar


def _grammar(schema: Any, constraint: Constraint) -> str:
    overrides: Any = {  # each of them, so that a schema's own `x-guidance` sets nothing
        "item_separator": ",",
        "key_separator": ":",
        "whitespace_flexible": constraint.whitespace_flexible,
        "whitespace_pattern": None,
        "coerce_one_of": constraint.coerce_one_of,
        "lenient": constraint.lenient,
        "json_allowed_escapes": 'nrbtf\\"',
        "json_allow_general_unicode_escapes": False,
    }
    text = json.dumps(schema, ensure_ascii=False)
    try:
        return LLMatcher.grammar_from_json_schema(text, overrides=overrides)
    except ValueError:  # the rewritten text is deeper than the user's
        raise InvalidArgument(f"schema: nested deeper than about {DEEPEST} levels") from None


def _place(
    schema: dict[str, Any], paths: dict[int, Path], constraint: Constraint, error: str
) -> Path:
    """The path of the smallest schema that llguidance refuses with the same words."""
    definitions: dict[str, Any] = schema.get("$defs", {})
    seen: set[int] = set()

    def refused(parts: list[Any]) -> bool:
        # What leads back to where the search was is not what is wrong there.
        known = {name: id(node) in seen or node for name, node in definitions.items()}
        whole = {"type": "array", "prefixItems": parts, "$defs": known}
        return _error(_grammar(whole, constraint)) == error

    path: Path = None
    here: Any = schema
    while True:
        seen.add(id(here))
        path = paths.get(id(here), path)
        inside = {keyword: value for keyword, value in here.items() if keyword != "$defs"}
        parts = [part for part, _ in children(inside, None)]
        if "$ref" in here:
            parts.append(definitions.get(here["$ref"].rpartition("/")[2]))
        parts = [part for part in parts if isinstance(part, dict) and id(part) not in seen]
        if not parts or not refused(parts):
            return path
        while len(parts) > 1:
            half = parts[: len(parts) // 2]
            parts = half if refused(half) else parts[len(half) :]
        here = parts[0]


def _error(grammar: str) -> str:
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return _words(str(messages[0])) if is_error else ""


def _words(error: str) -> str:
    """llguidance's message without the name that we gave to a definition."""
    return error.partition("\n  while processing")[0]


def _explained(error: str) -> str:
    for words, explanation in _MESSAGES:
        if words in error:
            return explanation
    if "Unsatisfiable schema" in error or "is unsatisfiable" in error:
        why = error.partition("Unsatisfiable schema: ")[2] or error
        return f"no JSON satisfies it: {shown(' '.join(why.split()))}"
    return f"it cannot be kept: {shown(' '.join(error.split()))}"
