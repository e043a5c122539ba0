"""What the balancer's strategies look at: workers, their hosts' load, and a request's needs.

Workers of one host share its batch, so load is the host's: the tokens that it has still to
take in and to decode, by our own record of what was sent there, and how fast it was seen to
do that.  Neither a clock nor I/O: times come with the `Usage` of answers.

Everything here that a choice touches takes the same time for ten workers and for ten
thousand.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import cached_property
from typing import Generic, TypeVar

from ..engine.base import Request, Usage

T = TypeVar("T", bound=Hashable)

BYTES_PER_TOKEN = 4
"""rough, and only to compare loads"""
CHUNK = 512
"""characters of a prompt that `Needs.prefixes` goes forward by"""
_MAX_CHUNKS = 16
_PREFILL_RATE = 1000.0
_DECODE_RATE = 300.0
"""tokens/s of a host of which nothing was seen yet: about a small model's on two cores"""
_STRANGER = (64, 128)
"""tokens of prompt and answer that a request is taken for that others sent to a host"""
WEIGHT = 0.2
"""of the newest answer in a moving mean"""
_AGEING = 0.02
"""the part of what was seen of a host that is forgotten when it is idle and not chosen"""
_MIN_TOKENS = 16
"""of a prompt or answer from which a rate is learnt: the time of fewer is mostly overhead"""


