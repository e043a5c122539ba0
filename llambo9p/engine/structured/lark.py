"""What of llguidance's Lark dialect a user may write: all that describes text, nothing else.

The dialect can do more: name the model's control tokens, change the temperature, count and
hide tokens, set options of the library.  `check` refuses all that, by name and line.  A
negation (`~A`) is refused too: llguidance takes any bytes for it, and among them the byte
that marks control tokens (seen in 1.9.1: the mask of `~"a"` allows all of them).

Allowed: rules and terminals, strings (`"a"`, `"a"i`, `"a".."z"`), regular expressions,
`|`, `&` between terminals, groups, `[optional]`, `* + ? ~N ~N..M {N} {N,M}`, aliases (`-> name`),
comments, `%ignore`, `%import common.NAME`, `%json {...}` and `%regex {...}`.

The text is cut into the same words as llguidance cuts it into: the longest that fits, and of
two of the same length the first in `_WORDS`.  So nothing can hide in a string,
a regular expression or a comment.  Whether the grammar is well formed is for
llguidance to say; what is cut differently there is an error there.

`to_lark` also turns off forcing.  llguidance looks ahead while only one byte is allowed, and
that has no end where a terminal can never end: the first mask of `start: /a+/ "a"` is never
finished (1.9.1).  Without forcing, each mask looks at the tokens of the vocabulary only.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from llambo9p.errors import InvalidArgument

_WORDS: list[tuple[str, re.Pattern[str]]] = [
    (kind, re.compile(pattern, re.ASCII))
    for kind, pattern in [
        ("skip", r"(?:#|//)[^\n]*|[ \t]+"),
        ("keyword", r"%(?:declare|llguidance|ignore|import|override|json|regex|lark|if)"),
        ("arrow", r"->"),
        ("parameter", r"::"),
        ("range", r"\.\."),
        ("dot", r"\."),
        ("colon", r":"),
        ("equals", r"="),
        ("parameter", r"_"),
        ("tilde", r"~"),
        ("closed", r"\]"),
        ("mark", r"[,(){}\[|&]"),
        ("mark", r"[+*?]"),
        ("rule", r"!?[_?]?[a-z][_a-z0-9\-]*"),
        ("terminal", r"_?[A-Z][_A-Z0-9\-]*"),
        (
            "string",
            r'"(?:\\(?:["\\/bfnrt]|u[a-fA-F0-9]{4}|x[a-fA-F0-9]{2})|[^"\\\x00-\x1F\x7F])*"i?',
        ),
        ("regex", r"/(?:\\[^\n]|[^/\\])+/[imslux]*"),
        ("number", r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?"),
        ("hex", r"0[xX][0-9a-fA-F]+"),
        ("line", r"(?:\r?\n)+[ \t]*"),
        ("token", r"<[^<>\s]+>"),
        ("grammar", r"@[a-zA-Z0-9_\-]+"),
    ]
]

_WHITE_SPACE = re.compile(r"[ \t\r\n]*")

_REFUSED = {
    "token": "it names a token of the model; a grammar describes text, so write the text itself",
    "grammar": "it refers to another grammar, and there is no other one",
    "parameter": "rules with parameters are not supported",
    "hex": "rules with parameters are not supported",
    "equals": "attributes of rules, as in name[max_tokens=5], are not supported",
    "%llguidance": "options of the library cannot be set",
    "%lark": "grammars inside of a grammar are not supported; write its rules beside the others",
    "%override": "it is not supported",
    "%declare": "it is not supported",
    "%if": "rules with parameters are not supported",
}
"""Kind of word, or the keyword -> why it is refused."""


WITHOUT_FORCING = '\n%llguidance {"no_forcing": true}\n'
"""An option of llguidance.  It comes behind a user's text, so that the lines in llguidance's
errors are the user's lines."""


def to_lark(text: str) -> str:
    """The user's grammar as llguidance may have it.  Raises InvalidArgument as `check` does."""
    check(text)
    return text + WITHOUT_FORCING


def check(text: str) -> None:
    """Raises InvalidArgument, naming the line, for what is more than a description of text."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise InvalidArgument(f"grammar: {text[e.start]!a} is no character") from None
    _Checker(text).check()


class _Checker:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def check(self) -> None:
        before = ""
        while self._at < len(self._text):
            begin = self._at
            kind, word = self._word()
            if kind == "skip":
                continue
            if reason := _REFUSED.get(kind) or _REFUSED.get(word):
                self._fail(f"{word}: {reason}", begin)
            if before == "tilde" and kind != "number":
                self._fail("~ before an expression: negations are not supported", begin)
            if before == "closed" and kind == "colon":
                self._fail("attributes of rules, as in name[lazy], are not supported", begin)
            if word in ("%json", "%regex"):
                self._json(word)
            if before == "%import" and word != "common":
                self._fail("%import takes common.NAME or common (NAME, ...)", begin)
            before = word if kind == "keyword" else kind
        if before == "tilde":
            self._fail("~ before an expression: negations are not supported", self._at)

    def _fail(self, why: str, at: int) -> NoReturn:
        line = self._text.count("\n", 0, at) + 1
        raise InvalidArgument(f"grammar line {line}: {why}")

    def _word(self) -> tuple[str, str]:
        """The next word and its kind."""
        kind, end = "", self._at
        for other, pattern in _WORDS:
            found = pattern.match(self._text, self._at)
            if found is not None and found.end() > end:
                kind, end = other, found.end()
        if not kind:
            self._fail(f"{self._text[self._at]!r} begins nothing that Lark knows", self._at)
        word = self._text[self._at : end]
        self._at = end
        return kind, word

    def _json(self, keyword: str) -> None:
        """Reads the JSON object behind a keyword."""
        found = _WHITE_SPACE.match(self._text, self._at)
        assert found is not None
        begin = found.end()
        try:
            value, self._at = _DECODER.raw_decode(self._text, begin)
        except RecursionError:
            self._fail(f"the JSON behind {keyword} is nested too deeply", begin)
        except ValueError as e:
            self._fail(f"a JSON object was expected behind {keyword}: {e}", begin)
        if not isinstance(value, dict):
            self._fail(f"a JSON object was expected behind {keyword}", begin)
        if "x-guidance" in value:
            self._fail('"x-guidance": options of the library cannot be set', begin)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
