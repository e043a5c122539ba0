"""What an answer is held to: one text of a user's, and how it is to be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["grammar", "schema", "regex"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Constraint:
    """Hashable: whatever is made of it is cached by it."""

    kind: Kind
    """grammar: GBNF where the text has `::=`, else Lark; schema: a JSON schema; regex: a
    regular expression that the whole answer matches"""
    text: str
    whitespace_flexible: bool = False
    """of a schema: JSON may have white space between its parts; False: it is compact"""
    coerce_one_of: bool = False
    """of a schema: `oneOf` is taken for `anyOf` where llguidance cannot tell that its parts
    exclude each other"""
    lenient: bool = False
    """of a schema: keywords that llguidance cannot keep, and unknown formats, are ignored"""
