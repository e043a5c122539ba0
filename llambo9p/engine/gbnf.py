"""Checks a GBNF grammar before llama.cpp sees it, and says where it is wrong.

llama.cpp's parser (src/llama-grammar.cpp, grammars/README.md) prints what it dislikes to
stderr, without a line, and gives a null pointer; a writer of a `grammar` file is told the
line.  What is accepted here is what that parser accepts, and its limits are kept: every
rule that is used is defined, there is a `root`, no rule begins with itself, what is repeated
without end is not empty, and counts are bounded.  Only its tokens, `<NAME>` and `<[ID]>`, are
refused: where one begins in the middle of what the model may say at once, it aborts.

Nothing is kept of a grammar: llama.cpp parses the text again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

from llambo9p.errors import InvalidArgument

MAX_REPETITIONS = 2000
"""MAX_REPETITION_THRESHOLD there"""
MAX_SIZE = 20_000
"""elements of a grammar when its repetitions are written out, which is what is done there"""
MAX_DEPTH = 100
"""of parentheses: the parser there calls itself for each"""

_NAME = re.compile(r"[A-Za-z0-9-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_REPEAT = re.compile(r"\{[ \t]*(\d+)[ \t]*(?:(,)[ \t]*(?:(\d+)[ \t]*)?)?\}")
_ESCAPE = re.compile(r'\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[trn\\"\[\]])')
_EMPTY = "what may be empty is repeated without end"


@dataclass(slots=True)
class _Item:
    """What a sequence holds, as far as left recursion is concerned."""

    rule: str = ""
    """the rule that it is; of a group, none"""
    alternatives: list[list[_Item]] = field(default_factory=list)
    """of a group"""
    optional: bool = False
    """it may match nothing"""
    void: bool = False
    """it is nothing: `""` or `[]`"""
    endless: int | None = None
    """where it is repeated without end"""
    size: int = 1
    """elements, when its repetitions are written out"""


def check(text: str) -> None:
    """Raises InvalidArgument naming the line for what llama.cpp would not take."""
    whole_characters(text, "grammar")
    if "\0" in text:
        raise InvalidArgument("grammar: a NUL is written \\x00")
    _Parser(text).check()


def whole_characters(text: str, where: str) -> None:
    """Raises InvalidArgument for half of a surrogate pair, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise InvalidArgument(f"{where}: {text[e.start]!a} is no character") from None


