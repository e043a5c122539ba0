"""Automata of regular expressions, to ask how two terminals get in each other's way.

Owns `Automata`.  llguidance reads a terminal as far as any terminal that is allowed at that
place could go on, and never goes back.  So a terminal is cut at the right place only if no
allowed terminal can go on with what follows it.  `Automata` answers, for two terminals:
can both match the same text, and with which characters can the second one go on where the
first one ends.

The answers are never too few.  They may be too many: a large repetition counts as endless, and
in a very large terminal the uses of one rule are not told apart.  Characters are compared by
their first byte in UTF-8, because llguidance decides byte by byte.

An automaton has a state for each character of the expression (Glushkov's construction).  Sets
of states and sets of characters are the bits of an `int`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from llambo9p.engine.structured.expressions import (
    LAST,
    Choice,
    Expressions,
    Ranges,
    Repeat,
    Sequence,
    Set,
    Text,
)
from llambo9p.engine.structured.regular import Rules

MAX_COPIES = 8
"""States up to which a counted repetition is written out."""
MAX_APART = 1000
"""States of a terminal up to which the uses of one rule are told apart."""
_LEADS = (
    *range(0x80, 0x800, 0x40),
    *range(0x1000, 0x10000, 0x1000),
    *range(0x40000, LAST, 0x40000),
)
"""Code points where the first byte in UTF-8 changes; 0x800 and 0x10000 are added below."""


class TooMuchWork(Exception):
    """The budget is used up: the grammar has to be written another way."""


@dataclass(slots=True)
class Budget:
    """Steps that an analysis may still take; a step is about a microsecond."""

    left: int

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise TooMuchWork


@dataclass(slots=True)
class Automaton:
    """States are numbered from 0."""

    labels: list[int] = field(default_factory=list)
    """State -> the characters that lead into it."""
    part: list[int | None] = field(default_factory=list)
    """State -> the index of the expression's part that it belongs to; None: several."""
    follow: list[int] = field(default_factory=list)
    """State -> the states that may come next."""
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class _Fragment:
    first: int
    last: int
    nullable: bool


@dataclass(frozen=True, slots=True)
class Touch:
    """How a second terminal gets in the way of a first one."""

    meets: bool
    """Both match some text."""
    goes_on: int
    """Characters with which the second can go on where the first ends."""


class Alphabet:
    """The characters of a grammar, in classes that no expression tells apart.

    A set of characters is an `int` with a bit for each class.  The characters of a class have
    the same first byte in UTF-8, if they are not ASCII.
    """

    def __init__(self, made: Expressions, numbers: list[int]) -> None:
        bounds = {0, 0x80, 0x800, 0x10000, LAST + 1, *_LEADS}
        for number in numbers:
            expression = made[number]
            if isinstance(expression, Text):
                for char in set(expression.text):
                    bounds.update((ord(char), ord(char) + 1))
            elif isinstance(expression, Set):
                for low, high in expression.ranges:
                    bounds.update((low, high + 1))
        self._bounds = sorted(bounds)
        leads = sorted({0x80, 0x800, 0x10000, LAST + 1, *_LEADS})
        self._same_lead = [
            self._range(low, high - 1) for low, high in zip(leads, leads[1:], strict=False)
        ]
        self._closed: dict[int, int] = {}

    def _range(self, low: int, high: int) -> int:
        begin, end = bisect_left(self._bounds, low), bisect_left(self._bounds, high + 1)
        return (1 << end) - (1 << begin)

    def of(self, ranges: Ranges) -> int:
        found = 0
        for low, high in ranges:
            found |= self._range(low, high)
        return found

    def char(self, char: str) -> int:
        return self._range(ord(char), ord(char))

    def same_first_byte(self, chars: int) -> int:
        """These characters and all others that begin with the same bytes in UTF-8."""
        closed = self._closed.get(chars)
        if closed is None:
            closed = chars
            for group in self._same_lead:
                if closed & group:
                    closed |= group
            self._closed[chars] = closed
        return closed


def bits(states: int) -> Iterator[int]:
    while states:
        low = states & -states
        yield low.bit_length() - 1
        states ^= low


