"""Numbers and words from the wire: what is taken, and how much of it is shown."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.p9.words import number, shown, whole_number

ROOT = Path(__file__).parents[2]


@given(st.integers(-(10**20), 10**20), st.integers(-(10**18), 10**18), st.integers(0, 10**18))
def test_a_whole_number_is_read_where_it_is_in_the_range(
    value: int, low: int, size: int
) -> None:
    read = whole_number(str(value), low, low + size)
    assert read == (value if low <= value <= low + size else None)


@given(st.text(max_size=30))
def test_any_word_is_a_number_or_none(word: str) -> None:
    read = whole_number(word, -5)
    assert read is None or (word.strip("-").isdigit() and read >= -5)
    assert number(word, 0, 1) is None or 0 <= float(word) <= 1


@pytest.mark.parametrize("word", ["9" * 60_000, "", "-", "--1", "+1", "1_000", " 1", "٣", "1e3"])
def test_these_are_no_whole_numbers(word: str) -> None:
    assert whole_number(word, -10) is None


@pytest.mark.parametrize("word", ["nan", "inf", "1" * 60_000, "", "one"])
def test_these_are_no_numbers(word: str) -> None:
    assert number(word, -1e9, 1e9) is None


@given(st.text(max_size=500))
def test_what_is_shown_is_one_short_line(text: str) -> None:
    words = shown(text)
    assert words.isprintable() and len(words) < 200
    if len(text) <= 80 and text.isprintable():
        assert words == text


READS_NO_TEXT = {
    "mount/mounting.py": "the kernel's files",
    "p9/text.py": "traces, which no server reads",
    "conversation/worker_names.py": "at most 9 digits",
    "conversation/texts.py": "JSON's numbers",
    "cluster/units.py": "the configuration",
    "cluster/host.py": "its callers check the range",
    "cluster/offer.py": "its callers check the range",
    "cluster/launchers/on_ray/driver.py": "what our own actor says",
}


def test_no_module_that_talks_to_others_makes_numbers_of_text_by_itself() -> None:
    """`int()` of something that is subscripted: mostly a word of somebody.  What grammars and
    models say the engine bounds."""
    found = set()
    for package in ("p9", "net", "fs", "conversation", "cluster", "worker", "mount"):
        for path in (ROOT / "llambo9p" / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id == "int"
                    and node.args
                    and isinstance(node.args[0], ast.Subscript)
                ):
                    found.add(str(path.relative_to(ROOT / "llambo9p")))
    assert found <= READS_NO_TEXT.keys()
