"""When workers are started and ended by the load: a pure policy for each node type.

Capacity is slots.  A host decodes so many requests at once however many workers it serves,
so one more worker on the same host would add nothing: whole hosts come and go.

- Utilisation is the mean, over `look_back`, of the requests that are not over, those that
  wait included, per slot that there is now.  Before the first sample there were none.
- Above `up`, n workers become `factor` x n: ceil(n x (factor - 1)) are added, on new hosts as
  large as the present ones are on average.  So slots grow by the same factor.
- Below `down` whole hosts go, the newest first, as long as n / `factor` workers are left, but
  one at least.  The rest must be utilised less than `up`, by the mean and by what is asked at
  this moment: so a load that does not change cannot make the number of hosts swing.
- Between the thresholds nothing happens, nor within `cool_down_up` (for more) or
  `cool_down_down` (for fewer) after any scaling.
- Without any slot the first request that waits starts a host at once.  Without any request
  for `look_back` the last host may go.

No clock: whoever asks says when it is, in seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """See the module.  Times are seconds."""

    up: float = 0.8
    down: float = 0.2
    factor: float = 2.0
    look_back: float = 30.0
    cool_down_up: float = 10.0
    cool_down_down: float = 120.0


@dataclass(frozen=True, slots=True)
class Size:
    """Of a host."""

    workers: int
    slots: int
    ours: bool = True
    """it was started here, and may be ended"""


@dataclass(frozen=True, slots=True)
class There:
    """What there is of a node type, and may be."""

    hosts: Sequence[Size] = ()
    """the newest last; those too that are to be started again, and none that is drained"""
    least: int = 0
    """workers that are to stay"""
    missing: int = 0
    """workers that are to be started whatever the load is"""
    room: int = 10_000
    """workers that may be added"""
    each: int | None = None
    """workers that a host has at most"""
    first: int = 1
    """workers that are started where there are none"""

    @property
    def workers(self) -> int:
        return sum(host.workers for host in self.hosts)

    @property
    def slots(self) -> int:
        return sum(host.slots for host in self.hosts)


@dataclass(frozen=True, slots=True)
class Grow:
    """Start so many workers on new hosts with at most `each`."""

    workers: int
    each: int


@dataclass(frozen=True, slots=True)
class Shrink:
    """End the hosts at these places of `There.hosts`."""

    hosts: tuple[int, ...]


class Autoscaler:
    """Of one node type, from `now` on."""

    def __init__(self, rules: Rules, now: float) -> None:
        self.requests = 0
        """that there were at the last sample"""
        self._rules = rules
        self._since = self._sampled = now
        self._busy = -math.inf
        """when there was a request last"""
        self._samples: deque[tuple[float, float]] = deque()
        """when, and the requests times the seconds since the sample before; of `look_back`"""
        self._sum = 0.0
        """of those products"""
        self._scaled = -math.inf
        """when there was any scaling last"""
        self._blocked = -math.inf
        """until when nothing is started"""

    def sample(self, now: float, requests: int) -> None:
        """So many are not over, those that wait included."""
        look_back = self._rules.look_back
        product = requests * min(now - self._sampled, look_back)
        self._sampled = now
        self.requests = requests
        self._samples.append((now, product))
        self._sum += product
        while self._samples[0][0] <= now - look_back:
            self._sum -= self._samples.popleft()[1]
        if requests:
            self._busy = now

    def scaled(self, now: float) -> None:
        """Workers were started or ended, by this policy or by somebody's order."""
        self._scaled = now

    def failed(self, now: float) -> None:
        """What was to be started could not be: nothing is, for `cool_down_up`."""
        self._blocked = now + self._rules.cool_down_up

    def may_grow(self, now: float) -> bool:
        """Whether a failure is long enough ago."""
        return now >= self._blocked

    def utilisation(self, now: float, slots: int) -> float:
        """Infinite where requests wait and there is no slot."""
        mean = self._mean(now)
        return mean / slots if slots else math.inf if mean else 0.0

    def decide(self, now: float, there: There) -> Grow | Shrink | None:
        if self.may_grow(now) and there.room > 0:
            more = self._more(now, there)
            if more:
                return _grow(more, there)
        return self._fewer(now, there)

    def _mean(self, now: float) -> float:
        """Requests, over the look-back."""
        idle = now - self._busy >= self._rules.look_back
        return 0.0 if idle else max(0.0, self._sum) / self._rules.look_back

    def _more(self, now: float, there: There) -> int:
        """Workers to add."""
        if there.missing:
            return there.missing
        if not there.slots:
            return min(there.first, there.each or there.first) if self.requests else 0
        if now - self._scaled < self._rules.cool_down_up:
            return 0
        if self.utilisation(now, there.slots) <= self._rules.up:
            return 0
        return math.ceil(there.workers * (self._rules.factor - 1))

    def _fewer(self, now: float, there: There) -> Shrink | None:
        rules = self._rules
        if now - self._since < rules.look_back or now - self._scaled < rules.cool_down_down:
            return None
        asked = max(self._mean(now), self.requests)
        if asked >= rules.down * there.slots and asked:
            return None
        gone: list[int] = []
        workers, slots = there.workers, there.slots
        for place in reversed(range(len(there.hosts))):
            host = there.hosts[place]
            left, room = workers - host.workers, slots - host.slots
            if not host.ours or left < there.least or asked >= rules.up * room and asked:
                continue
            if gone and left * rules.factor < there.workers:
                continue
            gone.append(place)
            workers, slots = left, room
        return Shrink(tuple(gone)) if gone else None


def _grow(more: int, there: There) -> Grow:
    more = min(more, there.room)
    usual = math.ceil(there.workers / len(there.hosts)) if there.workers else more
    return Grow(more, min(more, there.each or usual))


def fewer(sizes: Sequence[int], count: int) -> list[int]:
    """How many workers each host loses for `count` to go in all, hosts given with the newest
    last: it loses all it has before the one before it loses any."""
    lost = []
    for size in reversed(sizes):
        lost.append(min(size, count))
        count -= lost[-1]
    return lost[::-1]
