"""The scaling policy under traces of load: when, how much, and never to and fro."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from llambo9p.cluster.autoscale import Autoscaler, Grow, Rules, Shrink, Size, There, fewer

RULES = Rules()


@dataclass
class Trace:
    """Hosts that come and go as the policy says, under a load that is given by the second."""

    load: Callable[[float], int]
    rules: Rules = RULES
    there: There = field(default_factory=There)
    slots: int = 16
    """of each new host"""
    start: float = 3.0
    """seconds until new hosts answer"""
    at: float = 0.0
    changes: list[tuple[float, int]] = field(default_factory=list)
    """when, and how many workers more or fewer"""

    def __post_init__(self) -> None:
        self.scaler = Autoscaler(self.rules, self.at)
        self._coming: tuple[float, list[Size]] | None = None

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.at += 1
            self.scaler.sample(self.at, self.load(self.at))
            if self._coming is not None:
                if self.at >= self._coming[0]:
                    self._become([*self.there.hosts, *self._coming[1]])
                    self._coming = None
                continue
            change = self.scaler.decide(self.at, self._now())
            if isinstance(change, Grow):
                self._check(change)
                whole, rest = divmod(change.workers, change.each)
                sizes = [change.each] * whole + [rest] * bool(rest)
                self._coming = self.at + self.start, [Size(n, self.slots) for n in sizes]
            elif isinstance(change, Shrink):
                gone = set(change.hosts)
                assert gone and all(self.there.hosts[place].ours for place in gone)
                self._become([h for i, h in enumerate(self.there.hosts) if i not in gone])

    def _now(self) -> There:
        return replace(self.there, room=self.there.room - self.there.workers)

    def _check(self, grow: Grow) -> None:
        assert 0 < grow.each <= grow.workers <= self._now().room
        assert self.there.each is None or grow.each <= self.there.each

    def _become(self, hosts: list[Size]) -> None:
        before = self.there.workers
        self.there = replace(self.there, hosts=hosts)
        self.scaler.scaled(self.at)
        self.changes.append((self.at, self.there.workers - before))
        if self.there.workers < before:
            assert self.there.workers >= self.there.least


def hosts(*workers: int) -> list[Size]:
    return [Size(n, 16) for n in workers]


# -- traces -----------------------------------------------------------------------


def test_a_step_is_followed_and_the_end_of_it_too() -> None:
    trace = Trace(lambda t: 60 if 100 <= t < 400 else 1, there=There(hosts(4), least=4))
    trace.run(100)
    assert not trace.changes, "4 workers are the floor"
    trace.run(300)
    assert [count for _, count in trace.changes] == [4, 8, 16], "60 are 0.94 of 64 slots"
    trace.run(1200)
    assert trace.there.workers == 4


def test_a_ramp_is_followed_without_going_back() -> None:
    trace = Trace(lambda t: int(t / 10), there=There(hosts(4)))
    trace.run(1200)
    assert all(count > 0 for _, count in trace.changes)
    assert trace.there.slots * RULES.up >= 100


def test_a_burst_that_is_over_soon_changes_nothing() -> None:
    trace = Trace(lambda t: 32 if t % 300 < 5 else 2, there=There(hosts(4)))
    trace.run(3000)
    assert not [count for _, count in trace.changes if count > 0]


def test_a_load_that_swings_between_the_thresholds_changes_nothing() -> None:
    trace = Trace(lambda t: 12 if t % 20 < 10 else 5, there=There(hosts(4)))
    trace.run(3000)
    assert not trace.changes


def test_a_load_that_swings_slowly_is_not_followed_down_at_once() -> None:
    """A minute of much and a minute of nothing: the cool-down outlasts the quiet one."""
    trace = Trace(lambda t: 30 if t % 120 < 60 else 0, there=There(hosts(4), least=4))
    trace.run(3600)
    ups = sum(count > 0 for _, count in trace.changes)
    assert ups <= 2 + sum(count < 0 for _, count in trace.changes)
    assert len(trace.changes) <= 2 + 3600 / RULES.cool_down_down


def test_from_zero_to_zero() -> None:
    trace = Trace(lambda t: 1 if 50 <= t < 60 else 0, there=There(first=4, each=2))
    trace.run(49)
    assert not trace.there.hosts
    trace.run(4)
    assert trace.there.hosts == [Size(2, 16)], "at the first request, one host"
    trace.run(100)
    assert trace.there.hosts, "it stays for the cool-down"
    trace.run(100)
    assert not trace.there.hosts


# -- steps ------------------------------------------------------------------------


def scaler(requests: int, rules: Rules = RULES, seconds: int = 60) -> Autoscaler:
    """That has seen so many for a minute, which is over."""
    made = Autoscaler(rules, 0.0)
    for second in range(1, seconds + 1):
        made.sample(second, requests)
    return made


def test_new_hosts_are_as_large_as_the_present_ones() -> None:
    there = There(hosts(100, 100))
    assert scaler(100).decide(60, there) == Grow(200, 100)
    assert scaler(100, Rules(factor=1.25)).decide(60, there) == Grow(50, 50)
    assert scaler(100).decide(60, replace(there, each=30)) == Grow(200, 30)
    assert scaler(100).decide(60, replace(there, room=120)) == Grow(120, 100)
    assert scaler(100).decide(60, replace(there, room=0)) is None


def test_whole_hosts_go_the_newest_first() -> None:
    four = There(hosts(4, 4, 4, 4))
    assert scaler(2).decide(60, four) == Shrink((3, 2))
    assert scaler(2).decide(60, replace(four, least=10)) == Shrink((3,))
    assert scaler(2).decide(60, replace(four, least=13)) is None
    assert scaler(2, Rules(factor=10.0)).decide(60, four) == Shrink((3, 2, 1))
    assert scaler(0).decide(60, There(hosts(4))) == Shrink((0,))
    assert scaler(1).decide(60, There(hosts(4))) is None, "somebody is answered there"
    mixed = [Size(4, 16), Size(4, 16), Size(4, 16, ours=False)]
    assert scaler(2).decide(60, There(mixed)) == Shrink((1,))


def test_what_is_asked_at_this_moment_keeps_hosts() -> None:
    made = scaler(0)
    made.sample(61, 60)
    assert made.decide(61, There(hosts(4, 4, 4, 4))) is None


def test_nothing_is_ended_before_a_look_back_was_seen() -> None:
    assert scaler(0, seconds=29).decide(29, There(hosts(4))) is None
    assert scaler(0, seconds=30).decide(30, There(hosts(4))) == Shrink((0,))


def test_too_few_are_made_up_for_whatever_the_load_is() -> None:
    made = Autoscaler(RULES, 0.0)
    assert made.decide(0, There(missing=5)) == Grow(5, 5)
    assert made.decide(0, There(missing=5, each=2)) == Grow(5, 2)


def test_after_a_failure_nothing_is_started_for_a_while() -> None:
    made = scaler(1)
    made.failed(60)
    assert made.decide(69, There()) is None
    assert made.decide(70, There()) == Grow(1, 1)


def test_utilisation_is_the_mean_of_the_look_back() -> None:
    made = Autoscaler(RULES, 0.0)
    for second in range(1, 16):
        made.sample(second, 16)
    assert math.isclose(made.utilisation(15, 16), 0.5)
    for second in range(16, 46):
        made.sample(second, 0)
    assert made.utilisation(45, 16) == 0
    assert Autoscaler(RULES, 0.0).utilisation(0, 0) == 0
    assert scaler(1).utilisation(60, 0) == math.inf


# -- properties -------------------------------------------------------------------

rules = st.builds(
    Rules,
    up=st.floats(0.5, 1.0),
    down=st.floats(0.0, 0.4),
    factor=st.floats(1.05, 20.0),
    look_back=st.sampled_from([0.1, 1.0, 7.0, 30.0]),
    cool_down_up=st.sampled_from([0.0, 3.0, 10.0]),
    cool_down_down=st.sampled_from([0.0, 5.0, 120.0]),
)
theres = st.builds(
    There,
    hosts=st.lists(st.builds(Size, st.integers(1, 30), st.integers(1, 16), st.booleans())),
    least=st.integers(0, 40),
    room=st.integers(100, 1000),
    each=st.none() | st.integers(1, 30),
    first=st.integers(1, 8),
)


@settings(max_examples=200, deadline=None)
@given(rules, theres, st.lists(st.integers(0, 2000), min_size=1, max_size=12))
def test_bounds_and_cool_downs_are_kept(rules: Rules, there: There, loads: list[int]) -> None:
    """(Bounds are asserted by the trace.)"""
    trace = Trace(lambda t: loads[int(t) // 40 % len(loads)], rules, there)
    trace.run(480)
    assert trace.there.workers <= max(there.room, there.workers)
    for (before, _), (at, count) in zip(trace.changes, trace.changes[1:], strict=False):
        assert at - before >= (rules.cool_down_up if count > 0 else rules.cool_down_down)


@settings(max_examples=200, deadline=None)
@given(rules, theres, st.integers(0, 500))
def test_a_load_that_stays_makes_nothing_swing(rules: Rules, there: There, load: int) -> None:
    trace = Trace(lambda t: load, rules, there)
    trace.run(2500)
    directions = [count > 0 for _, count in trace.changes]
    assert directions == sorted(directions, reverse=True) or directions == sorted(directions), (
        trace.changes
    )


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(0, 200))
def test_workers_go_from_the_newest_hosts(sizes: list[int], count: int) -> None:
    lost = fewer(sizes, count)
    assert sum(lost) == min(count, sum(sizes))
    assert all(n <= size for n, size in zip(lost, sizes, strict=True))
    touched = [i for i, n in enumerate(lost) if n]
    assert all(lost[i] == sizes[i] for i in range(touched[0] + 1, len(sizes))) if touched else True
