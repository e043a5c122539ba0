"""The orchestrator's requests as operators see them: counted, logged, told as events.

`Requests` is the table of those that are not over.  `Watched` stands in front of the engine
that answers them, as a host's `Worker` does in front of its own.  Neither changes anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from ..engine import request_log
from ..engine.base import Engine, Listener, Load, Request, State, Token, Usage
from ..engine.structured.constraint import Constraint
from .events import Events
from .metrics import Answered, Tally

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Live:
    since: float
    first_token: float | None = None
    workers: list[str] = field(default_factory=list)
    """that were asked, one after the other"""
    model: str = ""


class Requests:
    """`clock` gives seconds."""

    def __init__(self, tally: Tally, events: Events, clock: Callable[[], float]) -> None:
        self._tally = tally
        self._events = events
        self._clock = clock
        self._live: dict[Request, _Live] = {}

    def begun(self, request: Request) -> None:
        self._live[request] = _Live(self._clock())

    def rejected(self, request: Request, error: Exception) -> None:
        """It was refused when it was submitted."""
        del self._live[request]
        self._tally.over(Answered("rejected", _operation(request)))
        request_log.over(log, request, error)

    def sent(self, request: Request, worker: str, model: str) -> None:
        """A worker is asked, the first or another."""
        live = self._live[request]
        live.workers.append(worker)
        live.model = model

    def retried(self, request: Request, worker: str, why: Exception) -> None:
        """That worker did not answer (to its end), and another will be asked."""
        kind = "retry" if self._live[request].first_token is None else "failover"
        self._tally.retried(kind)
        self._tell(f"request.{kind}", request, worker=worker, error=str(why))

    def token(self, request: Request) -> None:
        """There is something of the answer."""
        live = self._live[request]
        if live.first_token is None:
            live.first_token = self._clock() - live.since

    def over(self, request: Request, end: Usage | Exception) -> None:
        live = self._live.pop(request)
        seconds = self._clock() - live.since
        answered = Answered(
            "failed",
            _operation(request),
            live.model,
            seconds,
            live.first_token,
        )
        if isinstance(end, Usage):
            answered = replace(answered, outcome=end.finish_reason, usage=end)
            end = replace(end, ttft_ms=(live.first_token or 0.0) * 1000, total_ms=seconds * 1000)
        else:
            answered = replace(answered, error=type(end).__name__)
            self._tell("request.failed", request, error=str(end))
        self._tally.over(answered)
        request_log.over(log, request, end, workers=",".join(live.workers))

    def _tell(self, kind: str, request: Request, **attrs: object) -> None:
        self._events.emit(kind, request_id=request.id, user=request.user, **attrs)


def _operation(request: Request) -> str:
    """OpenTelemetry's name for it."""
    return "text_completion" if isinstance(request.prompt, str) else "chat"


class Watched:
    """An `Engine` that tells `requests` of what another one is asked."""

    def __init__(self, engine: Engine, requests: Requests) -> None:
        self._engine = engine
        self._requests = requests

    def submit(self, request: Request, listener: Listener) -> None:
        self._requests.begun(request)
        try:
            self._engine.submit(request, _Watching(request, listener, self._requests))
        except Exception as e:
            self._requests.rejected(request, e)
            raise

    def cancel(self, request: Request) -> None:
        self._engine.cancel(request)

    def forget(self, conversation: Hashable) -> None:
        self._engine.forget(conversation)

    def check(self, constraint: Constraint, user: str) -> Future[None]:
        return self._engine.check(constraint, user)

    @property
    def load(self) -> Load:
        return self._engine.load


class _Watching:
    """A listener that passes everything on."""

    __slots__ = ("_listener", "_request", "_requests")

    def __init__(self, request: Request, listener: Listener, requests: Requests) -> None:
        self._request = request
        self._listener = listener
        self._requests = requests

    def progress(self, state: State, position: int) -> None:
        self._listener.progress(state, position)

    def tokens(self, text: bytes, tokens: Sequence[Token]) -> None:
        self._requests.token(self._request)
        self._listener.tokens(text, tokens)

    def done(self, usage: Usage) -> None:
        self._requests.over(self._request, usage)
        self._listener.done(usage)

    def failed(self, error: Exception) -> None:
        self._requests.over(self._request, error)
        self._listener.failed(error)
