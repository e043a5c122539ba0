"""Finds what of a grammar is regular: what a single regular expression can match.

`simplified` drops what no finite text can match, and says which rules are recursive.  A rule
that is recursive only at its end or only at its beginning, such as
`ws ::= ([ \\t\\n] ws)?`, is written as a repetition instead, if the rest of it is regular.

All loops are iterative, and linear in the number of expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llambo9p.engine.structured.expressions import (
    EMPTY,
    NOTHING,
    Choice,
    Expressions,
    Repeat,
    Rule,
    Sequence,
    Set,
    Text,
)
from llambo9p.engine.structured.gbnf_parser import Grammar
from llambo9p.errors import InvalidArgument


@dataclass(slots=True)
class Rules:
    """The rules that `root` needs."""

    expressions: Expressions
    bodies: dict[str, int]
    """Name of a rule -> the number of its expression."""
    recursive: set[str]
    """Names of the rules that are not regular."""
    root: int
    """The number of the expression of `root`."""

    def resolved(self, number: int) -> int:
        """The expression, or where it is a rule, the rule's expression."""
        seen: set[int] = set()
        while isinstance(rule := self.expressions[number], Rule) and number not in seen:
            seen.add(number)
            number = self.bodies[rule.name]
        return number


def simplified(grammar: Grammar) -> Rules:
    """Raises InvalidArgument if no finite text matches `root`."""
    made, bodies = grammar.expressions, dict(grammar.rules)
    _without_endless(made, bodies)
    if bodies["root"] == NOTHING:
        line = grammar.lines["root"]
        raise InvalidArgument(f"grammar line {line}: no finite text matches `root`")
    rules = Rules(made, bodies, set(), NOTHING)
    for names in _components(made, bodies):
        _look_at(rules, names)
    rules.root = rules.resolved(bodies["root"])
    return rules


def matching(
    made: Expressions, bodies: dict[str, int], single: bool, repeat: Callable[[Repeat], bool]
) -> list[bool]:
    """For each expression whether a property holds that a sequence has if all parts have it,
    a choice if one part has it, and a rule if its expression has it.

    `single` is the property of characters and texts, `repeat` tells which repetitions have it
    whatever their part is.
    """
    holds = [False] * len(made)
    missing = [len(made.parts(number)) for number in range(len(made))]
    users: list[list[int]] = [[] for _ in range(len(made))]
    todo: list[int] = []
    for number in range(len(made)):
        expression = made[number]
        for part in made.parts(number):
            users[part].append(number)
        if isinstance(expression, Rule):
            users[bodies[expression.name]].append(number)
        elif isinstance(expression, Sequence):
            holds[number] = not expression.parts
        elif isinstance(expression, Repeat):
            holds[number] = repeat(expression)
        elif not isinstance(expression, Choice):
            holds[number] = single
        if holds[number]:
            todo.append(number)
    while todo:
        for user in users[todo.pop()]:
            missing[user] -= 1
            if not holds[user] and (missing[user] <= 0 or not isinstance(made[user], Sequence)):
                holds[user] = True
                todo.append(user)
    return holds


def _without_endless(made: Expressions, bodies: dict[str, int]) -> None:
    """Drops the alternatives that no finite text matches, as `a ::= "x" a`."""
    finite = matching(made, bodies, single=True, repeat=lambda repeat: repeat.least == 0)
    new: list[int] = []
    for number in range(len(made)):
        parts = tuple(new[part] for part in made.parts(number))
        new.append(made.with_parts(number, parts) if finite[number] else NOTHING)
    for name, body in bodies.items():
        bodies[name] = new[body]


def _rules_within(made: Expressions, body: int) -> list[str]:
    found = (made[number] for number in made.within(body))
    return [expression.name for expression in found if isinstance(expression, Rule)]


