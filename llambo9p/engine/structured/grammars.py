"""From a `Constraint` to llguidance's grammar, and the bounds that matchers keep.

`grammar_of` reads a user's text, and `check` compiles and tries it.  Both are for the child
process: they take long, and a hostile text ends the process.

In every grammar that leaves here forcing is off.  With it llguidance itself goes on with the
text for as long as one byte alone is allowed, without a bound: the first mask of
`start: /a+/ "a"` never ends, and one in the middle of `[bc]{90}a{1000000000}` hardly.
"""

from __future__ import annotations

import json
import random
import re

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from llambo9p.engine.structured import gbnf, lark, schema
from llambo9p.engine.structured.constraint import Constraint
from llambo9p.engine.structured.single_bytes import BYTES, EOS
from llambo9p.errors import InvalidArgument

LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_items_in_row=2_000,
    max_lexer_states=25_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
"""What one matcher may use: 25,000 states are about 50 MB, a step's fuel about 20 ms of CPU
time.  A matcher that goes beyond them is in an error state; `get_error` says so."""

_AT = re.compile(r"(?:at )?(?P<line>\d+)\(\d+\): ")
"""with which llguidance's errors begin: line and column"""
_CONTEXT = re.compile(r"\n *\d+ \| |\n<non-verbose/>|\n *stack backtrace", re.IGNORECASE)
"""which follows: the lines of the grammar, or where the library was"""

_WALK = 64
"""bytes of the text that `check` writes by a grammar, to see it work"""


def grammar_of(constraint: Constraint) -> str:
    """llguidance's grammar.  Raises `InvalidArgument` that names the line, or the keyword and
    the path; what only the compilation can see is found by `check`."""
    text = constraint.text
    if constraint.kind == "schema":
        return _without_forcing(schema.to_llguidance(constraint))
    if constraint.kind == "regex":
        return _without_forcing(LLMatcher.grammar_from_regex(text.removesuffix("\n")))
    written = gbnf.to_lark(text) if "::=" in text else lark.to_lark(text)
    return LLMatcher.grammar_from_lark(written)


def _without_forcing(grammar: str) -> str:
    """The same, as a grammar in Lark: only there forcing can be turned off."""
    (only,) = json.loads(grammar)["grammars"]
    written = only["lark_grammar"] or f"start: %json {json.dumps(only['json_schema'])}"
    return LLMatcher.grammar_from_lark(written + lark.WITHOUT_FORCING)


def matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher within `LIMITS`, at the beginning of an answer.  Raises `InvalidArgument`."""
    made = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    if made.is_error():
        raise InvalidArgument(reason_of(made))
    return made


def reason_of(failed: LLMatcher) -> str:
    """Why a matcher is in its error state, in a line."""
    return _CONTEXT.split(failed.get_error(), maxsplit=1)[0].replace("\n", " ").strip()[:400]


def check(constraint: Constraint) -> str:
    """The grammar, compiled and tried on a vocabulary of single bytes.  Raises
    `InvalidArgument` that begins with the kind of the text."""
    grammar = grammar_of(constraint)
    try:
        _try(matcher(BYTES, grammar))
    except InvalidArgument as error:
        raise InvalidArgument(_named(constraint, str(error))) from None
    return grammar


def _named(constraint: Constraint, error: str) -> str:
    """The error with the kind of the text, and with the line where that is the user's."""
    found = _AT.match(error)
    if found is None:
        return f"{constraint.kind}: {error}"
    is_users = constraint.kind == "grammar" and "::=" not in constraint.text
    where = f"grammar line {found['line']}" if is_users else constraint.kind
    return f"{where}: {error[found.end() :]}"


def _try(made: LLMatcher) -> None:
    """Write a little by it: a grammar that allows no text, or that takes too much in its first
    steps, is refused now."""
    rng = random.Random(0)
    for place in range(_WALK):
        mask = made.compute_bitmask()
        if made.is_error():
            raise InvalidArgument(reason_of(made))
        allowed = [token for token in range(EOS) if mask[token >> 3] >> (token & 7) & 1]
        if not allowed:
            if place == 0 and not made.is_accepting():
                raise InvalidArgument("it allows no text at all")
            return
        made.consume_token(rng.choice(allowed))
