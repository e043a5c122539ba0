"""One answer out of what several workers said of it, one after the other: pure.

Rules it keeps:
- Text is passed on only as far as the tokens that it is made of are known: what was passed on
  is at any moment exactly what the tokens passed on decode to.  So another worker, given
  these tokens, goes on behind the last byte, whatever the sampler draws there: nothing is
  lost, nothing comes twice, and there is no seam of two answers.
- What a worker said beyond that is forgotten with the worker.
- The next worker says the tokens that it was given again, as all workers do; they must be
  the same and end at the same bytes, or it has another model.
- A token is passed on with its logprobs, if there are to be any; one that was given has none.
- Bytes are passed on as whole characters.
- A worker that says more tokens or bytes than the answer can have fails: it might never end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ..conversation import texts
from ..engine.base import Logprobs, Token
from ..errors import Error

_BYTES = 1 << 16
_BYTES_PER_TOKEN = 1 << 10
"""with `_BYTES` the most that an answer has: a token of a vocabulary has some hundreds at most"""
_LINE = 1 << 18
"""bytes of a line; a token's logprobs have some KB"""


class Splice:
    """`given` are the tokens that the request gives its answer to begin with; the answer has at
    most `max_tokens`."""

    def __init__(self, given: Sequence[int], logprobs: bool, max_tokens: int) -> None:
        self.tokens: list[Token] = []
        """passed on, without logprobs"""
        self.text = bytearray()
        """likewise"""
        self._given = tuple(given)
        self._logprobs_wanted = logprobs
        self._most_tokens = len(given) + max_tokens + 1
        self._most_bytes = _BYTES + _BYTES_PER_TOKEN * self._most_tokens
        self.begin()

    @property
    def known(self) -> tuple[int, ...]:
        """The tokens that a worker is to begin with."""
        return (*(token.id for token in self.tokens), *self._given[len(self.tokens) :])

    def begin(self) -> None:
        """A worker is asked, with `known`, and will be read: its text from the first byte that
        was not passed on, its tokens and logprobs from the start."""
        self._ahead = bytearray()
        """of the answer, behind `text`"""
        self._said: deque[Token] = deque()
        """tokens behind `tokens`"""
        self._to_repeat = deque(self.tokens)
        """of `tokens`, those that this worker has not said yet"""
        self._bare = len(self.known)
        """so many first tokens have no logprobs from it"""
        self._logprobs: deque[Logprobs] | None = deque() if self._logprobs_wanted else None
        self._token_lines = _Lines()
        self._logprob_lines = _Lines()

    def add_text(self, data: bytes) -> None:
        """A piece of `out`.  Raises Error when there is more than the answer can have."""
        self._ahead += data
        if len(self.text) + len(self._ahead) > self._most_bytes:
            raise Error(f"the worker says more than {self._most_bytes} bytes")

    def add_tokens(self, data: bytes) -> None:
        """A piece of `tokens`.  Raises Error when it cannot be."""
        for line in self._token_lines.whole(data):
            token = texts.parse_token(line)
            if self._to_repeat:
                if token != self._to_repeat.popleft():
                    raise Error("the worker does not repeat the tokens that it was given")
                continue
            before = self._said[-1].end if self._said else len(self.text)
            if token.end < before:
                raise Error(f"the worker's tokens go back from byte {before} to {token.end}")
            if len(self.tokens) + len(self._said) >= self._most_tokens:
                raise Error(f"the worker says more than the {self._most_tokens} tokens asked for")
            self._said.append(token)

    def add_logprobs(self, data: bytes) -> None:
        """A piece of `logprobs`.  Raises Error when it cannot be."""
        if self._logprobs is not None:
            if len(self._logprobs) > self._most_tokens:
                raise Error("the worker's logprobs are of more tokens than its answer has")
            self._logprobs += map(texts.parse_logprobs, self._logprob_lines.whole(data))

    def end_logprobs(self) -> None:
        """The worker has no room for more."""
        self._logprobs = None

    def take(self) -> tuple[bytes, list[Token]]:
        """What can be passed on, and now is."""
        there = len(self.text) + len(self._ahead)
        taken: list[Token] = []
        for token in self._said:
            if token.end > there:
                break
            if self._logprobs is not None and len(self.tokens) + len(taken) >= self._bare:
                if not self._logprobs:
                    break
                token = _with_logprobs(token, self._logprobs.popleft())
            taken.append(token)
        if not taken:
            return b"", taken
        text = self._taken(taken[-1].end - len(self.text))
        self.tokens += [self._said.popleft() for _ in taken]
        return text, taken

    def rest(self) -> bytes:
        """The text behind the last token, now that the worker has said all.  It is passed on.
        Raises Error when the worker's files do not belong together."""
        if self._said or self._to_repeat:
            raise Error("the worker's answer ends before its tokens")
        return self._taken(len(self._ahead))

    def _taken(self, size: int) -> bytes:
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        try:
            data.decode()
        except UnicodeDecodeError:
            raise Error("the worker's answer ends inside a UTF-8 character") from None
        self.text += data
        return data


class _Lines:
    """Cuts what comes in pieces."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def whole(self, data: bytes) -> list[str]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE:
            raise Error(f"the worker's tokens or logprobs have a line of more than {_LINE} bytes")
        return [line.decode(errors="replace") for line in lines]


def _with_logprobs(token: Token, logprobs: Logprobs) -> Token:
    if logprobs.chosen.id != token.id:
        raise Error(f"the worker's logprobs are of {logprobs.chosen.id}, its token is {token.id}")
    return token._replace(logprobs=logprobs)
