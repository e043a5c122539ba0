"""The orchestrator's engine: a request is answered by writing a worker's files.

For each conversation of the orchestrator that keeps history there is one
conversation on a worker, made by opening that worker's `clone`: the next turn goes
to the worker that holds its KV cache.  A one-shot gets a conversation of its own,
which ends with it.

Rules it keeps:
- A host has at most as many of our requests as the balancer allows; the others wait here, tied
  to no worker unless their conversation is, and `queue` of them at most.  Users take turns for
  the hosts' room (see `engine.fair`), and a user of whom no host has a request need not wait for
  room: one request of his is sent beyond it, and the host sees to it that it gets a slot.
- A request whose worker fails goes on elsewhere (`failures` says when), with the tokens that
  were passed on (`splice` says why these).  For that `tokens` is read of every answer, as often
  as `out`: with 16 answers at once that took the orchestrator 63 us a token instead of 59, and
  78 instead of 68 when the machine was busier.
- `timeout` is the longest time without progress, never a limit on an answer.  New text or
  tokens are progress.  Being queued or prefilled is progress while the queue or the prefill
  moves, by what the worker's `status` says (`progress`).  While
  there are only workers that are lost or draining, requests wait as long for one to come back,
  and while one is started for them as long as that takes.
- Requests that a host had begun with when it died are tried again as `suspects` says, and one on
  which hosts die fails.
- A user's cancel, and an error that is the request's own fault, end it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from ..engine.base import Listener, Load, Message, Request, State, Usage
from ..engine.fair import FairQueue, whose
from ..engine.sandbox.compiler import Compiler
from ..engine.structured.constraint import Constraint
from ..errors import Busy, Error, InvalidArgument, NotSupported, TimedOut, WorkerLost
from ..net.client import ignore
from .balancer import Balancer
from .candidates import Work
from .failures import Failures, is_hosts
from .following import Following
from .health import Health
from .host import Worker
from .labels import Labels
from .members import Members
from .quarantine import Quarantine
from .remote_conversation import RemoteConversation, Told
from .requests import Requests
from .splice import Splice

log = logging.getLogger(__name__)

_LOOK_S = 0.1
"""between looks for workers that came back, while requests wait"""
_FIRST_LOOK_S = 1.0
"""until a worker that has said nothing is asked about a request"""


@dataclass(slots=True, eq=False)
class _Asked:
    """A request that is not over."""

    request: Request
    listener: Listener
    since: float
    splice: Splice
    failures: Failures
    hope: float
    """when there was last a healthy worker for it"""
    placed: asyncio.Event
    """set when it has a worker, or a"""
    refusal: Error | None = None
    """why it gets none"""
    worker: Worker | None = None
    """that it was sent to"""
    work: Work | None = None
    """the balancer's record of that"""
    model: str = ""
    """whose tokens it has"""
    sent: float = 0.0
    """to the worker that said the first token, or else to the last one"""
    first_token: float | None = None
    got: Callable[[int], None] | None = None
    """of a suspect: is told of the answer's tokens"""

    def pass_on(self) -> None:
        """What the splice has got."""
        text, tokens = self.splice.take()
        if tokens:
            self._note_first()
            if self.work is not None:
                self.work.decoded(len(tokens))
            self.listener.tokens(text, tokens)
            if self.got is not None:
                self.got(len(self.splice.tokens))

    def pass_on_rest(self) -> None:
        if text := self.splice.rest():
            self._note_first()
            self.listener.tokens(text, ())

    def _note_first(self) -> None:
        if self.first_token is None:
            self.first_token = asyncio.get_running_loop().time()
            assert self.worker is not None
            self.model = self.worker.host.model
            self.listener.progress(State.DECODE, 0)


