"""Cuts a recursive grammar into terminals that llguidance's greedy lexer reads rightly.

llguidance knows terminals, which are regular, and rules over them.  It reads a terminal as far
as any terminal that is allowed at that place can go on, and never goes back: `T "a"` with
`T: /[a-z]+/` refuses "xa".  So a terminal is in another one's way if it can go on with a
character that may follow the other one, where both are allowed.  `cut` begins with terminals
as large as they can be, looks for those that are in the way (`Automata`), cuts them where
they are, and looks again.  In the end no terminal is in the way, and the
grammar matches exactly what it did.  If that takes too much work, every terminal becomes a
single character, which is never in the way.

All terminals match at least one character: what may be empty is optional.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llambo9p.engine.structured.automata import Automata, Budget, TooMuchWork, bits
from llambo9p.engine.structured.expressions import (
    EMPTY,
    Choice,
    Repeat,
    Rule,
    Sequence,
    Set,
    Text,
)
from llambo9p.engine.structured.regular import Rules, matching

STEPS = 200_000
"""The budget of the analysis of one grammar: a fifth of a second, half a second for the worst."""
ROUNDS = 20
"""How often terminals are cut and looked at again."""

Kind = Literal["terminal", "sequence", "choice", "repeat"]


@dataclass(slots=True)
class Symbol:
    """A rule of the result, or one use of a terminal."""

    kind: Kind
    number: int
    """The expression that it stands for; of a rule without one, the empty text."""
    parts: list[int] = field(default_factory=list)
    least: int = 1
    most: int | None = 1
    """How often the part of a repetition comes."""


@dataclass(slots=True)
class Lexemes:
    """A grammar of rules over terminals."""

    symbols: list[Symbol]
    start: int
    nullable: list[bool]
    """Of each expression, whether it may be empty."""


@dataclass(slots=True)
class _Plan:
    """How expressions are made into symbols."""

    cuts: dict[int, tuple[Kind, list[int]]] = field(default_factory=dict)
    """Regular expressions that are no terminals, and what they are made of instead."""
    characters: bool = False
    """Every terminal is a single character."""


def cut(rules: Rules) -> Lexemes:
    """The terminals and rules of a grammar.  What is regular as a whole is one terminal."""
    plan = _Plan()
    facts = _Facts(rules)
    if facts.regular[rules.root]:
        return _Builder(rules, facts, plan).build()
    budget = Budget(STEPS)
    automata = Automata(rules, facts.needed, budget)
    try:
        for _ in range(ROUNDS):
            found = _Builder(rules, facts, plan).build()
            if not _look_for_cuts(found, facts, automata, budget, plan):
                return found
    except TooMuchWork:
        pass
    plan = _Plan(characters=True)
    return _Builder(rules, facts, plan).build()


class _Facts:
    """What is known of each expression, also of those that are made later."""

    def __init__(self, rules: Rules) -> None:
        made = self._made = rules.expressions
        self.nullable = matching(
            made, rules.bodies, single=False, repeat=lambda repeat: repeat.least == 0
        )
        self.regular: list[bool] = []
        for number in range(len(made)):
            match made[number]:
                case Rule(name):
                    self.regular.append(name not in rules.recursive)
                case _:
                    parts = made.parts(number)
                    self.regular.append(all(self.regular[part] for part in parts))
        self.needed = made.within(*rules.bodies.values())

    def _add_new(self) -> None:
        """What is made later is made of parts of what was regular."""
        for number in range(len(self.nullable), len(self._made)):
            parts = [self.nullable[part] for part in self._made.parts(number)]
            match self._made[number]:
                case Sequence():
                    self.nullable.append(all(parts))
                case Choice():
                    self.nullable.append(any(parts))
                case _:
                    self.nullable.append(False)
            self.regular.append(True)

    def sequence(self, parts: list[int]) -> int:
        number = self._made.sequence(parts)
        self._add_new()
        return number

    def choice(self, parts: list[int]) -> int:
        number = self._made.choice(parts)
        self._add_new()
        return number

    def text(self, text: str) -> int:
        number = self._made.text(text)
        self._add_new()
        return number


class _Builder:
    """Makes expressions into symbols."""

    def __init__(self, rules: Rules, facts: _Facts, plan: _Plan) -> None:
        self._rules = rules
        self._made = rules.expressions
        self._facts = facts
        self._plan = plan
        self._symbols: list[Symbol] = []
        self._of: dict[int, int] = {}
        """Expression -> its symbol, of those that are no terminals."""
        self._todo: list[int] = []

    def build(self) -> Lexemes:
        start = self._slot(self._rules.root)
        while self._todo:
            self._fill(self._symbols[self._todo.pop()])
        return Lexemes(self._symbols, start, self._facts.nullable)

    def _add(self, symbol: Symbol) -> int:
        self._symbols.append(symbol)
        return len(self._symbols) - 1

    def _slot(self, number: int) -> int:
        """A symbol for one use of an expression."""
        number = self._rules.resolved(number)
        if number != EMPTY and self._is_terminal(number):
            terminal = self._add(Symbol("terminal", number))
            if not self._facts.nullable[number]:
                return terminal
            return self._add(Symbol("repeat", EMPTY, [terminal], 0, 1))
        if number not in self._of:
            self._of[number] = self._add(Symbol("sequence", number))
            self._todo.append(self._of[number])
        return self._of[number]

    def _is_terminal(self, number: int) -> bool:
        if not self._facts.regular[number] or number in self._plan.cuts:
            return False
        if self._plan.characters:
            expression = self._made[number]
            return isinstance(expression, Set) or (
                isinstance(expression, Text) and len(expression.text) == 1
            )
        return True

    def _fill(self, symbol: Symbol) -> None:
        expression = self._made[symbol.number]
        if symbol.number in self._plan.cuts:
            symbol.kind, parts = self._plan.cuts[symbol.number]
        elif isinstance(expression, Text):
            parts = [self._facts.text(char) for char in expression.text]
        elif isinstance(expression, Sequence):
            parts = self._merged(expression.parts)
        elif isinstance(expression, Choice):
            symbol.kind = "choice"
            parts = self._merged_options(expression.parts)
        else:
            parts = list(self._made.parts(symbol.number))
        if isinstance(expression, Repeat):
            symbol.kind = "repeat"
            symbol.least, symbol.most = expression.least, expression.most
        symbol.parts = [self._slot(part) for part in parts]

    def _merged(self, parts: tuple[int, ...]) -> list[int]:
        """Neighbours that are regular become one terminal."""
        merged: list[int] = []
        run: list[int] = []
        for part in (*map(self._rules.resolved, parts), None):
            if part is not None and self._facts.regular[part] and not self._plan.characters:
                run.append(part)
                continue
            if run:
                merged.append(self._facts.sequence(run))
                run = []
            if part is not None:
                merged.append(part)
        return merged

    def _merged_options(self, parts: tuple[int, ...]) -> list[int]:
        """Alternatives that are regular become one terminal."""
        if self._plan.characters:
            return list(parts)
        resolved = [self._rules.resolved(part) for part in parts]
        regular = [part for part in resolved if self._facts.regular[part]]
        others = [part for part in resolved if not self._facts.regular[part]]
        return [self._facts.choice(regular), *others] if regular else others


def _look_for_cuts(
    found: Lexemes, facts: _Facts, automata: Automata, budget: Budget, plan: _Plan
) -> bool:
    """Cuts the terminals that are in another one's way; says whether there are any."""
    symbols = found.symbols
    neighbours = _Neighbours(found, automata, budget)
    cuts: dict[int, set[tuple[int | None, int | None]]] = {}
    for use, others in neighbours.together.items():
        number = symbols[use].number
        follow = neighbours.characters_after(use)
        if not follow:
            continue
        for other in {symbols[other].number for other in bits(others)}:
            budget.spend()
            if automata.touch(number, other).goes_on & follow:
                cuts.setdefault(other, set()).update(automata.cuts(number, other, follow))
    for number, places in cuts.items():
        plan.cuts[number] = _pieces(facts, automata, number, places)
    return bool(cuts)


