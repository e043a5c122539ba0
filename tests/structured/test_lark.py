"""What a user's Lark grammar may hold, and that what is refused reaches beyond text."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.engine.structured import lark
from llambo9p.errors import InvalidArgument
from tests.structured import vocabulary
from tests.structured.vocabulary import CONTROL, EOS, allowed, compiled, matcher

GOOD = [
    ('start: "a" | /b+/i "c"i "d".."f"', "BBCe"),
    ('start: greeting\ngreeting: "hi" | "hello" -> long', "hello"),
    ('?start: item+\n!item: "a"? ["b"] ("c" | "d")*', "bcdab"),
    ('start: "a"~2 "b" ~ 0..2 x{2} x{1,} x{,3}\nx: "c"', "aabcccc"),
    ("start: WORD\nWORD: LETTER+ & /[^x]*/\nLETTER: /[a-z]/", "abc"),
    ('start: INT ("," INT)*\n%import common.INT\n%ignore " "', "1, 2"),
    ("start: N WS M\n%import common.NUMBER -> N\n%import common (WS, INT)\nM: INT", "1.5 2"),
    (
        'start: %json {\n  "type": "object",\n  "properties": {"<tool>": {"type": "null"}}\n} ";"',
        "{};",
    ),
    ('start: %regex {"substring_words": "one two"} "."', "two."),
    ('# a comment <|im_start|>\nstart: "a" // another one @x [lazy]:\n | "b"\n', "b"),
    ('start: "<|im_start|>" | "\\"<tool>" /<tool>\\/<tool>/', "<|im_start|>"),
    ('start: "a[lazy]: %lark ~b" /[@%=]~/', "a[lazy]: %lark ~b=~"),
    ('start: "\\u00ff<tool>" | "\\x41\\\\"', "A\\"),
    ('start: a-b\r\na-b: _c\n_c: "x"', "x"),
    ('start: /[^"\\/]+/ "/é"', "x/é"),
    ("start: /a\nb/", "a\nb"),
]
"""Grammars that describe text, and a text that matches."""


def names_control(text: str) -> bool:
    return not allowed(matcher(text)).isdisjoint(CONTROL)


def is_an_error(text: str) -> bool:
    return compiled(text).is_error()


def captures(text: str) -> bool:
    found = matcher(text)
    found.try_consume_tokens(list(b"x"))
    return bool(found.get_captures())


def refuses_xx(text: str) -> bool:
    """It counts or hides what is read: as a description of text it would match "xx;"."""
    return not vocabulary.accepts(text, "xx;")


def takes_no_text(text: str) -> bool:
    """The mask allows a byte that no character begins with."""
    return 0x80 in allowed(matcher(text))


def takes_what_it_cannot_keep(text: str) -> bool:
    return "uniqueItems" in text and not is_an_error(text)


def is_only_text(text: str) -> bool:
    """Refused all the same: the library's extensions to context-free grammars."""
    return not is_an_error(text)