class Pool(Generic[T]):
    """A set with numbered places: adding, discarding and indexing are O(1).  Discarding
    moves the last item to the place that becomes free."""

    __slots__ = ("_items", "_places")

    def __init__(self) -> None:
        self._items: list[T] = []
        self._places: dict[T, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> T:
        return self._items[place]

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __contains__(self, item: object) -> bool:
        return item in self._places

    def add(self, item: T) -> None:
        if item not in self._places:
            self._places[item] = len(self._items)
            self._items.append(item)

    def discard(self, item: T) -> None:
        place = self._places.pop(item, None)
        if place is None:
            return
        last = self._items.pop()
        if last is not item:
            self._items[place] = last
            self._places[last] = place


class Rates:
    """How fast a host is, or hosts of some kind are: tokens/s of all its requests together; of
    a nested orchestrator, how fast one of its hosts is."""

    __slots__ = ("decode", "known", "prefill")

    def __init__(self) -> None:
        self.prefill = _PREFILL_RATE
        self.decode = _DECODE_RATE
        self.known = False
        """there was an answer from which to learn them"""

    def approach(self, weight: float, prefill: float | None, decode: float | None) -> None:
        """Go a part of the way to these."""
        if prefill is not None:
            self.prefill += weight * (prefill - self.prefill)
        if decode is not None:
            self.decode += weight * (decode - self.decode)


class HostLoad:
    """A host: what it has to do, and how fast it does it.

    A host that nothing is known of is believed to be as others of its type are, or as any are.
    One that is idle and not chosen is believed, bit by bit, to be as any are, until it was
    measured again: none is judged for ever by what it did once.
    """

    __slots__ = (
        "_levels",
        "_measured",
        "address",
        "decode",
        "dispatched",
        "engines",
        "kept",
        "model",
        "most",
        "prefill",
        "prefilling",
        "requests",
        "slots",
        "strangers",
        "turn",
        "workers",
    )

    def __init__(
        self,
        address: str,
        slots: int,
        of_type: Rates,
        of_all: Rates,
        model: str = "",
        most: int | None = None,
    ) -> None:
        self._measured = Rates()
        self._levels = (Rates(), of_type, of_all)
        """its own as they are believed to be, and others'"""
        self.address = address
        self.slots = max(1, slots)
        """requests that it decodes at once"""
        self.engines = 1
        """hosts that it is: of a nested orchestrator, those that are below it"""
        self.model = model
        self.most = most
        """requests of ours that it may have; None for no limit"""
        self.workers = 0
        """of it in the balancer's table"""
        self.dispatched = 0
        """requests that were sent to it, all in all"""
        self.requests = 0
        """of them, those that are not over"""
        self.prefilling = 0
        """of those, the ones without a first token"""
        self.prefill = 0.0
        """tokens of their prompts that it has not taken in"""
        self.decode = 0.0
        """tokens that it is expected to answer still"""
        self.strangers = 0
        """requests that it said that it has, and that are not ours"""
        self.kept = False
        """it gets nothing but one request, which must run alone"""
        self.turn = 0
        """counts `Eligible.of_host`"""

    @property
    def full(self) -> bool:
        return self.kept or (self.most is not None and self.requests >= self.most)

    @property
    def rates(self) -> Rates:
        own, of_type, of_all = self._levels
        return own if own.known else of_type if of_type.known else of_all

    def seconds(self, needs: Needs) -> float:
        """How long it is expected to take for all that it has and one more request: prompt
        tokens left by its prefill rate, and tokens to answer by its decode rate.  What it has
        is shared out among its engines."""
        prompt, answer = _STRANGER
        prefill = (self.prefill + self.strangers * prompt) / self.engines + needs.prompt_tokens
        decode = (self.decode + self.strangers * answer) / self.engines + needs.answer_tokens
        rates = self.rates
        return prefill / rates.prefill + decode / rates.decode

    def saw(self, prefill: float | None = None, decode: float | None = None) -> None:
        """Its rates, as far as an answer showed them."""
        own, *of_others = self._levels
        believed = self.rates
        for rates in (self._measured, *of_others):
            if not rates.known:
                rates.approach(1, believed.prefill, believed.decode)
                rates.known = True
            rates.approach(WEIGHT, prefill, decode)
        own.approach(1, self._measured.prefill, self._measured.decode)
        own.known = True

    def passed_over(self) -> None:
        """Another host was expected to be done sooner."""
        own, _, of_all = self._levels
        if own.known and not self.requests:
            own.approach(_AGEING, of_all.prefill, of_all.decode)

    def __repr__(self) -> str:
        return f"<HostLoad {self.address} requests {self.requests}>"


class Candidate:
    """A worker in the balancer's table."""

    __slots__ = ("context", "degraded", "dispatched", "host", "model", "name", "node_types", "open")

    def __init__(
        self, name: str, host: HostLoad, node_types: frozenset[str], model: str, context: int
    ) -> None:
        self.name = name
        self.host = host
        self.node_types = node_types
        """one, or what a nested orchestrator has"""
        self.model = model
        self.context = context
        """tokens of prompt and answer that it can hold"""
        self.open = True
        """it may be chosen"""
        self.degraded = False
        """it is chosen only where there is none that is not"""
        self.dispatched = 0
        """requests that were sent to it, all in all"""

    @property
    def node_type(self) -> str:
        """As it is shown."""
        return ",".join(sorted(self.node_types))

    def __repr__(self) -> str:
        return f"<Candidate {self.name} {self.node_type} on {self.host.address}>"


class Eligible:
    """The workers among which a request's is chosen, and those of their hosts that have room;
    a worker of another is not to be chosen.  Falsy when there is no worker."""

    def __init__(self, narrow: Callable[[str], Eligible]) -> None:
        self.workers: Pool[Candidate] = Pool()
        self.hosts: Pool[HostLoad] = Pool()
        self.models: Counter[str] = Counter()
        """model -> workers that have it, on hosts with room and without"""
        self._of: dict[HostLoad, Pool[Candidate]] = {}
        self._narrow = narrow
        self._beyond: Eligible | None = None

    def __len__(self) -> int:
        return len(self.workers)

    def of_type(self, node_type: str) -> Eligible:
        """Those of them that have this node type."""
        return self._narrow(node_type)

    @property
    def beyond(self) -> Eligible:
        """The same, as if all hosts had room but those that are kept.  Costs a step for each."""
        if self._beyond is None:
            self._beyond = Eligible(lambda node_type: self._narrow(node_type).beyond)
        other = self._beyond
        other.workers, other.models, other._of = self.workers, self.models, self._of
        other.hosts = Pool()
        for host in self._of:
            if not host.kept:
                other.hosts.add(host)
        return other

    def of_host(self, host: HostLoad) -> Candidate:
        """One of the host's workers, each in turn: they share all that counts."""
        workers = self._of[host]
        host.turn += 1
        return workers[host.turn % len(workers)]

    def all_of_host(self, host: HostLoad) -> Pool[Candidate]:
        return self._of[host]

    def add(self, worker: Candidate) -> None:
        """For the balancer, as `discard` is."""
        self.workers.add(worker)
        self.models[worker.model] += 1
        if not worker.host.full:
            self.hosts.add(worker.host)
        if worker.host not in self._of:
            self._of[worker.host] = Pool()
        self._of[worker.host].add(worker)

    def discard(self, worker: Candidate) -> None:
        if worker not in self.workers:
            return
        self.workers.discard(worker)
        self.models[worker.model] -= 1
        if not self.models[worker.model]:
            del self.models[worker.model]
        self._of[worker.host].discard(worker)
        if not len(self._of[worker.host]):
            del self._of[worker.host]
            self.hosts.discard(worker.host)

    def note_room(self, host: HostLoad) -> None:
        """The host is full, or is not any more."""
        if host.full:
            self.hosts.discard(host)
        elif host in self._of:
            self.hosts.add(host)

    @property
    def all_hosts(self) -> Iterable[HostLoad]:
        """With room and without."""
        return self._of


class Needs:
    """What a request asks of whoever answers it."""

    def __init__(self, request: Request, share: float = 1.0) -> None:
        """`share` is the part of `max_tokens` that answers are expected to take."""
        self.request = request
        prompt = request.prompt
        self.size = (
            len(prompt)
            if isinstance(prompt, str)
            else sum(len(message.content) for message in prompt)
        )
        """characters of the prompt, system prompt and history included"""
        self.prompt_tokens = self.size // BYTES_PER_TOKEN + len(request.answer) + 1
        """an estimate"""
        self.max_tokens = max(1, request.params.max_tokens - len(request.answer))
        self.answer_tokens = max(1.0, self.max_tokens * share)
        """an estimate"""
        self.cached_tokens = 0
        """of the prompt, what the host that was chosen is believed to have in its KV cache; a
        strategy that chooses by that says so"""

    @cached_property
    def prefixes(self) -> list[int]:
        """A hash for each whole chunk of `CHUNK` characters that the prompt begins with, at
        most 16, the shortest prefix first.  Each hash is of all that comes before the chunk,
        too, and of the request's scope: KV caches are not shared between scopes."""
        text = self._beginning(_MAX_CHUNKS * CHUNK)
        so_far = hash(self.request.scope)
        hashes = []
        for start in range(0, len(text) - CHUNK + 1, CHUNK):
            so_far = hash((so_far, text[start : start + CHUNK]))
            hashes.append(so_far)
        return hashes

    def _beginning(self, size: int) -> str:
        if isinstance(self.request.prompt, str):
            return self.request.prompt[:size]
        pieces: list[str] = []
        left = size
        for message in self.request.prompt:
            if left <= 0:
                break
            pieces += (f"\0{message.role}\0", message.content[:left])
            left -= len(message.content)
        return "".join(pieces)[:size]


class Work:
    """A request at a worker, from the moment that it was chosen.  It is told of the answer's
    progress by `decoded`, and ended by `Balancer.finished`."""

    __slots__ = ("_decode", "_prefill", "_side_by_side", "host", "max_tokens", "name", "over")

    def __init__(self, name: str, host: HostLoad, needs: Needs) -> None:
        self.name = name
        """of the worker"""
        self.max_tokens = needs.max_tokens
        self.over = False
        self.host = host
        self._prefill: float = max(1, needs.prompt_tokens - needs.cached_tokens)
        self._decode = needs.answer_tokens
        host.dispatched += 1
        host.requests += 1
        host.prefilling += 1
        host.prefill += self._prefill
        host.decode += self._decode
        self._side_by_side = [host.prefilling, 1]
        """how many requests the host prefilled, and decoded, at once: when this one came to it"""

    def _prefilled(self) -> None:
        """Once: its first token came, or none ever will."""
        host = self.host
        if self._prefill:
            self._side_by_side[0] += host.prefilling
            host.prefilling -= 1
            self._side_by_side[1] = self._decoding
            host.prefill -= self._prefill
            self._prefill = 0

    def decoded(self, tokens: float) -> None:
        """About as many more tokens of the answer came."""
        self._prefilled()
        tokens = min(tokens, self._decode)
        self.host.decode = max(0.0, self.host.decode - tokens)
        self._decode -= tokens

    @property
    def _decoding(self) -> int:
        return min(self.host.slots, max(1, self.host.requests - self.host.prefilling))

    def finish(self, usage: Usage | None) -> None:
        """It is over, with what the worker said of it if it was answered: for `Balancer`."""
        self.over = True
        self.decoded(self._decode)
        if usage is not None:
            self._learn(usage)
        self.host.requests -= 1
        if not self.host.requests:  # sums of floats drift
            self.host.prefill = self.host.decode = 0.0

    def _learn(self, usage: Usage) -> None:
        """The rates of the host's requests together: this one's, times how many shared the
        host (one of its engines) with it, the mean of that at the beginning and at the end."""
        host = self.host
        prefilling, decoding = self._side_by_side
        seconds = (usage.ttft_ms - usage.queue_ms) / 1000
        tokens = usage.prompt_tokens - usage.cached_tokens
        if tokens >= _MIN_TOKENS and seconds > 0:
            host.saw(prefill=tokens / seconds * max(1.0, prefilling / 2 / host.engines))
        rate = usage.tokens_per_second
        if usage.completion_tokens - usage.given_tokens >= _MIN_TOKENS and rate > 0:
            together = (decoding + self._decoding) / 2 / host.engines
            host.saw(decode=rate * max(1.0, together))


def others(pool: Pool[T], avoid: frozenset[T], start: int) -> Iterator[T]:
    """Of a pool those that are not to be avoided, from a place on and around: each costs
    at most a step for each that is."""
    n = len(pool)
    places = itertools.chain(range(start, n), range(start))
    return (pool[place] for place in places if pool[place] not in avoid)
