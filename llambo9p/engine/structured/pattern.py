"""A schema's `pattern`, as people write it, in the dialect of llguidance's regular expressions.

JSON schemas take ECMA 262's dialect; many are written for Python's.  llguidance takes Rust's,
which reads some of the same texts otherwise: `[a&&b]` is an intersection there, `\\<` a word's
beginning.  So a pattern is read here, character by character, and written anew.

The rules:
- Where the dialects read a text differently, the result matches only what all of them match:
  `\\d` is ASCII, `\\D` is no decimal digit of any script, `.` is no line separator of any kind.
- What no regular language holds (look-around, references back, word boundaries), and what
  one dialect reads so and another otherwise (`(?i)`, `a++`, `{,3}`, `[]a]`), is refused.
- No control characters but those with a short escape in JSON (`UNWRITABLE`).  llguidance 1.9.1
  takes a literal one for nothing at all where `\\uXXXX` is closed, so none may be in the result.
- The work and the result are linear in the text.  Nothing recurses.
"""

from __future__ import annotations

import re

DEEPEST = 200
"""groups in groups; the regular expressions' own parser takes 250"""

UNWRITABLE = frozenset(map(chr, [*range(8), 11, *range(14, 32), 127]))
"""the characters that no answer holds: JSON writes them as `\\uXXXX`, which is closed, for
`"\\u0061"` would be a second name for the property `a`"""
_UNWRITABLE = r"\x{0}-\x{7}\x{b}\x{e}-\x{1f}\x{7f}"
_SPACES = r"\x{9}-\x{d}\x{20}"
"""what `\\s` matches in each dialect"""
_ANY_SPACES = (
    _SPACES + r"\x{1c}-\x{1f}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}"
    r"\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}"
)
"""what `\\s` matches in one dialect or another"""
_WORDS = "0-9A-Za-z_"
_ANY_WORDS = r"\p{L}\p{N}\p{M}_"

# (inside an ordinary class or alone, inside a class that begins with ^)
_CLASSES = {
    "d": ("0-9", r"\p{Nd}"),
    "D": (r"\P{Nd}", "[^0-9]"),
    "w": (_WORDS, _ANY_WORDS),
    "W": (f"[^{_ANY_WORDS}]", f"[^{_WORDS}]"),
    "s": (_SPACES, _ANY_SPACES),
    "S": (f"[^{_ANY_SPACES}]", f"[^{_SPACES}]"),
}
_ECMA_SPACES = (
    _SPACES + r"\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}"
)
_ECMA_CLASSES = {
    name: (inside, inside)
    for name, inside in {
        "d": "0-9",
        "D": "[^0-9]",
        "w": _WORDS,
        "W": f"[^{_WORDS}]",
        "s": _ECMA_SPACES,
        "S": f"[^{_ECMA_SPACES}]",
    }.items()
}
_CHARACTERS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_DOT = rf"[^{_UNWRITABLE}\n\r\x{{2028}}\x{{2029}}]"
_REPEAT = re.compile(r"\{(\d{1,9})(?:(,)(\d{0,9}))?\}")
_GROUP_NAME = re.compile(r"\(\?P?<[A-Za-z_][A-Za-z0-9_]*>")
_HEX = {
    "x": re.compile(r"x([0-9A-Fa-f]{2})"),
    "u": re.compile(r"u(?:([0-9A-Fa-f]{4})|\{([0-9A-Fa-f]{1,6})\})"),
}
_PROPERTY = re.compile(r"[pP]\{[A-Za-z_]+(?:=[A-Za-z_]+)?\}")
_LOW_SURROGATE = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})")
_LOOK_AROUND = ("(?=", "(?!", "(?<=", "(?<!")


class Unkept(Exception):
    """The pattern cannot be kept; the text says why."""


def translated(pattern: str, *, ecma: bool = False) -> str:
    """The pattern for llguidance, which matches it anywhere in a string.

    ecma: classes are ECMA 262's alone.  A pattern for names wants that: a name that it leaves out
    is not forbidden, but goes by other keywords.
    """
    return _Reader(pattern, _ECMA_CLASSES if ecma else _CLASSES).read()


