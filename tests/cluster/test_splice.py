"""One answer out of what several workers said, as a policy.

The workers of these tests are scripts: tokens with their bytes, of which some are final
only later (half characters, what may begin a stop string), said in any pieces, and lost at
any moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster.splice import Splice
from llambo9p.conversation import texts
from llambo9p.engine.base import Alternative, Logprobs, Token
from llambo9p.errors import Error


@dataclass
class Script:
    """What a worker says of an answer: each token's text, cut where it became final."""

    tokens: list[Token]
    text: bytes

    @classmethod
    def of(cls, pieces: list[tuple[str, bool]], ids: int = 100) -> Script:
        """A token for each piece; its text is final at once, or with the next one."""
        tokens, text, held = [], b"", b""
        for i, (piece, final) in enumerate(pieces):
            held += piece.encode()
            if final:
                text, held = text + held, b""
            tokens.append(Token(ids + i, len(text)))
        return cls(tokens, text + held)

    @property
    def token_lines(self) -> bytes:
        return texts.show_tokens(self.tokens).encode()

    def logprob_lines(self, given: int) -> bytes:
        said = [
            token._replace(logprobs=Logprobs(Alternative(token.id, b"", -1.0), ()))
            for token in self.tokens[given:]
        ]
        return texts.show_logprobs(said).encode()


@dataclass
class Reader:
    """What was passed on."""

    text: bytes = b""
    tokens: list[Token] = field(default_factory=list)

    def take(self, splice: Splice) -> None:
        text, tokens = splice.take()
        self.text += text
        self.tokens += tokens
        if self.tokens:
            assert len(self.text) == self.tokens[-1].end, "text and tokens are of one moment"
        text.decode()


PIECES = st.lists(st.tuples(st.sampled_from(["a", "bc", "€", "", "\n"]), st.booleans()))


@given(PIECES, st.booleans(), st.data())
def test_nothing_is_lost_and_nothing_twice_wherever_workers_are_lost(
    pieces: list[tuple[str, bool]], logprobs: bool, data: st.DataObject
) -> None:
    whole = Script.of(pieces)
    asked = data.draw(st.integers(0, len(whole.tokens)))
    splice = Splice([token.id for token in whole.tokens[:asked]], logprobs, 1000)
    reader = Reader()
    for lives in (*data.draw(st.lists(st.just(False), max_size=3)), True):
        given_tokens = splice.known
        assert list(given_tokens) == [token.id for token in whole.tokens][: len(given_tokens)]
        splice.begin()
        sources = [
            (splice.add_text, whole.text[len(reader.text) :]),
            (splice.add_tokens, whole.token_lines),
        ]
        if logprobs:
            sources.append((splice.add_logprobs, whole.logprob_lines(len(given_tokens))))
        while any(said for _, said in sources):
            if not lives and data.draw(st.integers(0, 9)) == 0:
                break
            i = data.draw(st.integers(0, len(sources) - 1))
            add, said = sources[i]
            size = data.draw(st.integers(0, len(said)))
            add(said[:size])
            sources[i] = add, said[size:]
            reader.take(splice)
    reader.text += splice.rest()
    assert reader.text == whole.text
    assert [token._replace(logprobs=None) for token in reader.tokens] == whole.tokens
    assert [token.logprobs is not None for token in reader.tokens] == [
        logprobs and i >= asked for i in range(len(whole.tokens))
    ]


def test_text_waits_for_its_tokens() -> None:
    splice = Splice((), False, 1000)
    splice.add_text(b"abcd")
    assert splice.take() == (b"", [])
    splice.add_tokens(b"7 2\n8")
    assert splice.take() == (b"ab", [Token(7, 2)])
    assert splice.known == (7,)
    splice.begin()  # "cd" was of no known token, and the next worker may say something else
    splice.add_tokens(b"7 2\n9 3\n")
    splice.add_text(b"x")
    assert splice.take() == (b"x", [Token(9, 3)])
    assert bytes(splice.text) == b"abx"


def test_given_tokens_begin_the_next_answer_too_though_no_text_came() -> None:
    splice = Splice((1, 2, 3), False, 1000)
    splice.add_tokens(b"1 1\n")
    splice.add_text(b"a")
    splice.take()
    assert splice.known == (1, 2, 3)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b"7 2\n5 3\n", "does not repeat"),
        (b"7 3\n", "does not repeat"),
        (b"7 2\n8 3\n9 9\n1 8\n", "go back from byte 9 to 8"),
        (b"7 two\n", "tokens file is not understood: '7 two'"),
    ],
)
def test_a_worker_that_cannot_go_on_is_found_out(lines: bytes, said: str) -> None:
    splice = Splice((), False, 1000)
    splice.add_text(b"abcd")
    splice.add_tokens(b"7 2\n8 3\n")
    assert splice.take() == (b"abc", [Token(7, 2), Token(8, 3)])
    splice.begin()
    with pytest.raises(Error, match=said):
        splice.add_tokens(lines)


def test_an_answer_without_its_tokens_is_none() -> None:
    splice = Splice((), False, 1000)
    splice.add_tokens(b"7 2\n8 4\n")
    splice.add_text(b"ab")
    splice.take()
    with pytest.raises(Error, match="ends before its tokens"):
        splice.rest()
    splice.begin()
    splice.add_text(b"cd")
    with pytest.raises(Error, match="ends before its tokens"):
        splice.rest()


def test_half_characters_and_foreign_logprobs_are_refused() -> None:
    splice = Splice((), True, 1000)
    splice.add_text("€".encode())
    splice.add_tokens(b"7 2\n")
    splice.add_logprobs(Script([Token(8, 1)], b"").logprob_lines(0))
    with pytest.raises(Error, match="logprobs are of 8, its token is 7"):
        splice.take()
    splice.begin()
    splice.end_logprobs()
    splice.add_text("€".encode())
    splice.add_tokens(b"7 2\n")
    with pytest.raises(Error, match="ends inside a UTF-8 character"):
        splice.take()
    assert splice.known == ()
