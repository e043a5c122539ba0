"""One prompt and its answer, from submit to the end: what `out`, `tokens` and `logprobs` show.

It owns three streams, each with any number of readers, and none of the rules of the
conversation: whoever makes a turn is told when it is over.  Their end of file means that the
answer has a reason of its own to end, or that its user cancelled it (`cut` is None); all else is
an error for whoever reads.  What it holds of its prompt and
of `logprobs` is in the quota of what is kept until it is forgotten, and the rest of what was
asked goes when it is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..engine.base import Engine, Request, State, Token, Usage
from ..errors import Error, NoSpace, WorkerLost, without_frames
from ..fs.stream import Stream
from . import texts
from .limits import Quota


class Turn:
    """An engine `Listener`."""

    __slots__ = (
        "_ended",
        "_kept",
        "_kept_bytes",
        "_progress",
        "_seen",
        "_user",
        "cut",
        "error",
        "given",
        "logprob_lines",
        "moves",
        "position",
        "prompt",
        "request",
        "size",
        "state",
        "stream",
        "token_lines",
        "usage",
    )

    def __init__(self, prompt: str, ended: Callable[[Turn], None], kept: Quota, user: str) -> None:
        """The lines of `logprobs` may be many times the answer."""
        self.prompt = prompt
        self.given: tuple[int, ...] = ()
        """tokens that the answer begins with"""
        self.size = 0
        """bytes of the prompt and of what is given"""
        self.stream = Stream()
        """the answer"""
        self.token_lines = Stream()
        self.logprob_lines = Stream()
        self.state = State.QUEUED
        self.position = 0
        self.moves = 0
        """how often the engine said that the request got further"""
        self.usage: Usage | None = None
        """when it is done"""
        self.request: Request | None = None
        """from when it is given to the engine until it is over"""
        self.error: Exception | None = None
        self.cut: Error | None = WorkerLost(f"{WorkerLost.ename}: it stopped answering")
        """why the answer ends if the engine says that it was cancelled; None: the user did it"""
        self._ended = ended
        self._kept = kept
        self._user = user
        self._kept_bytes = 0
        self._progress = 0
        self._seen = (State.IDLE, 0, 0)
        """state, moves, and what the engine did for others, when `_progress` grew last"""

    @property
    def is_over(self) -> bool:
        return self.usage is not None or self.error is not None

    def progress(self, state: State, position: int) -> None:
        self.state = state
        self.position = position
        self.moves += 1

    def progress_in(self, engine: Engine) -> int:
        """A number that grows with the next call when the request got further.  A request in the
        queue gets further when the engine does any step; one whose prompt is being read does when
        any prompt is read.  The number does not tell how much the engine did for others."""
        others = 0
        if self.state is State.QUEUED:
            others = engine.load.steps
        elif self.state is State.PREFILL:
            others = engine.load.read_tokens
        seen = self.state, self.moves, others
        if seen != self._seen:
            self._seen = seen
            self._progress += 1
        return self._progress

    def tokens(self, text: bytes, tokens: Sequence[Token]) -> None:
        self.state = State.DECODE
        self.moves += 1
        if text:
            self.stream.append(text)
        if tokens:
            self.token_lines.append(texts.show_tokens(tokens).encode())
            if lines := texts.show_logprobs(tokens):
                self._keep(lines.encode())

    def hold(self) -> None:
        """Count what was asked, whether or not there is room."""
        self._kept.add(self.size, self._user)
        self._kept_bytes += self.size

    def _keep(self, lines: bytes) -> None:
        """One more piece of `logprobs`, which ends when there is no room; the answer does not."""
        if self.logprob_lines.finished:
            return
        try:
            self._kept.take(len(lines), self._user)
        except NoSpace as e:
            self.logprob_lines.fail(e)
            return
        self._kept_bytes += len(lines)
        self.logprob_lines.append(lines)

    def forget(self) -> None:
        """Nobody will open its files any more, and no more tokens will come."""
        self._kept.give_back(self._kept_bytes, self._user)
        self._kept_bytes = 0
        self.prompt = ""

    def done(self, usage: Usage) -> None:
        if usage.finish_reason == "cancelled" and self.cut is not None:
            self._end(error=self.cut)
        else:
            self._end(usage=usage)

    def failed(self, error: Exception) -> None:
        self._end(error=error)

    def _end(self, usage: Usage | None = None, error: Exception | None = None) -> None:
        self.state = State.IDLE
        self.usage = usage
        self.error = None if error is None else without_frames(error)
        self._ended(self)
        self.request = None
        self.given = ()
        for stream in (self.stream, self.token_lines, self.logprob_lines):
            if stream.finished:
                continue
            if error is None:
                stream.finish()
            else:
                stream.fail(error)
