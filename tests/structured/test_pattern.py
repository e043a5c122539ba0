"""Patterns match what ECMA's dialect and Python's both match, or are refused."""

from __future__ import annotations

import itertools
import json
import random
import re
import warnings

import pytest

from llambo9p.engine.structured.constraint import Constraint
from llambo9p.engine.structured.pattern import DEEPEST, UNWRITABLE, Unkept, translated
from llambo9p.engine.structured.schema import to_llguidance
from llambo9p.errors import InvalidArgument
from tests.structured.harness import accepts

ATOMS = [
    *("a", "b", "1", "-", "é", ".", r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", "[ab]", "[^a]"),
    *(r"[^\d]", r"[^\w-]", r"[\W1]", r"[\s\-]", "[a-c&&b]", "[[a]", r"[^\S]", r"\n", r"\."),
    *(r"\"", r"\\", r"\/", '"', "/", r"\x41", r"\u00e9", r"[\]]", "[-a]", "[a-]", r"[\b]", r"\t"),
    *(r"\^", "]", "}", "{", "#", " ", "~", "[~~a]", "[--a]", r"\-", r"\_", "&", r"\0", r"[\0-a]"),
    *(r"[\x01]", r"[^\x20-\x7e]", r"[\x00-\x1f]", r"\<", "[]a]", r"\cA", r"[\w.-]", r"\$"),
]
QUANTIFIERS = ["*", "+", "?", "{2}", "{1,2}", "{0,}", "*?", "+?", "{,2}", "++", "{2}?"]
LETTERS = [
    *("a", "b", "1", " ", "é", "\n", "-", "]", "\\", '"', "^", "٣", "\u2028", "A", "\x85"),
    *("\ufeff", "&", "/", "{", "²", "_", "<", "$", ".", "😀", "\t"),
]


def random_pattern(rng: random.Random, depth: int = 3) -> str:
    choice = rng.random()
    if depth == 0 or choice < 0.4:
        return rng.choice(ATOMS)
    if choice < 0.7:
        return "".join(random_pattern(rng, depth - 1) for _ in range(rng.randint(1, 3)))
    if choice < 0.8:
        return f"({random_pattern(rng, depth - 1)}|{random_pattern(rng, depth - 1)})"
    if choice < 0.95:
        return rng.choice(ATOMS) + rng.choice(QUANTIFIERS)
    return rng.choice(["(", "(?:", "(?:"]) + random_pattern(rng, depth - 1) + ")"


def python_s(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """As Python reads it; `$` is not before a last newline, in a schema."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return re.compile(re.sub(r"(?<!\\)\$", r"\\Z", pattern), flags)


@pytest.mark.parametrize("seed", range(60))
def test_a_random_pattern_matches_what_python_matches(seed: int) -> None:
    rng = random.Random(seed)
    pattern = rng.choice(["", "^"]) + random_pattern(rng) + rng.choice(["", "$", "|a$"])
    try:
        made = to_llguidance(
            Constraint("schema", json.dumps({"type": "string", "pattern": pattern}))
        )
        readings = [python_s(pattern), python_s(pattern, re.ASCII)]
    except (InvalidArgument, re.error):
        return
    some = rng.sample(LETTERS, 6)
    texts = ["".join(t) for n in range(4) for t in itertools.product(some, repeat=n)]
    for text in rng.sample(texts, 80):
        wanted = all(reading.search(text) for reading in readings)
        got = accepts(made, json.dumps(text, ensure_ascii=False))
        assert wanted or not got, (pattern, text)
        if text.isascii() and "\n" not in text:
            assert got or not wanted, (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(?=a)", "look-ahead"),
        ("(?!a)", "look-ahead"),
        ("(?<=a)", "look-behind"),
        ("(?<!a)", "look-behind"),
        ("(?i)a", "no meaning"),
        ("(?#a)", "no meaning"),
        ("(?P=a)", "no meaning"),
        (r"\ba", "word boundary"),
        (r"\B", "word boundary"),
        (r"(a)\1", "reference"),
        (r"\k<a>", "reference"),
        (r"\A", "no meaning"),
        (r"\Z", "no meaning"),
        (r"\a", "no meaning"),
        ("a{,2}", "two ways"),
        ("a++", "two ways"),
        ("[]a]", "two ways"),
        ("[^]", "two ways"),
        ("*a", "repeats nothing"),
        ("a**", "repeats nothing"),
        ("(*a)", "repeats nothing"),
        ("^*", "repeats nothing"),
        ("a{3,2}", "the wrong way round"),
        ("[b-a]", "the wrong way round"),
        (r"[\d-z]", "from one character to another"),
        ("(a", "without its `)`"),
        ("a)", "without its `(`"),
        ("[a", "without its `]`"),
        ("a\\", "ends in a backslash"),
        (r"\x4", "hexadecimal"),
        (r"\ud800", "no character"),
        (r"\u{110000}", "no character"),
        ("a\u0001", "control character U+0001"),
        (r"\0", "control character U+0000"),
        (r"\x7f", "control character U+007F"),
        ("(" * (DEEPEST + 1), "nested deeper"),
    ],
)
def test_what_no_pattern_of_ours_says(pattern: str, why: str) -> None:
    with pytest.raises(Unkept, match=re.escape(why)):
        translated(pattern)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^[\w.+-]+@[\w-]+\.[\w.-]+$", ["a.b+c@x-y.org"], ["a@b", "é@b.c"]),
        (r"^(?<year>\d{4})-(?P<month>\d\d)$", ["2024-05"], ["24-05"]),
        (r"^\ud83d\ude00$", ["😀"], ["x"]),
        (r"^\u{1F600}+$", ["😀😀"], ["x"]),
        (r"^[\u4e00-\u9fff]{2}$", ["中文"], ["ab"]),
        (r"^\p{L}+$", ["aé中"], ["1"]),
        (r"^\/a\/$", ["/a/"], ["\\/a/"]),
        (r"^[a-z]{2}(?:-[A-Z]{2})?$", ["de", "de-CH"], ["de-"]),
        (r"^#[0-9a-fA-F]{6}$", ["#00ffAA"], ["#0"]),
        (r"^$|^a", ["", "ab"], ["b"]),
        (r"^{a}$", ["{a}"], ["a"]),
        (r"^a{$", ["a{"], ["a"]),
        (r"^[^\n]*$", ["", "ab"], ["a\nb"]),
        (r"^\t?[\n\r]$", ["\t\n", "\r"], ["\t"]),
    ],
)
def test_patterns_as_people_write_them(pattern: str, good: list[str], bad: list[str]) -> None:
    made = to_llguidance(Constraint("schema", json.dumps({"type": "string", "pattern": pattern})))
    for text in good:
        assert accepts(made, json.dumps(text, ensure_ascii=False)), text
    for text in bad:
        assert not accepts(made, json.dumps(text, ensure_ascii=False)), text


def test_no_unwritable_character_is_left_out_in_silence() -> None:
    """llguidance takes a literal one for nothing: `^\\x01a$` would let `a` through."""
    for character in UNWRITABLE:
        code = f"\\x{ord(character):02x}"
        for pattern in (f"^[{code}]a$", f"^[{code}b]a$", f"^[^ -{chr(0x10FFFF)}]a$"):
            try:
                made = to_llguidance(
                    Constraint("schema", json.dumps({"type": "string", "pattern": pattern}))
                )
            except InvalidArgument:
                continue
            assert not accepts(made, '"a"'), pattern


def test_the_work_is_linear() -> None:
    assert len(translated("[^\\W]" * 10_000)) < 100 * 60_000
