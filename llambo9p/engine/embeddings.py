"""Embeddings beside the decoding: texts that wait for theirs, and the one that is made.

Owns the requests with `embed`.  The decode thread calls `step` between two steps of the
scheduler; what became of the requests is collected as the scheduler's events.

Rules it keeps:
- One text at a time.  Users take turns (see `fair`); a text that was begun is made to its end,
  as half an embedding is worth nothing.
- A step makes one part, of at most `EMBED_CHUNK` tokens: an answer that is being decoded
  waits for that between two of its tokens, however long the text.
- Every request ends with exactly one `Finished` or `Failed`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llambo9p import errors
from llambo9p.engine.base import FinishReason, Request, State, Usage
from llambo9p.engine.fair import FairQueue, whose
from llambo9p.engine.runner import Embedding, Runner
from llambo9p.engine.scheduler import Event, Failed, Finished, Progress, Tokens


@dataclass(slots=True)
class _Waiting:
    request: Request
    since: float
    started: float | None = None
    embedding: Embedding | None = None
    """since then"""
    tokens: int = 0
    """of the text, likewise"""


def line(embedding: NDArray[np.float32]) -> bytes:
    """The numbers, each with the fewest digits that give the same float32."""
    numbers = (np.format_float_positional(x, trim="-") for x in embedding)
    return " ".join(numbers).encode() + b"\n"


class Embeddings:
    """See the module's rules."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._queue: FairQueue[Request] = FairQueue()
        self._waiting: dict[Request, _Waiting] = {}
        """those of the queue, and the one that is made"""
        self._first: _Waiting | None = None
        """the one that is made"""
        self._events: list[Event] = []

    @property
    def idle(self) -> bool:
        return not self._waiting

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def submit(self, request: Request, now: float) -> None:
        self._waiting[request] = _Waiting(request, now)
        self._queue.add(request, whose(request), now, request.priority)

    def cancel(self, request: Request, now: float) -> None:
        """End `request` with finish_reason `cancelled`; nothing if it is over."""
        waiting = self._waiting.get(request)
        if waiting is not None:
            self._finish(waiting, "cancelled", now)

    def step(self, clock: Callable[[], float]) -> None:
        """Make the next part of the text that is made, or of the next one, if there is any."""
        first = self._first
        if first is None:
            request = self._queue.next()
            if request is None:
                return
            self._queue.take(request)
            first = self._first = self._waiting[request]
        try:
            left = self._advance(first, clock())
        except errors.Error as error:
            self._remove(first, clock())
            self._events.append(Failed(first.request, error))
            return
        if left:
            self._events.append(Progress(first.request, State.PREFILL, 0, left))
        else:
            self._finish(first, "stop", clock())

    def _advance(self, first: _Waiting, now: float) -> int:
        """How many tokens are left; 0: the embedding is complete, and told."""
        if first.embedding is None:
            text = first.request.prompt
            assert isinstance(text, str)
            first.embedding = self._runner.embed(text)
            first.started = now
        try:
            left = next(first.embedding)
        except StopIteration as end:
            self._events.append(Tokens(first.request, line(end.value), ()))
            return 0
        first.tokens = first.tokens or left
        return left

    def _finish(self, waiting: _Waiting, reason: FinishReason, now: float) -> None:
        self._remove(waiting, now)
        started = now if waiting.started is None else waiting.started
        usage = Usage(
            prompt_tokens=waiting.tokens,
            queue_ms=(started - waiting.since) * 1000,
            total_ms=(now - waiting.since) * 1000,
            finish_reason=reason,
        )
        self._events.append(Finished(waiting.request, usage))

    def _remove(self, waiting: _Waiting, now: float) -> None:
        self._queue.remove(waiting.request, now)
        del self._waiting[waiting.request]
        if waiting is self._first:
            self._first = None
