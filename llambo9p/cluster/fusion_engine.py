"""The engine behind `fusion/`: a request is asked of several workers, and their answers are
made one.

Each request is an `Election`.  Its voters are requests of the cluster's engine with seeds
that follow each other, and go to workers apart from each other.  When all have ended, or
`timeout_ms` after they were asked, the answers that are there are fused; who is late is
cancelled and left out, and who failed is only listed.  What strategies do is `fusion`'s.  None
ends early, not even a majority that cannot be overtaken: `agreement` is the share of all that
were asked, and which of the winners' texts is shown must not depend on who was fast.

An engine belongs to one conversation, whose settings and newest election it holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence, Set
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from ..conversation.limits import Limits
from ..engine.base import Engine, Exact, Listener, Load, Message, Request, State, Token, Usage
from ..engine.structured.constraint import Constraint
from ..errors import Error, InvalidArgument, NoConsensus
from .election import SETTINGS, Election, FusionSettings, Spread, Voter
from .fusion import aggregation_prompt, fuse, poll, require

AGGREGATE = "aggregate"


class _Aggregator:
    """Passes on the answer of the worker that makes one of the drafts, until `over` is
    done or cancelled."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.over: asyncio.Future[Usage] = asyncio.get_running_loop().create_future()

    def progress(self, state: State, position: int) -> None:
        if not self.over.done():
            self._listener.progress(state, position)

    def tokens(self, text: bytes, tokens: Sequence[Token]) -> None:
        if not self.over.done():
            self._listener.tokens(text, tokens)

    def done(self, usage: Usage) -> None:
        if not self.over.done():
            self.over.set_result(usage)

    def failed(self, error: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(error)


class FusionEngine:
    """An `Engine` over another one, which is the cluster's."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        """A voter counts among its user's requests in `limits`."""
        self.settings = FusionSettings()
        self.election: Election | None = None
        """the newest"""
        self._engine = engine
        self._limits = limits
        self._tasks: dict[Request, asyncio.Task[Usage]] = {}

    def change(self, name: str, value: Any) -> None:
        self.settings = replace(self.settings, **{name: value})

    def settings_text(self) -> str:
        return "".join(
            f"{spec.name} {spec.show(getattr(self.settings, spec.name))}\n" for spec in SETTINGS
        )

    # -- Engine -------------------------------------------------------------------

    def submit(self, request: Request, listener: Listener) -> None:
        settings = self.settings
        if settings.min_consensus_nodes > settings.n_nodes:
            raise InvalidArgument(
                f"min_consensus_nodes {settings.min_consensus_nodes} is more than n_nodes "
                f"{settings.n_nodes}"
            )
        if settings.strategy == AGGREGATE and isinstance(request.prompt, str):
            raise InvalidArgument("strategy aggregate needs mode chat")
        loop = asyncio.get_running_loop()
        started = loop.time()
        election = Election(request, settings, listener)
        self._ask(election)
        self.forget(request.conversation)
        self.election = election
        task = self._tasks[request] = loop.create_task(self._decide(election))

        def over(task: asyncio.Task[Usage]) -> None:
            del self._tasks[request]
            election.over = True
            self._stop(election)
            self._keep(election)
            total = (loop.time() - started) * 1000
            if task.cancelled():
                listener.done(Usage(total_ms=total, finish_reason="cancelled"))
            elif (error := task.exception()) is not None:
                listener.failed(error if isinstance(error, Exception) else Error(repr(error)))
            else:
                listener.done(replace(task.result(), total_ms=total))

        task.add_done_callback(over)

    def cancel(self, request: Request) -> None:
        task = self._tasks.get(request)
        if task is not None:
            task.cancel()

    def forget(self, conversation: Hashable) -> None:
        """Forget the newest election, whoever's it is: all are of one conversation."""
        election, self.election = self.election, None
        if election is not None:
            self._limits.kept.give_back(election.kept, election.request.user)

    def check(self, constraint: Constraint, user: str) -> Future[None]:
        return self._engine.check(constraint, user)

    @property
    def load(self) -> Load:
        return self._engine.load

    # -- an election --------------------------------------------------------------

    def _ask(self, election: Election) -> None:
        """Ask all voters.  Raises the first one's error when none could be asked."""
        request = election.request
        spread = Spread()
        for number in range(election.settings.n_nodes):
            params = election.params(number)
            self._ask_one(
                election,
                replace(request, params=replace(params, logprobs=max(params.logprobs, 1))),
                spread,
            )
        errors = [voter.error for voter in election.voters if voter.error is not None]
        if len(errors) == len(election.voters):
            raise errors[0]

    def _ask_one(self, election: Election, request: Request, spread: Spread) -> None:
        voter = Voter(spread, self._voter_ended, election.begin)
        election.voters.append(voter)
        # a conversation of its own: that of a one-shot has no logprobs
        own = replace(request, conversation=voter, placing=voter)
        try:
            self._limits.requests.take(1, request.user)
            voter.request = own
            self._engine.submit(own, voter)
        except Error as e:
            voter.failed(e)

    def _voter_ended(self, voter: Voter) -> None:
        if voter.request is not None:
            self._limits.requests.give_back(1, voter.request.user)
            voter.request = None
        self._engine.forget(voter)

    async def _decide(self, election: Election) -> Usage:
        settings = election.settings
        ends = [voter.over for voter in election.voters]
        await asyncio.wait(ends, timeout=settings.timeout_ms / 1000)
        for voter in election.voters:
            voter.late = not voter.over.done()
        self._stop(election)
        answered = election.answered
        usages = [voter.usage for voter in answered if voter.usage is not None]
        votes = poll(answered, settings.strategy)
        for voter, vote in zip(answered, votes, strict=True):
            voter.vote = vote
        try:
            require(votes, settings.strategy, settings.min_consensus_nodes)
        except NoConsensus as e:
            raise NoConsensus(f"{e}; {_missing(election)}") from None
        if settings.strategy == AGGREGATE:
            drafts = [voter.text for voter in answered if voter.state == "voted"]
            last = await self._aggregate(election, drafts)
            return _sum([*usages, last], last)
        fused = fuse(answered, settings.strategy)
        election.agreement = fused.agreement
        if fused.index is None:
            election.listener.tokens(fused.text.encode(), [])
            return _sum(usages, Usage())
        chosen = answered[fused.index]
        election.listener.tokens(fused.text.encode(), self._shown(election, chosen))
        return _sum(usages, usages[fused.index])

    def _stop(self, election: Election) -> None:
        """Cancel the voters that have not ended."""
        for voter in election.voters:
            if not voter.over.done() and voter.request is not None:
                self._engine.cancel(voter.request)

    def _shown(self, election: Election, voter: Voter) -> list[Token]:
        """Its tokens, with logprobs if they were asked for."""
        if election.request.params.logprobs:
            return voter.tokens_seen
        return [token._replace(logprobs=None) for token in voter.tokens_seen]

    async def _aggregate(self, election: Election, drafts: Sequence[str]) -> Usage:
        request = election.request
        assert not isinstance(request.prompt, str)
        *before, last = request.prompt
        question = Message(last.role, aggregation_prompt(last.content, drafts))
        asked = replace(
            request,
            prompt=(*before, question),
            params=election.params(election.settings.n_nodes),
            answer=(),
            conversation=election,
        )
        aggregator = _Aggregator(election.listener)
        self._engine.submit(asked, aggregator)
        try:
            return await aggregator.over
        finally:
            self._engine.cancel(asked)
            self._engine.forget(election)

    def _keep(self, election: Election) -> None:
        """Count what the drafts take, as long as somebody can read them; what was asked is
        its turn's to keep."""
        election.request = replace(election.request, prompt="", answer=())
        for voter in election.voters:
            voter.tokens_seen.clear()
        if election is self.election:
            election.kept = sum(voter.size for voter in election.voters)
            self._limits.kept.add(election.kept, election.request.user)


def _missing(election: Election) -> str:
    """Why there are no more answers."""
    said = f"{len(election.voters)} asked, {election.count('late')} late"
    failed = [voter for voter in election.voters if voter.state == "failed"]
    if failed:
        said += f", {len(failed)} failed: {failed[0].worker}: {failed[0].error}"
    return said


def _least(exact: Set[Exact]) -> Exact:
    """What holds for all of them."""
    return "no" if "no" in exact else "yes" if exact == {"yes"} else "unknown"


def _sum(usages: Sequence[Usage], answer: Usage) -> Usage:
    """What all of them took, from the first token of any; it ended as `answer` did."""
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        given_tokens=sum(usage.given_tokens for usage in usages),
        queue_ms=min(usage.queue_ms for usage in usages),
        ttft_ms=min(usage.ttft_ms for usage in usages),
        trimmed_turns=max(usage.trimmed_turns for usage in usages),
        exact=_least({usage.exact for usage in usages}),
        finish_reason=answer.finish_reason,
    )