BAD: list[tuple[str, str, Callable[[str], bool]]] = [
    ('start: "a"\n  | <|im_start|>', "line 2: <|im_start|>: it names a token", names_control),
    ("start: <tool>", "line 1: <tool>: it names a token of the model", names_control),
    ("start: <[257]>", "line 1: <[257]>: it names", names_control),
    ("start: <[^65]>", "line 1: <[^65]>: it names", names_control),
    ("start: <[0-258]>", "line 1: <[0-258]>: it names", names_control),
    ("start: <[*]>", "line 1: <[*]>: it names", names_control),
    ('start: "a"? b\n\nb: ( [ <tool> ] )+', "line 3: <tool>: it names", names_control),
    ("start: /b\n/? <tool>", "line 2: <tool>: it names", names_control),
    ('start: "//"? <tool> // "', "line 1: <tool>: it names", names_control),
    ('start: "\\""? <tool> "\\""', "line 1: <tool>: it names", names_control),
    ('start: /\\//? <tool> "/"', "line 1: <tool>: it names", names_control),
    ('start: /"/? <tool> /"/', "line 1: <tool>: it names", names_control),
    ('start: /#/? <tool> "#"', "line 1: <tool>: it names", names_control),
    ('start: (%json {"const": "}<"})? <tool>', "line 1: <tool>: it names", names_control),
    ('start: X\nX: ~"a"', "line 2: ~ before an expression: negations", names_control),
    ("start: X\nX: (~/a/)?", "line 2: ~ before an expression: negations", names_control),
    ("start: %lark {\n  start: <tool>\n}", "line 1: %lark: grammars inside", names_control),
    ("start: @other", "line 1: @other: it refers to another grammar", is_an_error),
    ('start: a\na[capture]: "x"', "line 2: attributes of rules", captures),
    ('start: a\na[capture="b"]: "x"', "line 2: =: attributes of rules", captures),
    ('start: a ";"\na[lazy]: /x+/', "line 2: attributes of rules", refuses_xx),
    ('start: a ";"\na [ lazy ] : /x+/', "line 2: attributes of rules", refuses_xx),
    ('start: a ";"\na[max_tokens=1]: /x+/', "line 2: =: attributes of rules", refuses_xx),
    ('start: a ";"\na[stop="q"]: /[a-z]*/', "line 2: =: attributes of rules", refuses_xx),
    ('start: a ";"\na[suffix="q"]: /[a-z]*/', "line 2: =: attributes of rules", refuses_xx),
    ("start[temperature=2.0]: /x+/", "line 1: =: attributes of rules", is_only_text),
    (
        '%llguidance {"allow_invalid_utf8": true}\nstart: /(?-u:[^a])/',
        "line 1: %llguidance: options",
        takes_no_text,
    ),
    ('%llguidance {}\nstart: "a"', "line 1: %llguidance: options", is_only_text),
    (
        'start: %json {"type": "array", "uniqueItems": true, "x-guidance": {"lenient": true}}',
        'line 1: "x-guidance": options',
        takes_what_it_cannot_keep,
    ),
    (
        'start: %json {"uniqueItems": true, "x\\u002dguidance": {"lenient": true}}',
        'line 1: "x-guidance": options',
        takes_what_it_cannot_keep,
    ),
    (
        'start: a::0\na::_: "a" a::set_bit(0) %if bit_clear(0) | "b" %if bit_set(0)',
        "line 1: ::: rules with parameters",
        is_only_text,
    ),
    ('%override start: "a"', "line 1: %override: it is not supported", is_an_error),
    ('%declare A\nstart: "a"', "line 1: %declare: it is not supported", is_an_error),
    ("%import other.INT\nstart: INT", "line 1: %import takes common.NAME", is_an_error),
    ("%import .common.INT\nstart: INT", "line 1: %import takes common.NAME", is_an_error),
    ('start: "a', "line 1: '\"' begins nothing", is_an_error),
    ("start: \n /a", "line 2: '/' begins nothing", is_an_error),
    ("start: 'a'", 'line 1: "\'" begins nothing', is_an_error),
    ("start: %json <tool>", "line 1: a JSON object was expected behind %json", is_an_error),
    ("start: %json {'a': 1}", "line 1: a JSON object was expected behind %json", is_an_error),
    ('start: %json {"a": NaN}', "line 1: a JSON object was expected behind %json", is_an_error),
    ("start: %json []", "line 1: a JSON object was expected behind %json", is_an_error),
    (
        'start: %json {"a": ' + "[" * 100_000,
        "line 1: the JSON behind %json is nested too deeply",
        is_an_error,
    ),
]


@pytest.mark.parametrize(("text", "match"), GOOD)
def test_what_describes_text_is_taken(text: str, match: str) -> None:
    found = lark.to_lark(text)
    assert vocabulary.accepts(found, match)
    assert allowed(matcher(found)).isdisjoint(CONTROL)


@pytest.mark.parametrize(("text", "why", "shown"), BAD)
def test_what_reaches_beyond_text_is_refused(
    text: str, why: str, shown: Callable[[str], bool]
) -> None:
    assert shown(text)
    with pytest.raises(InvalidArgument, match=f"^grammar {re.escape(why)}"):
        lark.check(text)


def test_a_character_that_no_file_can_hold_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"^grammar: '\\ud800' is no character"):
        lark.check('start: "\ud800"')


WORDS = [
    *(text[7:] for text, _ in GOOD if text.startswith("start: ") and "\n" not in text),
    *['"', "/", "//", "#", "\\", "<tool>", "<[257]>", "~", "[", "]", "(", ")", "%json", "{}", "{"],
    *["a", "A", "_", "?", "!", "x:", "\n", " ", "|", "+", "3", "..", "%lark", "=", "i", "@a", ":"],
]


def test_a_mask_ends_where_a_terminal_never_does() -> None:
    """As the user wrote it, llguidance never finishes the first mask."""
    text = lark.to_lark('start: /a+/ "a"')
    program = (
        "from tests.structured.vocabulary import allowed, matcher\n"
        f"print(allowed(matcher({text!r})) == set(b'a'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=15, check=True
    )
    assert done.stdout == "True\n"


@pytest.mark.parametrize("text", ["start: a b", 'start: "a"\nstart: b', "start: (", "start: /(/"])
def test_an_error_of_llguidance_keeps_its_line(text: str) -> None:
    shown = compiled(text).get_error()
    assert shown
    assert compiled(lark.to_lark(text)).get_error().splitlines()[:1] == shown.splitlines()[:1]


@given(st.lists(st.sampled_from(WORDS), max_size=8).map("".join))
def test_what_is_taken_never_names_a_control_token(body: str) -> None:
    """Whatever is put together: it is refused here, or there, or allows text only."""
    text = f'start: "z" {body}\na: "1"\nA: "2"\n'
    try:
        found = compiled(lark.to_lark(text))
    except InvalidArgument:
        return
    if found.is_error():
        return
    for byte in [*b"z1", EOS]:
        assert allowed(found).isdisjoint(CONTROL)
        if not found.try_consume_tokens([byte]):
            break
