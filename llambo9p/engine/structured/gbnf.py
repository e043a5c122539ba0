"""GBNF grammars, as llama.cpp reads them, in llguidance's own language.

`to_lark` is exact: a text matches the result if and only if it matches the GBNF grammar as a
context-free grammar over characters.  A grammar without recursion becomes one terminal, which
llguidance matches as a regular expression.  A recursive one becomes rules over terminals
that the lexer cannot read wrongly (`lexemes`).

Forcing is off, as in a user's own Lark grammar (`lark`): the first mask of
`("a"{1000}){1000}` and two more such levels took 4 s with it, and takes nothing without.

All names in the result are made here, so any name in the GBNF grammar will do.
What is written is linear in the text that was given, and so is the time, but for
a budget of steps (`lexemes.STEPS`).
"""

from __future__ import annotations

from llambo9p.engine.structured import lexemes
from llambo9p.engine.structured.expressions import (
    EMPTY,
    LAST,
    Choice,
    Expressions,
    Ranges,
    Repeat,
    Sequence,
    Set,
    Text,
)
from llambo9p.engine.structured.gbnf_parser import parse
from llambo9p.engine.structured.lark import WITHOUT_FORCING
from llambo9p.engine.structured.lexemes import Lexemes, Symbol
from llambo9p.engine.structured.regular import Rules, simplified
from llambo9p.errors import InvalidArgument

MAX_SYMBOLS = 20_000
"""Rules and terminals in the result.  llguidance has 16-bit numbers for its symbols,
of which it makes up to three for each."""


def to_lark(text: str) -> str:
    """The GBNF grammar as a Lark grammar.  Raises InvalidArgument that names the line."""
    rules = simplified(parse(text))
    found = lexemes.cut(rules)
    terminals = {symbol.number for symbol in found.symbols if symbol.kind == "terminal"}
    size = len(terminals) + sum(symbol.kind != "terminal" for symbol in found.symbols)
    if size > MAX_SYMBOLS:
        raise InvalidArgument(f"grammar: it is too large: more than {MAX_SYMBOLS} rules")
    return _Writer(rules, found).write()


class _Writer:
    def __init__(self, rules: Rules, found: Lexemes) -> None:
        self._rules = rules
        self._made: Expressions = rules.expressions
        self._symbols = found.symbols
        self._start = found.start
        self._nullable = found.nullable
        self._lines: list[str] = []
        self._todo: list[int] = []
        self._named: set[int] = set()

    def write(self) -> str:
        self._lines.append(f"start: {self._use(self._start)}")
        for number, symbol in enumerate(self._symbols):
            if symbol.kind != "terminal":
                self._lines.append(f"r{number}: {self._rule(symbol)}")
        used = {symbol.number for symbol in self._symbols if symbol.kind == "terminal"}
        for number in sorted(used):
            if self._nullable[number]:
                # the terminal without the empty text
                self._lines.append(f'N{number}: {self._name(number)} & ~""')
            else:
                self._name(number)
        while self._todo:
            number = self._todo.pop()
            self._lines.append(f"T{number}: {self._terminal(number)}")
        return "\n".join(self._lines) + WITHOUT_FORCING

    # -- rules --------------------------------------------------------------------------

    def _use(self, number: int) -> str:
        symbol = self._symbols[number]
        if symbol.kind != "terminal":
            return f"r{number}"
        return f"{'N' if self._nullable[symbol.number] else 'T'}{symbol.number}"

    def _rule(self, symbol: Symbol) -> str:
        parts = [self._use(part) for part in symbol.parts]
        if symbol.kind == "choice":
            return " | ".join(parts)
        if symbol.kind == "repeat":
            return parts[0] + _times(symbol.least, symbol.most)
        return " ".join(parts) or '""'

    # -- terminals ----------------------------------------------------------------------

    def _name(self, number: int) -> str:
        if number not in self._named:
            self._named.add(number)
            self._todo.append(number)
        return f"T{number}"

    def _terminal(self, number: int) -> str:
        match self._made[number]:
            case Choice(parts):
                return " | ".join(map(self._option, parts))
            case Sequence(parts):
                return self._option(number)
            case _:
                return self._item(number)

    def _option(self, number: int) -> str:
        match self._made[number]:
            case Sequence(parts):
                return " ".join(map(self._item, parts)) or '""'
            case _:
                return self._item(number)

    def _item(self, number: int) -> str:
        match self._made[self._rules.resolved(number)]:
            case Repeat(part, least, most):
                return self._atom(part) + _times(least, most)
            case _:
                return self._atom(number)

    def _atom(self, number: int) -> str:
        number = self._rules.resolved(number)
        match self._made[number]:
            case Text(text):
                return _quoted(text)
            case Set(ranges):
                return _set(ranges)
            case _:
                return '""' if number == EMPTY else self._name(number)


def _times(least: int, most: int | None) -> str:
    match least, most:
        case 0, None:
            return "*"
        case 1, None:
            return "+"
        case 0, 1:
            return "?"
        case _, None:
            return f"{{{least},}}"
    return f"{{{least},{most}}}"


def _quoted(text: str) -> str:
    """A string of Lark: printable characters but quotes and backslashes as they are."""
    return '"' + "".join(map(_string_char, text)) + '"'


def _string_char(char: str) -> str:
    if char in '"\\' or ord(char) < 0x20 or ord(char) == 0x7F:
        return f"\\u{ord(char):04x}"
    return char


def _set(ranges: Ranges) -> str:
    """A regular expression of Lark for one character of a set."""
    if ranges == ((0, 0xD7FF), (0xE000, LAST)):
        return "/(?s:.)/"
    return "/[" + "".join(map(_range, ranges)) + "]/"


def _range(bounds: tuple[int, int]) -> str:
    low, high = (f"\\x{{{code:X}}}" for code in bounds)
    return low if low == high else f"{low}-{high}"