def _pieces(
    facts: _Facts, automata: Automata, number: int, places: set[tuple[int | None, int | None]]
) -> tuple[Kind, list[int]]:
    """What a terminal is made of when it is cut at these places, each between two parts or
    inside of one."""
    expression = automata.made[number]
    size = len(expression.text) if isinstance(expression, Text) else 0
    parts = automata.made.parts(number)
    size = size or len(parts)
    if isinstance(expression, Repeat):
        return "repeat", list(parts)
    inside = {before for before, behind in places if before == behind}
    if isinstance(expression, Choice):
        alone = (
            range(size) if None in inside else sorted(part for part in inside if part is not None)
        )
        rest = [parts[index] for index in range(size) if index not in alone]
        return "choice", [*([facts.choice(rest)] if rest else []), *(parts[i] for i in alone)]
    ends = {0, size}
    for before, behind in places:
        if before is None or behind is None:
            ends.update(range(size))
        elif before == behind:
            ends.update((before, before + 1))
        else:
            ends.add(behind)
    bounds = sorted(ends)
    pairs = zip(bounds, bounds[1:], strict=False)
    if isinstance(expression, Text):
        return "sequence", [facts.text(expression.text[low:high]) for low, high in pairs]
    return "sequence", [facts.sequence(list(parts[low:high])) for low, high in pairs]


