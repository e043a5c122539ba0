"""Random GBNF grammars, and what they match by definition: no parser, no automaton."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

CHARS = "abéè"
"""Two of them begin with the same byte in UTF-8."""
LONGEST = 4

Language = frozenset[str]
"""Texts of up to LONGEST characters."""


@dataclass(frozen=True)
class Expr:
    """An expression of a GBNF grammar: how it is written and what it matches."""

    kind: str
    """chars, ref, seq, alt or rep"""
    text: str = ""
    """chars: the GBNF; ref: the rule's name; rep: the operator"""
    matched: Language = frozenset()
    """of chars"""
    parts: tuple[Expr, ...] = ()
    least: int = 0
    most: int = LONGEST

    def gbnf(self) -> str:
        inner = [part.gbnf() for part in self.parts]
        if self.kind == "seq":
            return "(" + " ".join(inner) + ")"
        if self.kind == "alt":
            return "(" + " | ".join(inner) + ")"
        return (inner[0] if inner else "") + self.text

    def language(self, rules: dict[str, Language]) -> Language:
        inner = [part.language(rules) for part in self.parts]
        if self.kind == "chars":
            return self.matched
        if self.kind == "ref":
            return rules[self.text]
        if self.kind == "alt":
            return frozenset().union(*inner)
        if self.kind == "seq":
            found = frozenset([""])
            for language in inner:
                found = joined(found, language)
            return found
        found = times = frozenset([""])
        for _ in range(self.least):
            times = joined(times, inner[0])
        found = times
        for _ in range(self.most - self.least):
            times = joined(times, inner[0])
            found |= times
        return found


def joined(one: Language, other: Language) -> Language:
    return frozenset(a + b for a in one for b in other if len(a + b) <= LONGEST)


Grammar = dict[str, Expr]
"""Name of a rule -> its expression."""


def language(rules: Grammar) -> Language:
    """What `root` matches: the least fixed point of the rules."""
    found: dict[str, Language] = dict.fromkeys(rules, frozenset())
    while True:
        more = {name: expr.language(found) for name, expr in rules.items()}
        if more == found:
            return found["root"]
        found = more


def chars(text: str, matched: str) -> Expr:
    return Expr("chars", text, frozenset(char for char in CHARS if char in matched))


def literal(text: str) -> Expr:
    return Expr("chars", f'"{text}"', frozenset([text]))


NAMES = ["root", "a-b", "a_b", "start"]
literals = st.text(CHARS, max_size=3).map(literal)
sets = st.sampled_from(
    [
        chars("[ab]", "ab"),
        chars("[é]", "é"),
        chars("[a-zé]", "abé"),
        chars("[^a]", "béè"),
        chars("[^é]", "abè"),
        chars(".", CHARS),
    ]
)
refs = st.sampled_from(NAMES).map(lambda name: Expr("ref", name))


def grown(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    parts = st.lists(inner, min_size=1, max_size=3).map(tuple)
    repeated = st.sampled_from(
        [("*", 0, 4), ("+", 1, 5), ("?", 0, 1), ("{2}", 2, 2), ("{1,3}", 1, 3), ("{2,}", 2, 6)]
    )
    return st.one_of(
        parts.map(lambda found: Expr("seq", parts=found)),
        parts.map(lambda found: Expr("alt", parts=found)),
        st.tuples(inner, repeated).map(
            lambda found: Expr("rep", found[1][0], frozenset(), (found[0],), *found[1][1:])
        ),
    )


def written(rules: Grammar) -> str:
    return "\n".join(f"{name} ::= {expr.gbnf()}" for name, expr in rules.items())


exprs = st.recursive(st.one_of(literals, sets, refs), grown, max_leaves=8)
grammars = st.fixed_dictionaries(dict.fromkeys(NAMES, exprs))
