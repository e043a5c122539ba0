"""The expressions that a GBNF grammar is made of, each with a number.

Owns `Expressions`.  Equal expressions have the same number, and the parts of an expression
have smaller numbers than the expression itself.  So a loop over the numbers sees the parts
first, and nothing here recurses, however deep a user nests parentheses.

An expression never holds the empty language inside another one: the constructors simplify.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Ranges = tuple[tuple[int, int], ...]
"""A set of characters: first and last code point of each range, ascending, disjoint."""

LAST = 0x10FFFF
"""The last code point of Unicode."""
SURROGATES = (0xD800, 0xDFFF)
"""Code points that are no characters: halves of UTF-16 pairs."""


@dataclass(frozen=True, slots=True)
class Set:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Text:
    """These characters, one or more."""

    text: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What the rule of this name matches."""

    name: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """The parts one after the other; without parts: the empty text."""

    parts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the parts; without parts: no text at all."""

    parts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The part, `least` to `most` times; `most` None: without end."""

    part: int
    least: int
    most: int | None


Expression = Set | Text | Rule | Sequence | Choice | Repeat

MAX_COUNT = 100_000
"""The largest count that is made when repetitions are put together."""

EMPTY = 0
"""The number of the empty text."""
NOTHING = 1
"""The number of the expression that matches no text at all, not even the empty one."""


class Expressions:
    """A growing table of expressions."""

    def __init__(self) -> None:
        self._numbers: dict[Expression, int] = {}
        self._table: list[Expression] = []
        self._number(Sequence(()))
        self._number(Choice(()))

    def __getitem__(self, number: int) -> Expression:
        return self._table[number]

    def __len__(self) -> int:
        return len(self._table)

    def _number(self, expression: Expression) -> int:
        number = self._numbers.setdefault(expression, len(self._table))
        if number == len(self._table):
            self._table.append(expression)
        return number

    def set(self, ranges: Iterable[tuple[int, int]], negated: bool = False) -> int:
        """One character of these ranges, or one of all others."""
        merged = _merged(ranges)
        if negated:
            merged = _others(merged)
        merged = _without(merged, SURROGATES)
        if len(merged) == 1 and merged[0][0] == merged[0][1]:
            return self.text(chr(merged[0][0]))
        return self._number(Set(merged)) if merged else NOTHING

    def text(self, text: str) -> int:
        return self._number(Text(text)) if text else EMPTY

    def rule(self, name: str) -> int:
        return self._number(Rule(name))

    def sequence(self, parts: Iterable[int]) -> int:
        kept: list[int] = []
        for part in parts:
            if part == NOTHING:
                return NOTHING
            if part == EMPTY:
                continue
            again = self._together(kept[-1], part) if kept else None
            if again is None:
                kept.append(part)
            else:
                kept[-1] = again
        return kept[0] if len(kept) == 1 else self._number(Sequence(tuple(kept)))

    def _together(self, one: int, other: int) -> int | None:
        """Neighbours that repeat the same part as one repetition: `x? x?` is `x{0,2}`."""
        a, b = self._as_repeat(one), self._as_repeat(other)
        if a.part != b.part:
            return None
        least = a.least + b.least
        most = None if a.most is None or b.most is None else a.most + b.most
        return None if max(least, most or 0) > MAX_COUNT else self.repeat(a.part, least, most)

    def _as_repeat(self, number: int) -> Repeat:
        expression = self._table[number]
        return expression if isinstance(expression, Repeat) else Repeat(number, 1, 1)

    def choice(self, parts: Iterable[int]) -> int:
        kept = tuple(part for part in dict.fromkeys(parts) if part != NOTHING)
        return kept[0] if len(kept) == 1 else self._number(Choice(kept))

    def repeat(self, part: int, least: int, most: int | None) -> int:
        if part == EMPTY or most == 0 or (part == NOTHING and least == 0):
            return EMPTY
        if part == NOTHING or least == most == 1:
            return part
        inner = self._table[part]
        if isinstance(inner, Repeat) and _is_one_repeat(inner, least, most):
            low = least * inner.least
            high = None if most is None or inner.most is None else most * inner.most
            if max(low, high or 0) <= MAX_COUNT:
                return self.repeat(inner.part, low, high)
        return self._number(Repeat(part, least, most))

    def parts(self, number: int) -> tuple[int, ...]:
        """The numbers of an expression's parts."""
        match self._table[number]:
            case Sequence(parts) | Choice(parts):
                return parts
            case Repeat(part):
                return (part,)
            case _:
                return ()

    def with_parts(self, number: int, parts: tuple[int, ...]) -> int:
        """An expression of the same kind with other parts."""
        match self._table[number]:
            case Sequence():
                return self.sequence(parts)
            case Choice():
                return self.choice(parts)
            case Repeat(_, least, most):
                return self.repeat(parts[0], least, most)
            case _:
                return number

    def within(self, *roots: int) -> list[int]:
        """All expressions that the roots are made of, parts first; rules are not followed."""
        seen = set(roots)
        todo = list(roots)
        while todo:
            for part in self.parts(todo.pop()):
                if part not in seen:
                    seen.add(part)
                    todo.append(part)
        return sorted(seen)


def _is_one_repeat(inner: Repeat, least: int, most: int | None) -> bool:
    """Whether a repetition of a repetition has no gaps between its counts: `(x{2,3}){2}` has
    none, `(x{2}){0,3}` has."""
    return least == most or (inner.least <= 1 and (least <= 1 or inner.least == 0))


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return tuple(merged)


def _others(ranges: Ranges) -> Ranges:
    begins = [0, *(high + 1 for _, high in ranges)]
    ends = [*(low - 1 for low, _ in ranges), LAST]
    return tuple((low, high) for low, high in zip(begins, ends, strict=True) if low <= high)


def _without(ranges: Ranges, gap: tuple[int, int]) -> Ranges:
    kept: list[tuple[int, int]] = []
    for low, high in ranges:
        if high < gap[0] or low > gap[1]:
            kept.append((low, high))
            continue
        if low < gap[0]:
            kept.append((low, gap[0] - 1))
        if high > gap[1]:
            kept.append((gap[1] + 1, high))
    return tuple(kept)
