"""Reads a GBNF grammar: text to rules made of expressions.

GBNF is what llama.cpp reads (src/llama-grammar.cpp, grammars/README.md).  What llama.cpp takes
is taken here and means the same, except for tokens (`<NAME>`, `<[ID]>`), which reach beyond
text and are refused.  Taken besides: left recursion, endless repetition of what may be empty,
and `_` in names.  Each refusal names the line.

The time is linear in the text, and no depth of parentheses makes the parser recurse.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

from llambo9p.engine.structured.expressions import EMPTY, LAST, SURROGATES, Expressions
from llambo9p.errors import InvalidArgument

MAX_REPETITIONS = 100_000
"""The largest count in `{N,M}`."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_COUNTS = re.compile(r"\{[ \t]*(\d+)[ \t]*(?:(,)[ \t]*(?:(\d+)[ \t]*)?)?\}", re.ASCII)
_ESCAPE = re.compile(r'\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[trn\\"\[\]])')
_PLAIN = {'"': re.compile(r'[^"\\]+'), "]": re.compile(r"[^\]\\-]")}
"""Characters that stand for themselves, by what ends the string or the set."""
_CONTROL = {"t": "\t", "r": "\r", "n": "\n"}


@dataclass(slots=True)
class Grammar:
    """A grammar as it was read: nothing is checked but that each rule in use is defined."""

    expressions: Expressions
    rules: dict[str, int]
    """Name of a rule -> the number of its expression."""
    lines: dict[str, int]
    """Name of a rule -> the line of its definition."""


@dataclass(slots=True)
class _Level:
    """A parenthesis, or a rule outside of all parentheses, while it is read."""

    begin: int
    """Where it begins in the text."""
    alternatives: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    """The alternative that is being read."""