def _literal(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    return f"\\x{{{ord(character):x}}}"


class _Reader:
    def __init__(self, pattern: str, classes: dict[str, tuple[str, str]]) -> None:
        self.text = pattern
        self.classes = classes
        self.at = 0

    def read(self) -> str:
        out: list[str] = []
        open_groups = 0
        repeatable = False  # something stands before, which a quantifier may repeat
        while self.at < len(self.text):
            c = self.text[self.at]
            if c == "(":
                open_groups += 1
                if open_groups > DEEPEST:
                    raise Unkept(f"its groups are nested deeper than {DEEPEST}")
                self._open_group()
                out.append("(?:")
                repeatable = False
            elif c == ")":
                if not open_groups:
                    raise Unkept("it has a `)` without its `(`")
                open_groups -= 1
                self.at += 1
                out.append(")")
                repeatable = True
            elif c in "*+?" or (c == "{" and self._repeat() is not None):
                if not repeatable:
                    raise Unkept(f"`{c}` repeats nothing")
                out.append(self._quantifier())
                repeatable = False
            elif c in "^$|":
                self.at += 1
                out.append(c)
                repeatable = False
            else:
                out.append(self._atom(c))
                repeatable = True
        if open_groups:
            raise Unkept("it has a `(` without its `)`")
        return "".join(out)

    def _open_group(self) -> None:
        if not self.text.startswith("(?", self.at):
            self.at += 1
        elif self.text.startswith("(?:", self.at):
            self.at += 3
        elif self.text.startswith(_LOOK_AROUND, self.at):
            raise Unkept("look-ahead and look-behind cannot be kept")
        elif found := _GROUP_NAME.match(self.text, self.at):
            self.at = found.end()
        else:
            raise Unkept(f"`{self.text[self.at : self.at + 4]}` has no meaning in a schema")

    def _repeat(self) -> re.Match[str] | None:
        found = _REPEAT.match(self.text, self.at)
        if found is None and re.compile(r"\{,\d*\}").match(self.text, self.at):
            raise Unkept("`{,n}` is read in two ways; write `{0,n}`")
        return found

    def _quantifier(self) -> str:
        if found := self._repeat() if self.text[self.at] == "{" else None:
            low, comma, high = found.groups()
            if high and int(high) < int(low):
                raise Unkept(f"`{found[0]}` has its bounds the wrong way round")
            self.at = found.end()
            quantifier = f"{{{int(low)}{comma or ''}{int(high) if high else ''}}}"
        else:
            quantifier = self.text[self.at]
            self.at += 1
        if self.text.startswith("?", self.at):  # a lazy one matches the same strings
            self.at += 1
        elif self.text.startswith("+", self.at):
            raise Unkept(f"`{quantifier}+` is read in two ways")
        return quantifier

    def _atom(self, c: str) -> str:
        if c == "[":
            return self._class()
        if c == ".":
            self.at += 1
            return _DOT
        if c == "\\":
            escaped, is_class = self._escape(negated=False, in_class=False)
            if is_class:
                return f"[[{escaped}]&&[^{_UNWRITABLE}]]"
            c = escaped
        else:
            self.at += 1
        if c in UNWRITABLE:
            raise Unkept(f"no answer holds the control character U+{ord(c):04X}")
        return _literal(c)

    def _class(self) -> str:
        self.at += 1
        negated = self.text.startswith("^", self.at)
        self.at += negated
        if self.text.startswith("]", self.at):
            raise Unkept("`[]` is read in two ways; write `\\]` for the character")
        out: list[str] = []
        while True:
            item, is_class = self._class_item(negated)
            if item == "]" and not is_class:
                items = "".join(out)
                return f"[^{items}{_UNWRITABLE}]" if negated else f"[[{items}]&&[^{_UNWRITABLE}]]"
            if not self._is_range():
                out.append(item if is_class else _literal(item[-1]))
                continue
            self.at += 1
            last, last_is_class = self._class_item(negated)
            if is_class or last_is_class or last == "]":
                raise Unkept("a range in `[]` goes from one character to another")
            if ord(item[-1]) > ord(last[-1]):
                raise Unkept(f"the range {item[-1]}-{last[-1]} has its ends the wrong way round")
            out.append(f"{_literal(item[-1])}-{_literal(last[-1])}")

    def _is_range(self) -> bool:
        after = self.text[self.at : self.at + 2]
        return len(after) == 2 and after[0] == "-" and after[1] != "]"

    def _class_item(self, negated: bool) -> tuple[str, bool]:
        """One character (after a backslash where it was escaped), or the text of a class; a
        bare `]` is the end."""
        if self.at >= len(self.text):
            raise Unkept("it has a `[` without its `]`")
        if self.text[self.at] == "\\":
            escaped, is_class = self._escape(negated=negated, in_class=True)
            return (escaped, True) if is_class else ("\\" + escaped, False)
        self.at += 1
        return self.text[self.at - 1], False

    def _escape(self, *, negated: bool, in_class: bool) -> tuple[str, bool]:
        """The character that is meant; or the inside of a class, and True."""
        self.at += 1
        c = self.text[self.at : self.at + 1]
        if not c:
            raise Unkept("it ends in a backslash")
        if c in self.classes:
            self.at += 1
            return self.classes[c][negated], True
        if c in "pP" and (found := _PROPERTY.match(self.text, self.at)):
            self.at = found.end()
            return "\\" + found[0], True
        if c in _HEX:
            return self._code_point(c), False
        if c in "bB" and not (c == "b" and in_class):
            raise Unkept(f"the word boundary \\{c} cannot be kept")
        if c in "123456789k":
            raise Unkept(f"the reference \\{c} to a group cannot be kept")
        following = self.text[self.at + 1 : self.at + 2]
        if c == "c" and following.isascii() and following.isalpha():
            self.at += 2
            return chr(ord(following) & 31), False
        self.at += 1
        if c == "0" and not following.isdigit():
            return "\0", False
        if c == "b":
            return "\b", False
        if c in _CHARACTERS:
            return _CHARACTERS[c], False
        if c.isalnum():
            raise Unkept(f"\\{c} has no meaning in a schema")
        return c, False

    def _code_point(self, c: str) -> str:
        found = _HEX[c].match(self.text, self.at)
        if found is None:
            raise Unkept(f"\\{c} lacks its hexadecimal digits")
        self.at = found.end()
        code = int(found[1] or found[2], 16)
        if 0xD800 <= code < 0xDC00 and (low := _LOW_SURROGATE.match(self.text, self.at)):
            self.at = low.end()
            code = 0x10000 + ((code - 0xD800) << 10) + (int(low[1], 16) - 0xDC00)
        if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            raise Unkept(f"\\{found[0]} is no character")
        return chr(code)