def _may_be_empty(symbol: Symbol, found: Lexemes) -> bool:
    return symbol.kind != "terminal" and found.nullable[symbol.number]


class _Neighbours:
    """Which uses of terminals follow each other, and which are allowed at the same place.

    Both are sets of symbols, as bits of an `int`; both may be too large and never too small.
    """

    def __init__(self, found: Lexemes, automata: Automata, budget: Budget) -> None:
        symbols = self._symbols = found.symbols
        self._automata = automata
        self._budget = budget
        self._step = 1 + len(symbols) // 1000
        self._nullable = [_may_be_empty(symbol, found) for symbol in symbols]
        self._first = self._firsts()
        self._follow = self._follows()
        self.together: dict[int, int] = {}
        """Use of a terminal -> all that may be allowed where it is."""
        self._look_together(found.start)

    def _spread(self, sets: list[int], ways: list[list[int]]) -> list[int]:
        """Adds each set to the sets that it flows into, until nothing changes."""
        todo = [symbol for symbol, found in enumerate(sets) if found]
        while todo:
            symbol = todo.pop()
            for into in ways[symbol]:
                self._budget.spend(self._step)
                if sets[symbol] | sets[into] != sets[into]:
                    sets[into] |= sets[symbol]
                    todo.append(into)
        return sets

    def _firsts(self) -> list[int]:
        """Symbol -> the terminals with which it may begin."""
        sets = [0] * len(self._symbols)
        ways: list[list[int]] = [[] for _ in self._symbols]
        for number, symbol in enumerate(self._symbols):
            if symbol.kind == "terminal":
                sets[number] = 1 << number
            for part in symbol.parts:
                ways[part].append(number)
                if symbol.kind == "sequence" and not self._nullable[part]:
                    break
        return self._spread(sets, ways)

    def _follows(self) -> list[int]:
        """Symbol -> the terminals that may come behind it."""
        sets = [0] * len(self._symbols)
        ways: list[list[int]] = [[] for _ in self._symbols]
        for number, symbol in enumerate(self._symbols):
            if symbol.kind == "repeat" and symbol.most != 1:
                sets[symbol.parts[0]] |= self._first[symbol.parts[0]]
            behind, at_end = 0, True
            for part in reversed(symbol.parts):
                self._budget.spend(self._step)
                if at_end:
                    ways[number].append(part)
                if symbol.kind == "sequence":
                    sets[part] |= behind
                    if not self._nullable[part]:
                        behind, at_end = 0, False
                    behind |= self._first[part]
        return self._spread(sets, ways)

    def characters_after(self, use: int) -> int:
        """The characters that may come behind a use of a terminal."""
        found = 0
        for other in bits(self._follow[use]):
            self._budget.spend()
            found |= self._automata.first(self._symbols[other].number)
        return self._automata.alphabet.same_first_byte(found)

    def _look_together(self, start: int) -> None:
        """All terminals with which the grammar may begin are allowed at the same place.  Behind
        a terminal all are that may follow it; and if two terminals that are allowed
        at the same place match the same text, all that may follow one or the other."""
        seen: set[int] = set()
        todo: list[int] = [self._first[start]]
        looked: set[tuple[int, int]] = set()
        while todo:
            group = todo.pop()
            if group in seen:
                continue
            seen.add(group)
            for use in bits(group):
                self._budget.spend(self._step)
                self.together[use] = self.together.get(use, 0) | group
                todo.append(self._follow[use])
                for other in bits(group):
                    self._budget.spend()
                    if use < other and (use, other) not in looked:
                        looked.add((use, other))
                        if self._meet(use, other):
                            todo.append(self._follow[use] | self._follow[other])

    def _meet(self, use: int, other: int) -> bool:
        one, two = self._symbols[use].number, self._symbols[other].number
        return one == two or self._automata.touch(one, two).meets