class Automata:
    """The automata of the regular expressions of a grammar, made when they are asked for."""

    def __init__(self, rules: Rules, numbers: list[int], budget: Budget) -> None:
        self._rules = rules
        self.made = rules.expressions
        self._budget = budget
        self.alphabet = Alphabet(self.made, numbers)
        self._automata: dict[int, Automaton] = {}
        self._touches: dict[tuple[int, int], Touch] = {}
        self._sizes: dict[int, int] = {}

    def first(self, number: int) -> int:
        """The characters with which a terminal begins."""
        automaton = self._automaton(number)
        return self._labels(automaton, automaton.first)

    def touch(self, one: int, other: int) -> Touch:
        found = self._touches.get((one, other))
        if found is None:
            meets, goes_on = False, 0
            a, b = self._automaton(one), self._automaton(other)
            for p, q in self._together(a, b):
                if a.last >> p & 1:
                    meets = meets or bool(b.last >> q & 1)
                    goes_on |= self._labels(b, b.follow[q])
            found = self._touches[one, other] = Touch(meets, goes_on)
        return found

    def cuts(self, one: int, other: int, follow: int) -> set[tuple[int | None, int | None]]:
        """Where the second terminal goes on with one of these characters after the first:
        the indexes of its parts before and behind that place."""
        found: set[tuple[int | None, int | None]] = set()
        a, b = self._automaton(one), self._automaton(other)
        for p, q in self._together(a, b):
            if a.last >> p & 1:
                for r in bits(b.follow[q]):
                    if b.labels[r] & follow:
                        found.add((b.part[q], b.part[r]))
        return found

    def _labels(self, automaton: Automaton, states: int) -> int:
        found = 0
        for state in bits(states):
            found |= automaton.labels[state]
        return found

    def _together(self, a: Automaton, b: Automaton) -> Iterator[tuple[int, int]]:
        """All pairs of states that some text leads to."""
        seen: set[tuple[int, int]] = set()
        todo = [(a.first, b.first)]
        while todo:
            ps, qs = todo.pop()
            for p in bits(ps):
                label = a.labels[p]
                for q in bits(qs):
                    self._budget.spend()
                    if label & b.labels[q] and (p, q) not in seen:
                        seen.add((p, q))
                        yield p, q
                        todo.append((a.follow[p], b.follow[q]))

    # -- construction -------------------------------------------------------------------

    def _automaton(self, number: int) -> Automaton:
        found = self._automata.get(number)
        if found is None:
            found = self._automata[number] = self._construct(number)
        return found

    def _size(self, number: int) -> int:
        """States if every use of every rule has its own; it stops counting at 10,000."""
        todo = [number]
        while todo:
            at = todo[-1]
            if at in self._sizes:
                todo.pop()
                continue
            parts = self._parts(at)
            missing = [part for part in parts if part not in self._sizes]
            if missing:
                todo += missing
                continue
            self._budget.spend()
            expression = self.made[at]
            size = sum(self._sizes[part] for part in parts)
            if isinstance(expression, Text):
                size = len(expression.text)
            elif isinstance(expression, Set):
                size = 1
            elif isinstance(expression, Repeat):
                size *= self._copies(expression)
            self._sizes[at] = min(size, 10_000)
            todo.pop()
        return self._sizes[number]

    def _parts(self, number: int) -> tuple[int, ...]:
        return tuple(self._rules.resolved(part) for part in self.made.parts(number))

    def _copies(self, repeat: Repeat) -> int:
        """How often a repetition is written out; 1: it counts as endless."""
        copies = max(repeat.least, 1) if repeat.most is None else repeat.most
        size = self._sizes[self._rules.resolved(repeat.part)]
        return copies if copies * size <= MAX_COPIES else 1

    def _construct(self, number: int) -> Automaton:
        automaton = Automaton()
        apart = self._size(number) <= MAX_APART
        shared: dict[int, _Fragment] = {}
        done: list[_Fragment] = []
        # A task is an expression to be made, or one whose parts are made (True).
        # The third value is the index of the part of `number` that the expression is in.
        todo: list[tuple[int, bool, int | None]] = [(number, False, None)]
        while todo:
            at, parts_made, part = todo.pop()
            expression = self.made[at]
            if not parts_made:
                if not apart and at in shared:
                    done.append(shared[at])
                    continue
                todo.append((at, True, part))
                parts = self._parts(at)
                if isinstance(expression, Repeat):
                    parts *= self._copies(expression)
                tell = at == number and apart and not isinstance(expression, Repeat)
                todo += [
                    (inner, False, index if tell else part)
                    for index, inner in reversed(list(enumerate(parts)))
                ]
                continue
            count = len(self._parts(at))
            if isinstance(expression, Repeat):
                count *= self._copies(expression)
            pieces = done[len(done) - count :]
            del done[len(done) - count :]
            fragment = self._fragment(automaton, at, pieces, part, apart and at == number)
            shared[at] = fragment
            done.append(fragment)
        automaton.first, automaton.last = done[0].first, done[0].last
        return automaton

    def _fragment(
        self,
        automaton: Automaton,
        number: int,
        pieces: list[_Fragment],
        part: int | None,
        whole: bool,
    ) -> _Fragment:
        self._budget.spend(1 + len(pieces))
        match self.made[number]:
            case Set(ranges):
                return self._state(automaton, self.alphabet.of(ranges), part)
            case Text(text):
                states = [
                    self._state(automaton, self.alphabet.char(char), index if whole else part)
                    for index, char in enumerate(text)
                ]
                return self._chain(automaton, states)
            case Sequence():
                return self._chain(automaton, pieces)
            case Choice():
                first = last = 0
                for piece in pieces:
                    first |= piece.first
                    last |= piece.last
                return _Fragment(first, last, any(piece.nullable for piece in pieces))
            case Repeat(_, least, most) as repeat:
                loops = most is None or len(pieces) < most
                if len(pieces) > 1 or not loops:
                    required = [piece for piece in pieces[:least]]
                    optional = [
                        _Fragment(piece.first, piece.last, True) for piece in pieces[least:]
                    ]
                    chain = self._chain(automaton, required + optional)
                else:
                    nullable = pieces[0].nullable or least == 0
                    chain = _Fragment(pieces[0].first, pieces[0].last, nullable)
                if loops:
                    again = pieces[-1] if repeat.most is None else chain
                    self._join(automaton, again.last, again.first)
                return chain
            case _:
                raise AssertionError("rules are resolved")

    def _state(self, automaton: Automaton, label: int, part: int | None) -> _Fragment:
        self._budget.spend(1 + len(automaton.labels) // 64)
        state = 1 << len(automaton.labels)
        automaton.labels.append(label)
        automaton.part.append(part)
        automaton.follow.append(0)
        return _Fragment(state, state, False)

    def _join(self, automaton: Automaton, lasts: int, firsts: int) -> None:
        for state in bits(lasts):
            self._budget.spend()
            automaton.follow[state] |= firsts

    def _chain(self, automaton: Automaton, pieces: list[_Fragment]) -> _Fragment:
        first, last, nullable = 0, 0, True
        for piece in pieces:
            self._join(automaton, last, piece.first)
            if nullable:
                first |= piece.first
            last = piece.last | (last if piece.nullable else 0)
            nullable = nullable and piece.nullable
        return _Fragment(first, last, nullable)
