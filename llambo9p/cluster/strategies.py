"""How the balancer chooses: a class for each strategy, and where users' own come from.

A strategy is asked for one worker out of those that are eligible.  It reads no clock, does no
I/O, and must not look at all workers: pools are indexed in O(1).

- `round-robin`: each eligible worker in turn.
- `random`: each is as likely.
- `least-loaded`: the host that is expected to be done sooner, of two picked at random (power
  of two choices: Mitzenmacher, "The power of two choices in randomized load balancing", IEEE
  TPDS 12(10), 2001), and on it each worker in turn.
- `affinity`: a host that has seen the beginning of the prompt, unless it is too busy.

A package adds one by an entry point of the group `llambo9p.strategies`, whose name is
the strategy's and whose value a subclass of `Strategy`.  Long prompts to large nodes, for
instance, and short ones to tiny nodes:

    class ByLength(LeastLoaded):
        def choose(self, needs, eligible):
            node_type = "large" if needs.size > 1000 else "tiny"
            return super().choose(needs, eligible.of_type(node_type) or eligible)
"""

from __future__ import annotations

import functools
import math
import random
from collections import OrderedDict
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from ..errors import InvalidArgument
from .candidates import BYTES_PER_TOKEN, CHUNK, Candidate, Eligible, HostLoad, Needs

GROUP = "llambo9p.strategies"
_GOLDEN = (math.sqrt(5) - 1) / 2
_MAX_PREFIXES = 32_768
"""that `affinity` remembers, those used last"""
_MAX_HOLDERS = 4
"""hosts of each, likewise"""


class Strategy:
    """Subclass it and say `choose`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def choose(self, needs: Needs, eligible: Eligible) -> Candidate:
        """One of `eligible`, which is not empty."""
        raise NotImplementedError

    def started(self, needs: Needs, worker: Candidate) -> None:
        """A request was sent to a worker: chosen here, or the one that has its conversation."""

    def statistics(self) -> Mapping[str, int]:
        """What the file `balancer` shows of it, a line each."""
        return {}


class RoundRobin(Strategy):
    """The order takes what stands together in the pool, workers of one host, far apart: steps
    of the golden section, which are spread evenly however many there are (Knuth, TAOCP 3, 6.4)."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._places: dict[Eligible, int] = {}
        """of those that had the last turn"""

    def choose(self, needs: Needs, eligible: Eligible) -> Candidate:
        n = len(eligible)
        place = (self._places.get(eligible, 0) + _stride(n)) % n
        self._places[eligible] = place
        return eligible.workers[place]


@functools.lru_cache(maxsize=1024)
def _stride(n: int) -> int:
    """About n times the golden section, with no divisor in common with n: steps of it come to
    every place."""
    stride = max(1, round(n * _GOLDEN))
    while math.gcd(stride, n) != 1:
        stride += 1
    return stride


class Random(Strategy):
    def choose(self, needs: Needs, eligible: Eligible) -> Candidate:
        return eligible.workers[self.rng.randrange(len(eligible))]


class LeastLoaded(Strategy):
    def choose(self, needs: Needs, eligible: Eligible) -> Candidate:
        return eligible.of_host(self.host(needs, eligible))

    def host(self, needs: Needs, eligible: Eligible) -> HostLoad:
        """The one that is expected to be done sooner, of two different ones."""
        hosts = eligible.hosts
        n = len(hosts)
        if n == 1:
            return hosts[0]
        i = self.rng.randrange(n)
        j = self.rng.randrange(n - 1)
        a, b = hosts[i], hosts[j + (j >= i)]
        if b.seconds(needs) < a.seconds(needs):
            a, b = b, a
        b.passed_over()
        return a


class Affinity(LeastLoaded):
    """The favourite is the host to which the longest known prefix of the prompt was sent, of
    several the one that is expected to be done first.  It is passed over for the one that
    `least-loaded` would take when that one is expected to be done earlier although it must
    read the prefix, too."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._holders: OrderedDict[int, tuple[HostLoad, ...]] = OrderedDict()
        """prefix -> who has seen it, the last one first"""
        self._followed = 0
        self._passed_over = 0

    def choose(self, needs: Needs, eligible: Eligible) -> Candidate:
        host = self.host(needs, eligible)
        favourite, tokens = self._favourite(needs, eligible)
        if favourite is not None:
            saved = tokens / favourite.rates.prefill
            if favourite.seconds(needs) - saved <= host.seconds(needs):
                self._followed += 1
                needs.cached_tokens = tokens
                host = favourite
            else:
                self._passed_over += 1
        return eligible.of_host(host)

    def _favourite(self, needs: Needs, eligible: Eligible) -> tuple[HostLoad | None, int]:
        """And how many tokens of the prompt it has seen."""
        for i in reversed(range(len(needs.prefixes))):
            holders = self._holders.get(needs.prefixes[i], ())
            hosts = [host for host in holders if host in eligible.hosts]
            if hosts:
                tokens = (i + 1) * CHUNK // BYTES_PER_TOKEN
                return min(hosts, key=lambda host: host.seconds(needs)), tokens
        return None, 0

    def started(self, needs: Needs, worker: Candidate) -> None:
        for prefix in needs.prefixes:
            before = self._holders.get(prefix, ())
            if before[:1] != (worker.host,):
                rest = [host for host in before if host is not worker.host]
                self._holders[prefix] = (worker.host, *rest[: _MAX_HOLDERS - 1])
            self._holders.move_to_end(prefix)
        while len(self._holders) > _MAX_PREFIXES:
            self._holders.popitem(last=False)

    def statistics(self) -> Mapping[str, int]:
        return {
            "prefixes": len(self._holders),
            "followed": self._followed,
            "passed_over": self._passed_over,
        }


BUILT_IN: Mapping[str, type[Strategy]] = {
    "round-robin": RoundRobin,
    "least-loaded": LeastLoaded,
    "random": Random,
    "affinity": Affinity,
}
_NUMBERED = ("round-robin", "least-loaded", "random")


def names() -> list[str]:
    """Of all strategies: the built-in ones, and those of installed packages."""
    return [*BUILT_IN, *sorted({each.name for each in _installed()} - set(BUILT_IN))]


def is_known(name: str) -> bool:
    return name in BUILT_IN or name in names()


def load(name: str) -> type[Strategy]:
    """The strategy of that name.  Raises InvalidArgument, also for a package's that cannot be
    loaded."""
    if not is_known(name):
        raise InvalidArgument(f"no strategy {name[:64]!r}; strategies are {' '.join(names())}")
    if name in BUILT_IN:
        return BUILT_IN[name]
    entry = next(each for each in _installed() if each.name == name)
    try:
        cls = entry.load()
    except Exception as e:
        raise InvalidArgument(f"strategy {name}: cannot load {entry.value}: {e}") from e
    if not (isinstance(cls, type) and issubclass(cls, Strategy)):
        raise InvalidArgument(f"strategy {name}: {entry.value} is no subclass of Strategy")
    return cls


def numbered(number: int) -> str:
    """The name of the strategy that the Python API knows by this number: 0, 1 or 2."""
    if not 0 <= number < len(_NUMBERED):
        known = ", ".join(f"{i} {name}" for i, name in enumerate(_NUMBERED))
        raise InvalidArgument(f"no strategy {number}; strategies are {known}")
    return _NUMBERED[number]


def _installed() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))
