"""What is shown of an answer that comes over several connections: all of it, once."""

from __future__ import annotations

from llambo9p_tools.limbot.answer import Answer


class Shown:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.answer = Answer(self.pieces.append, lambda: self.pieces.append(b"|"))
        self.answer.begin()

    def read(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.answer.add(piece)

    @property
    def text(self) -> bytes:
        return b"".join(self.pieces)


def test_a_piece_is_shown_when_it_comes():
    shown = Shown()
    shown.read(b"one", b" two")
    assert shown.pieces == [b"one", b" two"]
    assert shown.answer.stopped
    shown.answer.end()
    assert not shown.answer.stopped and shown.answer.text == "one two"


def test_on_the_next_connection_only_what_is_new_is_shown():
    for pieces in ([b"one two", b" three"], [b"o", b"ne two t", b"hree"], [b"one two three"]):
        shown = Shown()
        shown.read(b"one", b" two")
        shown.answer.begin()
        shown.read(*pieces)
        shown.answer.end()
        assert shown.text == b"one two three"
        assert shown.answer.text == "one two three"


def test_it_may_be_lost_again_before_anything_is_new():
    shown = Shown()
    shown.read(b"one two")
    shown.answer.begin()
    shown.read(b"one")
    assert shown.answer.text == "one two", "which is what remains when it is stopped now"
    shown.answer.begin()
    shown.read(b"one two three")
    assert shown.text == b"one two three"


def test_another_answer_is_shown_from_its_start_and_said_to_be_one():
    shown = Shown()
    shown.read(b"one two")
    shown.answer.begin()
    shown.read(b"one", b" too many")
    shown.answer.end()
    assert shown.text == b"one two|one too many"
    assert shown.answer.text == "one too many"


def test_so_is_one_that_ends_sooner():
    shown = Shown()
    shown.read(b"one two")
    shown.answer.begin()
    shown.read(b"one")
    shown.answer.end()
    assert shown.text == b"one two|one"


def test_it_goes_on_from_the_tokens_of_whole_lines_and_never_from_fewer():
    shown = Shown()
    shown.answer.follow([b"11 3\n12", b" 7\n13 1"])
    assert shown.answer.given == b""
    shown.answer.begin()
    assert shown.answer.given == b"11 3\n12 7\n"
    shown.answer.follow([b"11 3\n"])
    shown.answer.begin()
    assert shown.answer.given == b"11 3\n12 7\n"