def parse(text: str) -> Grammar:
    """Raises InvalidArgument that names the line."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise InvalidArgument(f"grammar: {text[e.start]!a} is no character") from None
    if "\0" in text:
        raise InvalidArgument("grammar: a NUL is written \\x00")
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._made = Expressions()
        self._rules: dict[str, int] = {}
        self._begins: dict[str, int] = {}
        self._used: dict[str, int] = {}
        """Name of a rule -> where the text uses it first."""

    def parse(self) -> Grammar:
        self._skip(lines=True)
        while self._at < len(self._text):
            self._rule()
        if "root" not in self._rules:
            raise InvalidArgument("grammar: there is no rule `root`")
        for name, at in self._used.items():
            if name not in self._rules:
                self._fail(f"the rule `{name}` is used and not defined", at)
        return Grammar(self._made, self._rules, self._lines())

    def _lines(self) -> dict[str, int]:
        lines: dict[str, int] = {}
        line, seen = 1, 0
        for name, begin in sorted(self._begins.items(), key=lambda item: item[1]):
            line += self._text.count("\n", seen, begin)
            lines[name], seen = line, begin
        return lines

    def _fail(self, why: str, at: int | None = None) -> NoReturn:
        line = self._text.count("\n", 0, self._at if at is None else at) + 1
        raise InvalidArgument(f"grammar line {line}: {why}")

    def _skip(self, lines: bool) -> None:
        found = (_SPACE_AND_LINES if lines else _SPACE).match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _next(self, of: re.Pattern[str]) -> re.Match[str] | None:
        found = of.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def _here(self) -> str:
        """The next character, as a message shows it."""
        return repr(self._text[self._at]) if self._at < len(self._text) else "the end"

    def _rule(self) -> None:
        name = self._next(_NAME)
        if name is None:
            self._fail(f"a rule's name was expected, not {self._here()}")
        self._skip(lines=False)
        if not self._text.startswith("::=", self._at):
            self._fail(f"`::=` was expected after `{name[0]}`, not {self._here()}")
        self._at += 3
        self._skip(lines=True)
        self._begins[name[0]] = name.start()
        self._rules[name[0]] = self._body()
        if self._at < len(self._text) and self._text[self._at] not in "\r\n":
            self._fail(f"the end of the line was expected, not {self._here()}")
        self._skip(lines=True)

    def _body(self) -> int:
        """The expression of a rule.  It ends where the line ends, outside of parentheses."""
        levels = [_Level(self._at)]
        while self._at < len(self._text):
            level = levels[-1]
            char = self._text[self._at]
            if char == "(":
                levels.append(_Level(self._at))
                self._at += 1
                self._skip(lines=True)
                continue
            if char == "|":
                self._end_alternative(level)
                self._at += 1
                self._skip(lines=True)
                continue
            if char == ")" and len(levels) > 1:
                self._end_alternative(level)
                self._at += 1
                levels.pop()
                levels[-1].items.append(self._made.choice(level.alternatives))
            elif char in "*+?{":
                if not level.items:
                    self._fail(f"there is nothing before {char!r} to repeat")
                level.items[-1] = self._repetition(level.items[-1], char)
            elif (item := self._item(char)) is not None:
                level.items.append(item)
            else:
                break
            self._skip(lines=len(levels) > 1)
        if len(levels) > 1:
            self._fail("this parenthesis is not closed", levels[-1].begin)
        self._end_alternative(levels[0])
        return self._made.choice(levels[0].alternatives)

    def _end_alternative(self, level: _Level) -> None:
        level.alternatives.append(self._made.sequence(level.items))
        level.items = []

    def _item(self, char: str) -> int | None:
        if char == '"':
            return self._literal()
        if char == "[":
            return self._characters()
        if char == ".":
            self._at += 1
            return self._made.set([(0, LAST)])
        if char in "<!":
            self._fail("tokens, <NAME> or <[ID]>, are not supported; write the text itself")
        name = self._next(_NAME)
        if name is None:
            return None
        self._used.setdefault(name[0], name.start())
        return self._made.rule(name[0])

    def _repetition(self, item: int, char: str) -> int:
        if char != "{":
            self._at += 1
            return self._made.repeat(item, int(char == "+"), 1 if char == "?" else None)
        found = self._next(_COUNTS)
        if found is None:
            self._fail("a repetition is written {N}, {N,} or {N,M}")
        least, most = self._count(found[1]), self._count(found[3] or found[1])
        if found[3] is not None and most < least:
            self._fail(f"{found[0]} ends before it begins")
        endless = found[2] is not None and found[3] is None
        return self._made.repeat(item, least, None if endless else most)

    def _count(self, digits: str) -> int:
        """Python converts only so many digits, so their number is looked at first."""
        if len(digits) > 100 or int(digits) > MAX_REPETITIONS:
            self._fail(f"more than {MAX_REPETITIONS} repetitions")
        return int(digits)

    def _literal(self) -> int:
        begin = self._at
        self._at += 1
        found: list[str] = []
        while not self._text.startswith('"', self._at):
            found.append(self._some(begin, '"', "string"))
        self._at += 1
        return self._made.text("".join(found))

    def _characters(self) -> int:
        """A set of characters.  In llama.cpp an empty one, `[]`, is the empty text."""
        begin = self._at
        self._at += 1
        negated = self._text.startswith("^", self._at)
        self._at += negated
        ranges: list[tuple[int, int]] = []
        while not self._text.startswith("]", self._at):
            low = high = ord(self._some(begin, "]", "set of characters"))
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                high = ord(self._some(begin, "]", "set of characters"))
                if high < low:
                    self._fail(f"the range {chr(low)!r} to {chr(high)!r} is empty")
            ranges.append((low, high))
        self._at += 1
        return self._made.set(ranges, negated) if ranges else EMPTY

    def _some(self, begin: int, end: str, of: str) -> str:
        """The next character, or of a string several, with escapes resolved."""
        if self._at >= len(self._text):
            self._fail(f"this {of} is not closed", begin)
        if self._text[self._at] != "\\":
            plain = self._next(_PLAIN[end])
            if plain is None:  # a "-", or what ends the other kind
                self._at += 1
                return self._text[self._at - 1]
            return plain[0]
        found = self._next(_ESCAPE)
        if found is None:
            self._fail(f"unknown escape {self._text[self._at : self._at + 2]!r}")
        word = found[0]
        if word[1] not in "xuU":
            return _CONTROL.get(word[1], word[1])
        code = int(word[2:], 16)
        if code > LAST or SURROGATES[0] <= code <= SURROGATES[1]:
            self._fail(f"{word} is no character")
        return chr(code)