def _components(made: Expressions, bodies: dict[str, int]) -> list[list[str]]:
    """The rules that `root` needs, in groups of rules that need each other, each group after
    the groups that it needs (Tarjan's algorithm)."""
    needed: dict[str, list[str]] = {}
    place: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    groups: list[list[str]] = []
    path = [("root", 0)]
    while path:
        name, step = path.pop()
        if step == 0:
            place[name] = low[name] = len(place)
            stack.append(name)
            on_stack.add(name)
            needed[name] = _rules_within(made, bodies[name])
        else:
            low[name] = min(low[name], low[needed[name][step - 1]])
        while step < len(needed[name]):
            other = needed[name][step]
            step += 1
            if other not in place:
                path += [(name, step), (other, 0)]
                break
            if other in on_stack:
                low[name] = min(low[name], place[other])
        else:
            if low[name] == place[name]:
                group = [stack.pop()]
                while group[-1] != name:
                    group.append(stack.pop())
                on_stack.difference_update(group)
                groups.append(group)
    return groups


def _look_at(rules: Rules, names: list[str]) -> None:
    """Decides whether a group of rules is recursive; the rules that it needs are decided."""
    made, bodies = rules.expressions, rules.bodies
    for name in names:
        bodies[name] = _with_small_rules(rules, bodies[name])
    name = names[0]
    if len(names) > 1:
        rules.recursive.update(names)
        return
    needed = _rules_within(made, bodies[name])
    if name in needed:
        loop = _as_repetition(rules, name, at_end=True) or _as_repetition(rules, name, False)
        if loop is None:
            rules.recursive.add(name)
        else:
            bodies[name] = loop
    elif not rules.recursive.isdisjoint(needed):
        rules.recursive.add(name)


def _with_small_rules(rules: Rules, body: int) -> int:
    """A body in which rules that are a text, a set, another rule, or a repetition of one of
    these, are replaced by their expressions.  So nine rules that double each other,
    `x9 ::= x8 x8` to `x0 ::= "a"?`, become `"a"{0,512}`, and llguidance has less work."""
    made = rules.expressions
    new: dict[int, int] = {}
    for number in made.within(body):
        parts = tuple(new[part] for part in made.parts(number))
        new[number] = made.with_parts(number, parts)
        if isinstance(made[number], Rule):
            small = rules.resolved(number)
            inner = made.parts(small) if isinstance(made[small], Repeat) else (small,)
            if all(isinstance(made[part], Text | Set | Rule) for part in inner):
                new[number] = small
    return new[body]


def _as_repetition(rules: Rules, name: str, at_end: bool) -> int | None:
    """The body of a rule `a ::= p a | q` as `p* q`, or of `a ::= a p | q` as `q p*`, where p
    and q are regular; None if it is not like that (Arden's rule)."""
    made = rules.expressions
    split: dict[int, tuple[int, int]] = {}
    """Expression -> what stands beside the rule's own name in it, and what is without it."""
    for number in made.within(rules.bodies[name]):
        expression = made[number]
        parts = made.parts(number)
        if isinstance(expression, Rule) and expression.name == name:
            split[number] = EMPTY, NOTHING
        elif isinstance(expression, Rule) and expression.name in rules.recursive:
            return None
        elif all(split[part][0] == NOTHING for part in parts):
            split[number] = NOTHING, number
        elif isinstance(expression, Choice):
            split[number] = (
                made.choice(split[part][0] for part in parts),
                made.choice(split[part][1] for part in parts),
            )
        elif isinstance(expression, Repeat) and (expression.least, expression.most) == (0, 1):
            again, rest = split[parts[0]]
            split[number] = again, made.choice([rest, EMPTY])
        elif isinstance(expression, Sequence):
            others, last = (parts[:-1], parts[-1]) if at_end else (parts[1:], parts[0])
            if any(split[part][0] != NOTHING for part in others):
                return None
            again, rest = split[last]
            if at_end:
                split[number] = made.sequence([*others, again]), made.sequence([*others, rest])
            else:
                split[number] = made.sequence([again, *others]), made.sequence([rest, *others])
        else:
            return None
    again, rest = split[rules.bodies[name]]
    loop = made.repeat(again, 0, None)
    return made.sequence([loop, rest] if at_end else [rest, loop])