def count(digits: str) -> int:
    """How often something is repeated, at most; Python converts only so many digits."""
    return int(digits) if len(digits) < 10 else 10**9


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._size = 0
        self._rules: dict[str, list[list[_Item]]] = {}
        self._used: dict[str, int] = {}
        """rule -> where it is used first"""

    def check(self) -> None:
        self._skip(lines=True)
        while self._at < len(self._text):
            self._rule()
        if "root" not in self._rules:
            raise InvalidArgument("grammar: there is no rule `root`")
        for name, at in self._used.items():
            if name not in self._rules:
                self._fail(f"the rule `{name}` is used and not defined", at)
        self._check_left_recursion()

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
        alternatives = self._rules[name[0]] = self._alternatives(nested=False)
        self._size += _size(alternatives)
        if self._size > MAX_SIZE:
            self._fail(f"more than {MAX_SIZE} elements")
        if self._at < len(self._text) and self._text[self._at] not in "\r\n":
            self._fail(f"the end of the line was expected, not {self._here()}")
        self._skip(lines=True)

    def _alternatives(self, nested: bool) -> list[list[_Item]]:
        alternatives = [self._sequence(nested)]
        while self._text.startswith("|", self._at):
            self._at += 1
            self._skip(lines=True)
            alternatives.append(self._sequence(nested))
        return alternatives

    def _sequence(self, nested: bool) -> list[_Item]:
        items: list[_Item] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in "*+?{":
                if not items:
                    self._fail(f"there is nothing before {char!r} to repeat")
                self._repetition(items[-1], char)
            elif (item := self._item(char)) is not None:
                items.append(item)
            else:
                break
            self._skip(lines=nested)
        return items

    def _item(self, char: str) -> _Item | None:
        if char == '"':
            return self._literal()
        if char == "[":
            return self._characters()
        if char == ".":
            self._at += 1
            return _Item()
        if char == "(":
            return self._group()
        if char in "<!":
            self._fail("tokens, <NAME> or <[ID]>, are not supported")
        name = self._next(_NAME)
        if name is None:
            return None
        self._used.setdefault(name[0], name.start())
        return _Item(rule=name[0])

    def _group(self) -> _Item:
        begin = self._at
        self._at += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"more than {MAX_DEPTH} parentheses within each other")
        self._skip(lines=True)
        alternatives = self._alternatives(nested=True)
        if not self._text.startswith(")", self._at):
            self._fail("this parenthesis is not closed", begin)
        self._at += 1
        self._depth -= 1
        return _Item(alternatives=alternatives, size=_size(alternatives))

    def _repetition(self, item: _Item, char: str) -> None:
        if char == "{":
            found = self._next(_REPEAT)
            if found is None:
                self._fail("a repetition is written {N}, {N,} or {N,M}")
            least, most = count(found[1]), count(found[3] or found[1])
            if max(least, most) > MAX_REPETITIONS:
                self._fail(f"more than {MAX_REPETITIONS} repetitions")
            if found[3] is not None and most < least:
                self._fail(f"{found[0]} ends before it begins")
            endless = found[2] is not None and found[3] is None
            item.size *= max(1, most)
            if item.size > MAX_SIZE:
                self._fail(f"{found[0]} repeats too much: more than {MAX_SIZE} elements in all")
        else:
            self._at += 1
            least = 1 if char == "+" else 0
            endless = char != "?"
        if endless:
            if item.optional:
                self._fail(_EMPTY)
            item.endless = self._at - 1
        item.optional = item.optional or least == 0

    def _literal(self) -> _Item:
        begin = self._at
        self._at += 1
        while not self._text.startswith('"', self._at):
            self._character(begin, "string")
        self._at += 1
        return _void(self._at == begin + 2)

    def _characters(self) -> _Item:
        begin = self._at
        self._at += 1
        if self._text.startswith("^", self._at):
            self._at += 1
        while not self._text.startswith("]", self._at):
            low = self._character(begin, "set of characters")
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                high = self._character(begin, "set of characters")
                if high < low:
                    self._fail(f"the range {chr(low)!r} to {chr(high)!r} is empty")
        self._at += 1
        return _void(self._at == begin + 2)

    def _character(self, begin: int, of: str) -> int:
        """The code point of a character, or of its escape."""
        if self._at >= len(self._text):
            self._fail(f"this {of} is not closed", begin)
        if self._text[self._at] != "\\":
            self._at += 1
            return ord(self._text[self._at - 1])
        found = self._next(_ESCAPE)
        if found is None:
            self._fail(f"unknown escape {self._text[self._at : self._at + 2]!r}")
        word = found[0]
        if word[1] not in "xuU":
            return ord({"t": "\t", "r": "\r", "n": "\n"}.get(word[1], word[1]))
        code = int(word[2:], 16)
        if code > 0x10FFFF:
            self._fail(f"{word} is no character")
        return code

    # -- left recursion ---------------------------------------------------------------

    def _check_left_recursion(self) -> None:
        """llama.cpp refuses it, for it would look for the first character for ever."""
        for alternatives in self._rules.values():
            self._check_repetitions(alternatives)
        empty = self._may_be_empty()
        begins = {
            name: set(_first_rules(alternatives, empty))
            for name, alternatives in self._rules.items()
        }
        done: set[str] = set()
        for start in self._rules:
            path = [(start, iter(begins[start]))] if start not in done else []
            on_path = {start}
            while path:
                name, rest = path[-1]
                step = next(rest, None)
                if step is None:
                    path.pop()
                    on_path.discard(name)
                    done.add(name)
                elif step in on_path:
                    self._fail(f"the rule `{step}` begins with itself", self._used[step])
                elif step not in done:
                    path.append((step, iter(begins[step])))
                    on_path.add(step)

    def _check_repetitions(self, alternatives: list[list[_Item]]) -> None:
        """It is left recursion there when what is repeated has an alternative without
        anything; one that may only turn out to be empty is well."""
        for item in (item for items in alternatives for item in items):
            self._check_repetitions(item.alternatives)
            if item.endless is not None:
                repeated = self._rules[item.rule] if item.rule else item.alternatives
                if any(all(part.void for part in items) for items in repeated):
                    self._fail(_EMPTY, item.endless)

    def _may_be_empty(self) -> set[str]:
        empty: set[str] = set()
        while True:
            more = {
                name
                for name, alternatives in self._rules.items()
                if name not in empty and _is_empty(alternatives, empty)
            }
            if not more:
                return empty
            empty |= more


def _void(void: bool) -> _Item:
    return _Item(void=void, optional=void)


def _size(alternatives: list[list[_Item]]) -> int:
    return sum(item.size for items in alternatives for item in items)


def _item_is_empty(item: _Item, empty: set[str]) -> bool:
    if item.optional or item.rule in empty:
        return True
    return bool(item.alternatives) and _is_empty(item.alternatives, empty)


def _is_empty(alternatives: list[list[_Item]], empty: set[str]) -> bool:
    return any(all(_item_is_empty(item, empty) for item in items) for items in alternatives)


def _first_rules(alternatives: list[list[_Item]], empty: set[str]) -> list[str]:
    """The rules with which one of the alternatives may begin."""
    found: list[str] = []
    for items in alternatives:
        for item in items:
            if item.rule:
                found.append(item.rule)
            found += _first_rules(item.alternatives, empty)
            if not _item_is_empty(item, empty):
                break
    return found
