"""However an answer's bytes are split into tokens, the text is the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.engine.text import Answer


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(i % (len(data) + 1) for i in at)})
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def whole(data: bytes, stop: tuple[str, ...]) -> bytes:
    text = data.decode(errors="replace")
    ends = [text.find(s) for s in stop if s and s in text]
    return text[: min(ends, default=len(text))].encode()


texts = st.text("ab\u00e9\u20ac\U0001f600", max_size=20).map(str.encode)
garbage = st.lists(texts | st.binary(max_size=3), max_size=5).map(b"".join)
stops = st.lists(st.text("ab\u00e9", max_size=4), max_size=3).map(tuple)


@given(garbage, stops, st.lists(st.integers(0, 200)))
def test_any_split_gives_what_the_whole_gives(data, stop, at):
    answer = Answer(stop)
    pieces = [answer.push(piece) for piece in cut(data, at)]
    pieces.append(answer.flush())
    assert b"".join(pieces) == whole(data, stop)
    for piece in pieces:
        piece.decode()


@given(texts, st.lists(st.integers(0, 200)))
def test_without_stop_strings_whole_characters_leave_at_once(data, at):
    answer = Answer()
    fed = b""
    out = b""
    for piece in cut(data, at):
        fed += piece
        out += answer.push(piece)
        assert out == fed.decode(errors="ignore").encode()


def test_only_a_possible_beginning_is_held_back():
    answer = Answer(["\nUser:"])
    assert answer.push(b"one\n") == b"one"
    assert answer.push(b"two") == b"\ntwo"
    assert answer.push(b"\nUse") == b""
    assert not answer.stopped
    assert answer.push(b"r: three") == b""
    assert answer.stopped
    assert answer.push(b"four") == b""
    assert answer.flush() == b""


def test_a_stop_string_that_begins_later_waits_for_one_that_may_begin_earlier():
    answer = Answer(["abcd", "bc"])
    assert answer.push(b"xabc") == b"x"
    assert not answer.stopped
    assert answer.push(b"e") == b"a"
    assert answer.stopped


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80"])
def test_bytes_that_are_no_text_become_replacement_characters(bad):
    answer = Answer()
    text = (answer.push(b"a" + bad) + answer.flush()).decode()
    assert text == "a" + bad.decode(errors="replace")
