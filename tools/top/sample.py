"""What the cluster does at one moment, and how fast: pure but for `read`.

A `Sample` is what three files say, however many workers there are.  A `Meter` is given one after
the other and finds what happened between them.  The tokens of a worker are known when its
host's heartbeat was, so rates are per second between heartbeats, not between looks.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import workers
from ..failure import Failure
from ..show import attributes
from ..tree import Tree
from ..workers import Worker

_RECENT_S = 60.0
"""over which times to the first token are averaged"""
_SILENT_S = 5.0
"""without a heartbeat after which a worker's rate is not believed any more"""


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    """time.time()"""
    strategy: str
    health: Mapping[str, int]
    """how many workers are in each state of health"""
    workers: list[Worker]
    active: int
    """requests that have a slot"""
    waiting: int
    done: int
    failed: int
    first_token: tuple[float, int]
    """seconds of all answers until then, and how many they were"""
    cached: float
    """of the prompts' tokens, the part that was in a KV cache"""
    started: float | None
    """when the orchestrator was, as time.time()"""

    @property
    def state(self) -> str:
        """In a word."""
        if not self.workers:
            return "no workers"
        if not self.health["healthy"] + self.health["degraded"]:
            return "unhealthy"
        return "degraded" if self.health["degraded"] + self.health["lost"] else "healthy"


@dataclass(frozen=True, slots=True)
class Host:
    """Those workers of the table that are at one address."""

    name: str
    type: str
    workers: int
    slots: int
    busy: int
    waiting: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Load:
    """A sample, and what happened since the one before."""

    sample: Sample
    rates: Mapping[str, float]
    """tokens a second of each worker"""
    first_token: float | None
    """seconds, the mean of what was answered lately"""

    @property
    def tokens_per_second(self) -> float:
        return sum(self.rates.values())

    @property
    def hosts(self) -> list[Host]:
        """The busiest first."""
        at: dict[str, list[Worker]] = {}
        for worker in self.sample.workers:
            at.setdefault(worker.addr, []).append(worker)
        hosts = [self._host(addr, there) for addr, there in at.items()]
        return sorted(hosts, key=lambda host: (-host.busy - host.waiting, host.name))

    def _host(self, addr: str, there: list[Worker]) -> Host:
        first = there[0]
        queued = sum(worker.queued for worker in there)
        return Host(
            name=addr if first.host == "-" else first.host,
            type=first.type,
            workers=len(there),
            slots=first.capacity,
            busy=min(sum(worker.load for worker in there) - queued, first.capacity),
            waiting=queued,
            tokens_per_second=sum(self.rates[worker.name] for worker in there),
        )


@dataclass(slots=True)
class _Seen:
    epoch: int
    tokens: int
    heartbeat: float
    rate: float = 0.0


@dataclass(slots=True)
class Meter:
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _answered: deque[tuple[float, float, int]] = field(default_factory=deque)
    """when it was read, and the sample's `first_token`"""

    def load(self, sample: Sample) -> Load:
        """Of the sample after those that were given before."""
        self._seen = {worker.name: self._rated(worker, sample.at) for worker in sample.workers}
        rates = {name: seen.rate for name, seen in self._seen.items()}
        return Load(sample, rates, self._first_token(sample))

    def _rated(self, worker: Worker, now: float) -> _Seen:
        before = self._seen.get(worker.name)
        seen = _Seen(worker.epoch, worker.tokens, worker.heartbeat)
        if before is None or before.epoch != worker.epoch or before.tokens > worker.tokens:
            return seen
        seconds = worker.heartbeat - before.heartbeat
        if seconds > 0:
            seen.rate = (worker.tokens - before.tokens) / seconds
        elif now - worker.heartbeat < _SILENT_S:
            seen.rate = before.rate
        return seen

    def _first_token(self, sample: Sample) -> float | None:
        seconds, count = sample.first_token
        if self._answered and self._answered[-1][2] > count:
            self._answered.clear()  # it was started again
        self._answered.append((sample.at, seconds, count))
        while sample.at - self._answered[0][0] > _RECENT_S and len(self._answered) > 1:
            self._answered.popleft()
        _, seconds_before, count_before = self._answered[0]
        if count == count_before:
            return None
        return (seconds - seconds_before) / (count - count_before)


def read(tree: Tree, now: float) -> Sample:
    """Raises Failure."""
    return parse(tree.text("status"), tree.text("workers"), tree.text("metrics.json"), now)


def parse(status: str, table: str, metrics: str, now: float) -> Sample:
    """Raises Failure when these are not an orchestrator's."""
    attrs = attributes(status)
    try:
        values = dict(_values(json.loads(metrics or "{}")))
        ended = {
            outcome: int(values.get(("llambo_requests_total", outcome), 0))
            for outcome in ("stop", "length", "cancelled", "failed", "rejected")
        }
        there = workers.parse(table)
        first = "llambo_time_to_first_token_seconds"
        return Sample(
            at=now,
            strategy=str(attrs.get("strategy", "-")),
            health={
                state: _number(attrs, state)
                for state in ("healthy", "degraded", "draining", "lost")
            },
            workers=there,
            active=max(_number(attrs, "requests") - _number(attrs, "waiting"), 0),
            waiting=_number(attrs, "waiting"),
            done=sum(ended.values()),
            failed=ended["failed"] + ended["rejected"],
            first_token=(
                values.get((f"{first}_sum", ""), 0.0),
                int(values.get((f"{first}_count", ""), 0)),
            ),
            cached=values.get(("llambo_cache_hit_ratio", ""), 0.0),
            started=values.get(("process_start_time_seconds", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Failure("this is not the tree of an orchestrator that `top` knows") from None


def _number(attrs: Mapping[str, str | list[str]], name: str) -> int:
    value = attrs.get(name, "0")
    return int(value if isinstance(value, str) else value[-1])


def _values(metrics: Mapping[str, Any]) -> Iterable[tuple[tuple[str, str], float]]:
    """Of samples without labels, or with an outcome."""
    for family in metrics.values():
        for sample in family["samples"]:
            labels = sample["labels"]
            if not labels.keys() - {"outcome"}:
                yield (sample["name"], labels.get("outcome", "")), float(sample["value"])
