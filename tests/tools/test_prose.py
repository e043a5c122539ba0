"""What a terminal shows of an answer: the same words, whole ones, as they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llambo9p_tools.prose import Prose


def shown(*pieces: str | bytes, width: int = 20) -> str:
    prose = Prose(lambda: width)
    parts = [prose.add(p if isinstance(p, bytes) else p.encode()) for p in pieces]
    return b"".join([*parts, prose.rest()]).decode()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a line of words that are whole", ["a line of words that", "are whole"]),
        ("so many " * 3, ["so many so many so", "many "]),
        ("one\n\n    two\n", ["one", "", "    two", ""]),
        ("see http://a.very.long/address now", ["see", "http://a.very.long/a", "ddress now"]),
        ("天地玄黃宇宙洪荒日月盈昃", ["天地玄黃宇宙洪荒日月", "盈昃"]),
        ("cafe\u0301 cafe\u0301 cafe\u0301 abcde", ["cafe\u0301 cafe\u0301 cafe\u0301 abcde"]),
        ("a\tb", ["a       b"]),
        ("\x1b[31mred\x07", ["^[[31mred^G"]),
    ],
)
def test_words_are_whole(text: str, lines: list[str]) -> None:
    assert shown(text) == "\n".join(lines)


def test_only_the_word_that_is_being_said_is_held_back() -> None:
    prose = Prose(lambda: 20)
    assert [prose.add(p) for p in (b"one", b" t", b"wo", b"\n")] == [b"", b"one", b"", b" two\n"]
    assert prose.add(b"caf\xc3") == b""
    assert prose.add(b"\xa9 ") == "café".encode()
    assert prose.rest() == b" "


@given(st.text(), st.integers(1, 30), st.data())
def test_however_it_comes_nothing_is_lost(text: str, width: int, data: st.DataObject) -> None:
    encoded = text.encode()
    at = data.draw(st.integers(0, len(encoded)))
    whole = shown(encoded, width=width)
    assert shown(encoded[:at], encoded[at:], width=width) == whole
    visible = text.replace("\n", " ").split()
    if text.isprintable():
        assert "".join(whole.split()) == "".join(visible)
