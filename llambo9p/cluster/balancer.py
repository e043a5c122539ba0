"""Which worker gets a request: the table of workers, and the record of what was sent where.

Pure policy: no I/O and no clock.  Members say who is there (`add`, `allow`, `hold`,
`remove`) and what a host said in its heartbeat (`heard`, `offered`); whoever dispatches asks
`choose`, which at once counts the request's tokens as its host's, and tells of the end by
`finished`.

A choice filters, then asks the strategy.  Eligible are the workers that may be chosen, have
the request's node type, and whose context holds the prompt by its estimated tokens; a prompt
that fits none goes to those with the most context, to be trimmed or refused there.  Degraded
workers count only where no other is eligible.  For each such set there is a pool that is kept
up to date, so that a choice takes the same time for ten workers and for ten thousand.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from ..engine.base import Request, Usage
from ..errors import Error, InvalidArgument, WorkerLost
from . import strategies
from .candidates import (
    BYTES_PER_TOKEN,
    WEIGHT,
    Candidate,
    Eligible,
    HostLoad,
    Needs,
    Rates,
    Work,
    others,
)
from .offer import Offer

UNKNOWN = "-"
"""the node type of a worker that does not say"""
_ANY = ""
"""the node type of a request that asks for none"""
_NO_LIMIT = 2**62
"""tokens of context of a worker that does not say"""


class _Avoided(NamedTuple):
    """Who is not to be chosen if that can be helped."""

    workers: frozenset[Candidate]
    hosts: frozenset[HostLoad]
    """of those workers"""


class Balancer:
    """See the module.  A host gets at most its slots and `queue` requests; None for no limit.
    A strategy's choices are made with `rng`."""

    def __init__(
        self, strategy: str, rng: random.Random | None = None, queue: int | None = None
    ) -> None:
        self._queue = queue
        self.decisions: Counter[str] = Counter()
        """by strategy"""
        self.avoided = 0
        """decisions in which the strategy's choice was one to be avoided, and another was made"""
        self.workers: dict[str, Candidate] = {}
        self._rng = rng or random.Random()
        self._hosts: dict[str, HostLoad] = {}
        self._with_room: set[HostLoad] = set()
        self._rates = {_ANY: Rates()}
        """of the hosts of each node type, and of all"""
        self._open = 0
        """workers that may be chosen"""
        self._contexts: dict[str, list[int]] = {_ANY: []}
        """node type -> the context sizes that its workers were ever seen with, ascending"""
        self._pools: dict[tuple[str, int, bool], Eligible] = {}
        """by node type, least context, and whether degraded workers are in it"""
        self._answered_share = 1.0
        """the part of `max_tokens` that answers take, by those seen"""
        self.use(strategy)

    def use(self, strategy: str) -> None:
        """Choose by another strategy from now on.  Raises InvalidArgument."""
        try:
            self._strategy = strategies.load(strategy)(self._rng)
        except InvalidArgument:
            raise
        except Exception as e:
            raise InvalidArgument(f"strategy {strategy}: {e!r}") from e
        self.strategy = strategy
        """its name"""

    def __len__(self) -> int:
        """How many workers may be chosen."""
        return self._open

    @property
    def hosts(self) -> Iterable[HostLoad]:
        return self._hosts.values()

    @property
    def statistics(self) -> Iterator[tuple[str, int]]:
        """Of the strategy that is used.  Raises Error when it fails."""
        try:
            yield from self._strategy.statistics().items()
        except Exception as e:
            raise self._failed(e) from e

    # -- who is there -------------------------------------------------------------

    def add(
        self,
        name: str,
        address: str,
        *,
        node_type: str = UNKNOWN,
        model: str = "-",
        context: int | None = None,
        slots: int = 1,
    ) -> None:
        """A worker of the host at `address`, which decodes as many requests at once as it has
        `slots`, may be chosen from now on."""
        self.remove(name)
        context = _NO_LIMIT if context is None else context
        host = self._hosts.get(address)
        if host is None:
            of_type = self._rates.setdefault(node_type, Rates())
            most = None if self._queue is None else max(1, slots) + self._queue
            host = HostLoad(address, slots, of_type, self._rates[_ANY], model, most)
            self._hosts[address] = host
        host.workers += 1
        self._note_room(host)
        types = frozenset({node_type})
        worker = self.workers[name] = Candidate(name, host, types, model, context)
        self._note_context(worker)
        self._enter(worker)

    def offered(self, name: str, offer: Offer) -> None:
        """What the nested orchestrator of that name has now.  It is the only worker of its
        host."""
        worker = self.workers.get(name)
        if worker is None:
            return
        context = _NO_LIMIT if offer.context is None else offer.context
        host = worker.host
        now = offer.types, offer.model, context
        if now != (worker.node_types, host.model, worker.context):
            was_open = worker.open
            self._leave(worker)
            worker.node_types, worker.model, worker.context = now
            host.model = offer.model
            self._note_context(worker)
            if was_open:
                self._enter(worker)
        host.slots = max(1, offer.slots)
        host.engines = max(1, offer.engines)
        host.most = None if self._queue is None else host.slots + self._queue
        self._note_room(host)
        self.heard(host.address, offer.requests)

    def allow(self, name: str, degraded: bool = False) -> None:
        """The worker may be chosen, or if it is `degraded` where there is no other."""
        worker = self.workers.get(name)
        if worker is None or (worker.open, worker.degraded) == (True, degraded):
            return
        self._leave(worker)
        worker.degraded = degraded
        self._enter(worker)

    def hold(self, name: str) -> None:
        """The worker is not to be chosen for now."""
        worker = self.workers.get(name)
        if worker is not None:
            self._leave(worker)

    def remove(self, name: str) -> None:
        """The worker is lost or gone."""
        worker = self.workers.pop(name, None)
        if worker is None:
            return
        self._leave(worker)
        host = worker.host
        host.workers -= 1
        if not host.workers:
            del self._hosts[host.address]
            self._with_room.discard(host)

    def _note_context(self, worker: Candidate) -> None:
        for key in (_ANY, *worker.node_types):
            sizes = self._contexts.setdefault(key, [])
            if worker.context not in sizes:
                insort(sizes, worker.context)

    def _enter(self, worker: Candidate) -> None:
        worker.open = True
        self._open += 1
        for key, pool in self._pools.items():
            if _belongs(worker, key):
                pool.add(worker)

    def _leave(self, worker: Candidate) -> None:
        if not worker.open:
            return
        worker.open = False
        self._open -= 1
        for pool in self._pools.values():
            pool.discard(worker)

    def heard(self, address: str, requests: int) -> None:
        """How many requests a host said that it has, of whomever."""
        host = self._hosts.get(address)
        if host is not None:
            host.strangers = max(0, requests - host.requests)

    def requests_of(self, address: str) -> int:
        """That a host has, of whomever."""
        host = self._hosts.get(address)
        return 0 if host is None else host.requests + host.strangers

    # -- requests -----------------------------------------------------------------

    def check(self, request: Request) -> None:
        """Raises WorkerLost when there is nobody to choose, even with room."""
        self._eligible(self._needs(request))

    def models(self, request: Request) -> Collection[str]:
        """Of the workers that may be chosen for it, those without room included."""
        try:
            return self._eligible(self._needs(request)).models.keys()
        except WorkerLost:
            return ()

    @property
    def has_room(self) -> bool:
        return bool(self._with_room)

    def takes(self, name: str, beyond: bool) -> bool:
        """Whether the worker's host has room, or may be sent a request `beyond` it."""
        worker = self.workers.get(name)
        return worker is None or not (worker.host.kept if beyond else worker.host.full)

    def choose(
        self,
        request: Request,
        avoid: frozenset[str] = frozenset(),
        model: str = "",
        apart: frozenset[str] = frozenset(),
        beyond: bool = False,
    ) -> Work | None:
        """The worker for a request; none of `avoid`, nor of their hosts, if that can be
        helped, then none of `apart` nor of theirs, and with a `model` only one that has it.
        None when none has room, or none but those of `avoid`: whoever fails all that he gets
        always has room, and would get everything.  When none has room and the request may go
        `beyond` it, all are taken to have room but those that are kept.  Raises WorkerLost when
        there is nobody, or Error when the strategy fails."""
        needs = self._needs(request)
        eligible = self._eligible(needs)
        if not len(eligible.hosts) and beyond:
            eligible = eligible.beyond
        if not len(eligible.hosts):
            return None
        try:
            chosen = self._strategy.choose(needs, eligible)
        except Exception as e:
            raise self._failed(e) from e
        if chosen not in eligible.workers:
            raise Error(f"strategy {self.strategy} chose {chosen!r}, which is not eligible")
        avoided = self._avoided(avoid | apart)
        worker = self._allowed(chosen, needs, eligible, avoided, model)
        if worker is not None and apart and worker.name in avoid:
            avoided = self._avoided(avoid)
            worker = self._allowed(chosen, needs, eligible, avoided, model)
        if worker is None or (worker.name in avoid and _others(eligible, avoided, model)):
            return None
        work = self._started(worker, needs)
        self.decisions[self.strategy] += 1
        self.avoided += worker is not chosen
        return work

    def choose_host(
        self,
        request: Request,
        avoid: Collection[str],
        model: str,
        suits: Callable[[HostLoad], bool],
    ) -> HostLoad | None:
        """The host with the fewest requests of those that suit, room or not; for the rest as
        `choose`, and no strategy is asked.  None when there is no such host now.  Raises
        WorkerLost when nobody can answer at all."""
        eligible = self._eligible(self._needs(request))
        avoided = self._avoided(frozenset(avoid)).hosts
        hosts = [host for host in eligible.all_hosts if model in ("", host.model)]
        hosts = [host for host in hosts if host not in avoided] or hosts
        return min(filter(suits, hosts), key=lambda host: host.requests, default=None)

    def send(self, request: Request, host: HostLoad) -> Work:
        """The request is sent to a worker of the host, which `choose_host` gave."""
        needs = self._needs(request)
        return self._started(self._eligible(needs).of_host(host), needs)

    def keep(self, host: HostLoad, kept: bool) -> None:
        """Whether the host gets nothing but what is sent to it by `send`."""
        host.kept = kept
        self._note_room(host)

    def _avoided(self, names: frozenset[str]) -> _Avoided:
        workers = frozenset(self.workers[name] for name in names if name in self.workers)
        return _Avoided(workers, frozenset(worker.host for worker in workers))

    def started(self, name: str, request: Request) -> Work:
        """A request is sent to a worker that was not chosen: it has its conversation, and so
        in its KV cache all but the newest turn.  Raises Error when the strategy fails."""
        needs = self._needs(request)
        if not isinstance(request.prompt, str):
            known = needs.size - len(request.prompt[-1].content)
            needs.cached_tokens = known // BYTES_PER_TOKEN
        worker = self.workers.get(name)
        if worker is None:  # lost at this moment
            return Work(name, HostLoad("", 1, Rates(), Rates()), needs)
        return self._started(worker, needs)

    def _started(self, worker: Candidate, needs: Needs) -> Work:
        try:
            self._strategy.started(needs, worker)
        except Exception as e:
            raise self._failed(e) from e
        worker.dispatched += 1
        work = Work(worker.name, worker.host, needs)
        self._note_room(worker.host)
        return work

    def _failed(self, error: Exception) -> Error:
        """What a request is told when the strategy, which may be anybody's, raises that."""
        return Error(f"strategy {self.strategy}: {error!r}")

    def _note_room(self, host: HostLoad) -> None:
        has_room = host.workers > 0 and not host.full
        if has_room == (host in self._with_room):
            return
        if has_room:
            self._with_room.add(host)
        else:
            self._with_room.discard(host)
        for pool in self._pools.values():
            pool.note_room(host)

    def finished(self, work: Work, usage: Usage | None = None) -> None:
        """The end of what `choose` or `started` began, with what the worker said of it if
        it was answered.  Once it is over nothing happens."""
        if work.over:
            return
        work.finish(usage)
        self._note_room(work.host)
        if usage is not None and usage.finish_reason != "cancelled":
            share = (usage.completion_tokens - usage.given_tokens) / work.max_tokens
            self._answered_share += WEIGHT * (min(1.0, share) - self._answered_share)

    def _needs(self, request: Request) -> Needs:
        return Needs(request, self._answered_share)

    def _allowed(
        self,
        worker: Candidate,
        needs: Needs,
        eligible: Eligible,
        avoided: _Avoided,
        model: str,
    ) -> Candidate | None:
        """The worker, unless it or its host is to be avoided, or has no room or another model:
        then one of the less loaded of two other hosts, or else another worker of one that is to
        be avoided, or else any; None when no host with room has the model."""
        suits = worker.host in eligible.hosts and model in ("", worker.host.model)
        if suits and worker.host not in avoided.hosts:
            return worker
        needs.cached_tokens = 0
        good: list[HostLoad] = []
        bad: list[HostLoad] = []
        start = self._rng.randrange(len(eligible.hosts))
        for host in others(eligible.hosts, frozenset(), start):
            if model in ("", host.model):
                (bad if host in avoided.hosts else good).append(host)
            if len(good) == 2:
                break
        if good:
            return eligible.of_host(min(good, key=lambda host: host.seconds(needs)))
        if suits and worker not in avoided.workers:
            return worker
        for host in bad:
            workers = eligible.all_of_host(host)
            for each in others(workers, avoided.workers, self._rng.randrange(len(workers))):
                return each
        if suits:
            return worker
        return eligible.of_host(bad[0]) if bad else None

    def _eligible(self, needs: Needs) -> Eligible:
        """Raises WorkerLost when there is none."""
        node_type = needs.request.node_type
        sizes = self._contexts.get(node_type, [])
        fitting = bisect_left(sizes, needs.prompt_tokens)
        for context in reversed(sizes[: fitting + 1]):
            for degraded in (False, True):
                if pool := self._pool((node_type, context, degraded)):
                    return pool
        if not self._open:
            raise WorkerLost("no healthy worker; start some with `llamboctl spawn`")
        known = (each.node_types for each in self.workers.values() if each.open)
        types = " ".join(sorted(frozenset[str]().union(*known) - {UNKNOWN}))
        raise WorkerLost(f"no healthy worker of type {node_type}; types are {types}")

    def _pool(self, key: tuple[str, int, bool]) -> Eligible:
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = self._narrowed(key)
            for worker in self.workers.values():
                if worker.open and _belongs(worker, key):
                    pool.add(worker)
        return pool

    def _narrowed(self, key: tuple[str, int, bool]) -> Eligible:
        """An empty pool whose `of_type` is another of ours."""
        mine, context, degraded = key

        def narrow(node_type: str) -> Eligible:
            if mine in (_ANY, node_type) and node_type in self._contexts:
                return self._pool((node_type, context, degraded))
            return Eligible(narrow)

        return Eligible(narrow)


def _others(eligible: Eligible, avoided: _Avoided, model: str) -> bool:
    """Whether there is a host, with room or without, of none that is to be avoided."""
    return any(
        host not in avoided.hosts and model in ("", host.model) for host in eligible.all_hosts
    )


def _belongs(worker: Candidate, key: tuple[str, int, bool]) -> bool:
    node_type, context, degraded = key
    return (
        (node_type == _ANY or node_type in worker.node_types)
        and worker.context >= context
        and (degraded or not worker.degraded)
    )
