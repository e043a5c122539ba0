"""One prompt of `fusion/`: its settings, its voters, where they go and what became of them.

Voters are requests of the cluster's engine; `fusion_engine` asks them and counts the votes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..conversation.settings import MAX_SEED, integer, word
from ..engine.base import (
    Listener,
    Request,
    SamplingParams,
    State,
    Token,
    Usage,
    mean_logprob,
)
from ..errors import without_frames
from ..fs.ctl import quote
from .fusion import STRATEGIES, Vote

MAX_NODES = 64


@dataclass(frozen=True, slots=True)
class FusionSettings:
    """Those of `fusion/ctl` that other conversations do not have."""

    strategy: str = STRATEGIES[0]
    n_nodes: int = 3
    """workers to ask; when there are fewer, some are asked more than once"""
    timeout_ms: int = 30_000
    """from the prompt until who has not answered is left out"""
    min_consensus_nodes: int = 1
    """answers that must be there, and be counted, for there to be a fused one"""


SETTINGS = (
    word("strategy", *STRATEGIES),
    integer("n_nodes", 1, MAX_NODES),
    integer("timeout_ms", 1, 86_400_000),
    integer("min_consensus_nodes", 1, MAX_NODES),
)


class Spread:
    """Where the voters of an election go: to other hosts first, then to other workers of the
    same hosts, then round again."""

    def __init__(self) -> None:
        self.avoided: frozenset[str] = frozenset()
        """workers that have a voter"""

    def placed(self, worker: str) -> None:
        if worker in self.avoided:
            self.avoided = frozenset()
        self.avoided |= {worker}


class Voter:
    """One of the answers: a `Listener` of the request, its `Placing`, and a
    `fusion.Response`."""

    def __init__(
        self, spread: Spread, ended: Callable[[Voter], None], begun: Callable[[], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._spread = spread
        self.worker = "-"
        """which answers, or answered"""
        self.request: Request | None = None
        """until it has ended"""
        self.tokens_seen: list[Token] = []
        self.usage: Usage | None = None
        self.error: Exception | None = None
        self.late = False
        self.vote: Vote | None = None
        """when the votes were counted"""
        self.over: asyncio.Future[None] = loop.create_future()
        self.ms = 0.0
        """that it took"""
        self._data = bytearray()
        self._ended = ended
        self._begun = begun
        self._time = loop.time
        self._asked = loop.time()

    @property
    def avoided(self) -> frozenset[str]:
        return self._spread.avoided

    def placed(self, worker: str) -> None:
        self.worker = worker
        self._spread.placed(worker)

    @property
    def text(self) -> str:
        return self._data.decode()

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def mean_logprob(self) -> float | None:
        return mean_logprob(self.tokens_seen)

    @property
    def state(self) -> str:
        """Its word in `votes`."""
        if self.late:
            return "late"
        if self.error is not None:
            return "failed"
        if self.usage is None:
            return "waiting"
        if self.usage.finish_reason == "cancelled":
            return "cancelled"
        if self.vote is None:
            return "answered"
        return "voted" if self.vote.answer is not None else "abstained"

    def line(self) -> str:
        """worker, weight, milliseconds, state, what it votes for, and what it said or why it
        failed; the words as `ctl` has them."""
        answer, weight = "", 0.0
        if self.vote is not None:
            answer, weight = self.vote.answer or "", self.vote.weight
        said = str(self.error) if self.error is not None and not self.late else self.text
        words = (quote(" ".join(text.split())) for text in (answer, said))
        return f"{self.worker} {weight:.4f} {self.ms:.0f} {self.state} {' '.join(words)}\n"

    def progress(self, state: State, position: int) -> None:
        pass

    def tokens(self, text: bytes, tokens: Sequence[Token]) -> None:
        self._begun()
        self._data += text
        self.tokens_seen += tokens

    def done(self, usage: Usage) -> None:
        self.usage = usage
        self._end()

    def failed(self, error: Exception) -> None:
        self.error = without_frames(error)
        self._end()

    def _end(self) -> None:
        self.ms = (self._time() - self._asked) * 1000
        self.over.set_result(None)
        self._ended(self)


class Election:
    """A request, and what becomes of its voters."""

    def __init__(self, request: Request, settings: FusionSettings, listener: Listener) -> None:
        self.request = request
        self.settings = settings
        self.listener = listener
        self.voters: list[Voter] = []
        self.agreement: float | None = None
        """of the fused answer"""
        self.kept = 0
        """bytes of drafts that its user's quota has"""
        self.over = False
        self._begun = False
        seed = request.params.seed
        self._seed = secrets.randbelow(MAX_SEED + 1) if seed is None else seed

    def params(self, number: int) -> SamplingParams:
        """Those of the voter of that number, or of the aggregator behind the last."""
        seed = (self._seed + number) % (MAX_SEED + 1)
        return replace(self.request.params, seed=seed)

    def begin(self) -> None:
        """A voter has begun to answer."""
        if not self._begun and not self.over:
            self._begun = True
            self.listener.progress(State.DECODE, 0)

    @property
    def answered(self) -> list[Voter]:
        return [voter for voter in self.voters if voter.state == "answered"]

    def count(self, state: str) -> int:
        return sum(voter.state == state for voter in self.voters)

    def votes_text(self) -> str:
        return "".join(voter.line() for voter in self.voters)

    def status_text(self) -> str:
        states = ("waiting", "answered", "voted", "abstained", "late", "failed", "cancelled")
        lines = [f"voters {len(self.voters)}", *(f"{s} {self.count(s)}" for s in states)]
        if self.agreement is not None:
            lines.append(f"agreement {self.agreement:.4f}")
        return "\n".join(lines) + "\n"