class ClusterEngine:
    """An `Engine` over the healthy workers of `members`.  Times are in seconds.

    `want` is told of a node type that a request waits for while it has no healthy worker.  It
    says whether one is started, and raises Error when that was tried and failed."""

    def __init__(
        self,
        members: Members,
        balancer: Balancer,
        requests: Requests,
        *,
        max_retries: int,
        timeout: float,
        queue: int,
        want: Callable[[str], bool],
    ) -> None:
        self._want = want
        self._labels = Labels()
        self._members = members
        self._balancer = balancer
        self._requests = requests
        self._max_retries = max_retries
        self._timeout = timeout
        self._most_waiting = queue
        self._waiting: FairQueue[_Asked] = FairQueue()
        """of requests that wait for a worker, and of those that have one"""
        self._tasks: dict[Request, tuple[_Asked, asyncio.Task[Usage]]] = {}
        self._remotes: dict[Hashable, RemoteConversation] = {}
        self._looking: asyncio.TimerHandle | None = None
        self._compiler = Compiler()
        self._quarantine = Quarantine(balancer, self._tokens_of)
        self._moves = 0
        """signs of progress so far, but for the tokens of requests that are not over"""

    # -- Engine -------------------------------------------------------------------

    def submit(self, request: Request, listener: Listener) -> None:
        if request.embed:
            raise NotSupported("a cluster cannot embed: workers do, whose models differ")
        if not self._may_come(request) and not self._want(request.node_type):
            self._balancer.check(request)
        if request.answer and len(self._balancer.models(request)) > 1:
            raise InvalidArgument(
                "tokens are one model's, and there are several: ask for a type that has one, or "
                "a worker"
            )
        if len(self._waiting) >= self._most_waiting:
            raise Busy(f"{Busy.ename}: {self._most_waiting} requests wait for a worker")
        loop = asyncio.get_running_loop()
        now = loop.time()
        asked = _Asked(
            request,
            listener,
            since=now,
            splice=Splice(
                request.answer, request.params.logprobs > 0, request.params.max_tokens
            ),
            failures=Failures(self._max_retries),
            hope=now,
            placed=asyncio.Event(),
        )
        self._wait(asked)
        task = loop.create_task(self._answer(asked))
        self._tasks[request] = asked, task
        task.add_done_callback(lambda task: self._over(asked, task))

    def check(self, constraint: Constraint, user: str) -> Future[None]:
        """By itself: the workers' models have vocabularies of their own, and a host checks for
        its own what it is sent."""
        return self._compiler.check(constraint, user)

    async def close(self) -> None:
        """End the processes that check."""
        await asyncio.to_thread(self._compiler.close)

    def cancel(self, request: Request) -> None:
        if request in self._tasks:
            asked, task = self._tasks[request]
            if asked in self._waiting:
                self._waiting.remove(asked, task.get_loop().time())
            task.cancel()

    def forget(self, conversation: Hashable) -> None:
        remote = self._remotes.pop(conversation, None)
        if remote is not None:
            remote.close()

    @property
    def load(self) -> Load:
        workers = self._members.workers.values()
        return Load(
            slots=sum(w.capacity for w in workers),
            active=len(self._tasks) - len(self._waiting),
            queued=len(self._waiting),
            pending_prefill=sum(round(host.prefill) for host in self._balancer.hosts),
            pending_decode=sum(round(host.decode) for host in self._balancer.hosts),
            steps=self._moves + sum(len(a.splice.tokens) for a, _ in self._tasks.values()),
        )

    @property
    def waiting(self) -> Counter[str]:
        """Requests without a worker, by the node type that they ask for."""
        return Counter(asked.request.node_type for asked in self._waiting.in_turn())

    def _over(self, asked: _Asked, task: asyncio.Task[Usage]) -> None:
        del self._tasks[asked.request]
        self._moves += 1 + len(asked.splice.tokens)
        if asked.worker is not None:
            self._ended(asked)
        self._waiting.remove(asked, task.get_loop().time())
        self._quarantine.over(asked.request)
        listener = asked.listener
        if task.cancelled():
            self.forget(asked.request.conversation)
            total = (task.get_loop().time() - asked.since) * 1000
            listener.done(Usage(total_ms=total, finish_reason="cancelled"))
        elif (error := task.exception()) is not None:
            self.forget(asked.request.conversation)
            listener.failed(error if isinstance(error, Exception) else Error(repr(error)))
        else:
            listener.done(task.result())

    # -- places -------------------------------------------------------------------

    def _wait(self, asked: _Asked) -> None:
        """Wait for a worker, which may be there at once."""
        loop = asyncio.get_running_loop()
        asked.hope = loop.time()
        asked.placed.clear()
        self._waiting.add(asked, whose(asked.request), asked.since, asked.request.priority)
        self._dispatch()
        if self._waiting and self._looking is None:
            self._looking = loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        """Workers come back, and drain, without a word."""
        loop = asyncio.get_running_loop()
        self._dispatch()
        self._give_up(loop.time())
        for asked, position in self._waiting.moved():
            asked.listener.progress(State.QUEUED, position)
        self._looking = loop.call_later(_LOOK_S, self._look) if self._waiting else None

    def _give_up(self, now: float) -> None:
        """Fail those for whom there has been no healthy worker for too long, or is none at all
        that could become one."""
        for asked in self._waiting.in_turn():
            models = self._balancer.models(asked.request)
            possible = asked.model in models if asked.splice.tokens else len(models) > 0
            if possible or self._is_wanted(asked):
                asked.hope = now
            elif not self._may_come(asked.request) or now - asked.hope >= self._timeout:
                self._refuse(asked, asked.failures.last or self._reason(asked.request))

    def _is_wanted(self, asked: _Asked) -> bool:
        """Whether a worker is started for it; why that failed is what it fails with."""
        try:
            return self._want(asked.request.node_type)
        except Error as error:
            asked.failures.last = error
            return False

    def _may_come(self, request: Request) -> bool:
        """Whether a worker for it is there, though perhaps lost or draining."""
        return any(
            host.has_type(request.node_type)
            and any(worker.answers for worker in host.workers.values())
            for host in self._members.hosts
        )

    def _reason(self, request: Request) -> Error:
        """Why there is no worker for it."""
        if not len(self._balancer) and self._may_come(request):
            return WorkerLost(
                "no healthy worker: all are lost or drained; `llamboctl nodes list` shows them"
            )
        try:
            self._balancer.check(request)
        except Error as error:
            return error
        return WorkerLost("no healthy worker has the model that the answer was begun with")

    def _refuse(self, asked: _Asked, error: Error) -> None:
        self._waiting.remove(asked, asyncio.get_running_loop().time())
        asked.refusal = error
        asked.placed.set()

    def _dispatch(self) -> None:
        for asked in self._waiting.in_turn():
            if not self._balancer.has_room:
                if not self._quarantine:
                    break
                if not self._quarantine.has(asked.request):
                    continue  # a suspect may have a host that is kept for it
            self._place(asked)
        if len(self._balancer):
            for asked in self._waiting.newcomers():
                self._place(asked, beyond=True)

    def _place(self, asked: _Asked, beyond: bool = False) -> None:
        """Send it to a worker if there is one with room, or `beyond` the room that there is."""
        try:
            work = self._work_for(asked, beyond)
        except WorkerLost:
            return  # it waits for one to come back
        except Error as error:
            self._refuse(asked, error)
            return
        if work is not None:
            self._waiting.take(asked)
            worker = asked.worker = self._members.workers[work.name]
            self._members.sent(worker)
            asked.work = work
            self._requests.sent(asked.request, worker.name, worker.host.model)
            if asked.request.placing is not None:
                asked.request.placing.placed(worker.name)
            asked.placed.set()

    def _work_for(self, asked: _Asked, beyond: bool) -> Work | None:
        """At the conversation's own worker if it is healthy, else at one that the balancer
        chooses; None if there is none with room, or `beyond` it.  Raises Error as
        `Balancer.choose` does."""
        request = asked.request
        model = asked.model if asked.splice.tokens else ""
        if self._quarantine.has(request):
            asked.got = lambda tokens: self._got(asked, tokens)
            return self._quarantine.work_for(request, asked.failures.avoided, model)
        remote = self._remotes.get(request.conversation)
        if remote is not None:
            worker = remote.worker
            mounted = self._members.workers.get(worker.name) is worker
            connected = not remote.mount.client.lost.done()
            suits = worker.host.has_type(request.node_type)
            if mounted and connected and suits and _may_go_on(worker):
                if not self._balancer.takes(worker.name, beyond):
                    return None
                return self._balancer.started(worker.name, request)
            self.forget(request.conversation)
        apart = frozenset[str]() if request.placing is None else request.placing.avoided
        return self._balancer.choose(request, asked.failures.avoided, model, apart, beyond)

    def _ended(self, asked: _Asked, with_host: bool = False) -> None:
        """What the worker does for it is over, well or badly, or as everything `with_host`."""
        assert asked.work is not None and asked.worker is not None
        self._balancer.finished(asked.work)
        turns = asked.worker.host.turns
        if with_host:
            turns.failed(asked.request)
        else:
            turns.ended(asked.request, asked.worker.capacity)
        self._members.sent(asked.worker, -1)
        asked.worker = asked.work = None
        asked.got = None
        self._quarantine.left(asked.request)
        self._waiting.remove(asked, asyncio.get_running_loop().time())
        self._dispatch()

    def _tokens_of(self, request: Request) -> int | None:
        """Of the answer so far; None of a request that is over."""
        return len(self._tasks[request][0].splice.tokens) if request in self._tasks else None

    def _got(self, asked: _Asked, tokens: int) -> None:
        """A suspect's answer has so many tokens.  Others may have waited for that."""
        if self._quarantine.got(asked.request, tokens):
            asked.got = None
            self._dispatch()

    # -- a request ----------------------------------------------------------------

    async def _answer(self, asked: _Asked) -> Usage:
        while True:
            await asked.placed.wait()
            if asked.refusal is not None:
                raise asked.refusal
            worker = asked.worker
            assert worker is not None
            asked.listener.progress(State.QUEUED, 0)  # no longer here; there, it says later
            try:
                usage = await self._ask(asked, worker)
            except Error as error:
                self.forget(asked.request.conversation)
                self._members.failed(worker, error)  # before another is sent to it
                host, turns = worker.host, worker.host.turns
                assert asked.work is not None
                dying = self._quarantine.death_of(host, asked.work.host.strangers > 0)
                lost = host.lost or host.client.lost.done()
                silent = isinstance(error, TimedOut)
                in_line = turns.is_in_line(asked.request)
                # that a host lives and takes nothing new counts, or it would be tried for ever
                counts = turns.can_have_begun(asked.request) if lost else not (silent and in_line)
                self._ended(asked, with_host=lost or silent)
                fate = host.workers.values() if lost or is_hosts(error) else [worker]
                avoid = [each.name for each in fate]
                if dying is not None and (death := await asyncio.shield(dying)) is not None:
                    self._quarantine.check(asked.request, worker, death)
                tokens = len(asked.splice.tokens)
                asked.failures.add(error, worker.name, avoid, tokens, counts)
                self._requests.retried(asked.request, worker.name, error)
                self._wait(asked)
            else:
                self._members.succeeded(worker)
                return usage

    async def _ask(self, asked: _Asked, worker: Worker) -> Usage:
        request = asked.request
        loop = asyncio.get_running_loop()
        sent = loop.time()
        if asked.first_token is None:
            asked.sent = sent
        remote = self._remotes.get(request.conversation)
        try:
            async with self._in_time(worker):
                if remote is None:
                    remote = await RemoteConversation.make(
                        worker, request.user, self._labels
                    )
                    if request.conversation is not None:
                        self._remotes[request.conversation] = remote
                turns = worker.host.turns
                user, priority = whose(request), request.priority
                turns.told(request, user, loop.time(), priority, worker.capacity)
                await remote.ask(request, asked.splice.known)
                asked.splice.begin()
                files = await remote.open_answer(request.params.logprobs > 0)
            following = Following(asked.splice, asked.pass_on, *files)
            try:
                await self._watch(asked, worker, remote, following)
            finally:
                following.stop()
            async with self._in_time(worker):
                usage = await remote.usage()
            if usage.finish_reason == "cancelled":  # not by us: this task would have ended
                raise WorkerLost(f"{WorkerLost.ename}: {worker.name} stopped answering")
            asked.pass_on_rest()
            if asked.work is not None:
                self._balancer.finished(asked.work, usage)
            answer = asked.splice.text
            if not isinstance(request.prompt, str) and answer:
                remote.said = (*request.prompt, Message("assistant", answer.decode()))
            return _usage(asked, usage, sent, loop.time())
        finally:
            if request.conversation is None and remote is not None:
                remote.close()

    async def _watch(
        self, asked: _Asked, worker: Worker, remote: RemoteConversation, following: Following
    ) -> None:
        """Until the answer has ended.  Raises TimedOut when nothing goes on for `timeout`; for
        that the worker is asked what it does, whenever it has said nothing for a while: soon,
        as it may be a place in the queue, then less and less often."""
        loop = asyncio.get_running_loop()
        longest = self._timeout / 4
        pause = min(_FIRST_LOOK_S, longest)
        progress = loop.time()
        look = progress + pause
        reads = 0
        asking: asyncio.Task[Told] | None = None
        told: Told | None = None
        """at the last look"""
        try:
            while True:
                waiting: list[asyncio.Future[Any]] = [following.ended]
                if asking is not None:
                    waiting.append(asking)
                left = longest if asking is not None else max(0.0, look - loop.time())
                await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                now = loop.time()
                if following.ended.done():
                    return following.ended.result()
                if asking is not None and asking.done():
                    before, told = told, asking.result()
                    asking = None
                    pause = min(2 * pause, longest)
                    look = now + pause
                    if told.state is not State.QUEUED:
                        worker.host.turns.begun(asked.request)
                    if told != before and told.state in (State.QUEUED, State.PREFILL):
                        progress = now
                        self._moves += 1
                        asked.listener.progress(told.state, told.position)
                if following.reads > reads:
                    reads = following.reads
                    progress = now
                    look = now + longest
                elif now - progress >= self._timeout:
                    raise _timed_out(worker, self._timeout)
                elif asking is None and now >= look:
                    asking = loop.create_task(remote.state())
        finally:
            if asking is not None:
                asking.cancel()
                asking.add_done_callback(ignore)

    @contextlib.asynccontextmanager
    async def _in_time(self, worker: Worker) -> AsyncIterator[None]:
        """Raises TimedOut when what is inside takes too long."""
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError:
            raise _timed_out(worker, self._timeout) from None


def _may_go_on(worker: Worker) -> bool:
    """Whether it gets the next turn of a conversation that it has."""
    return worker.health in (Health.HEALTHY, Health.DEGRADED)


def _timed_out(worker: Worker, seconds: float) -> TimedOut:
    where = f"{worker.name} at {worker.host.address}"
    return TimedOut(f"{TimedOut.ename}: {where} made no progress for {seconds:g} s")


def _usage(asked: _Asked, usage: Usage, sent: float, now: float) -> Usage:
    """The whole request's: the worker that ended it counts the tokens, of the prompt as it
    found them; times are since our `submit`."""
    waited = (asked.sent - asked.since) * 1000
    if asked.first_token is not None:
        ttft = (asked.first_token - asked.since) * 1000
    else:
        ttft = waited + usage.ttft_ms if usage.ttft_ms else 0.0
    return replace(
        usage,
        given_tokens=min(usage.given_tokens, len(asked.request.answer)),
        queue_ms=waited + usage.queue_ms if asked.sent == sent else waited,
        ttft_ms=ttft,
        total_ms=(now - asked.since) * 1000,
    )
