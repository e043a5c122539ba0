"""Requests that end hosts, as a policy, against hosts that do end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster.suspects import ALONE, MOST, Suspects


@dataclass(eq=False)
class Ask:
    """A request whose answer has `length` tokens, and that ends its host where `poison` says."""

    name: int
    length: int
    poison: Callable[[], int] | None = None
    """how many tokens its host comes to"""
    tokens: int = 0
    left: int = 0
    """tokens until it ends the host, where it runs now"""
    deaths: int = 0
    """of hosts that it was on"""
    ended: int = 0
    """of these, those that it ended"""
    end: str = ""


@dataclass(eq=False)
class Place:
    slots: int
    running: list[Ask] = field(default_factory=list)
    kept: Ask | None = None
    down: int = 0
    """turns until it is back"""


class World:
    """Hosts, an orchestrator that sends what waits, and time in turns."""

    def __init__(self, hosts: int, slots: int, rng: Random, by_itself: bool) -> None:
        self.places = [Place(slots) for _ in range(hosts)]
        self.suspects: Suspects[Ask, Place] = Suspects()
        self.waiting: list[Ask] = []
        self.deaths = 0
        self._rng = rng
        self._by_itself = by_itself

    def turn(self) -> None:
        self._dispatch()
        for place in self.places:
            if place.down:
                place.down -= 1
            self._work(place)

    def _dispatch(self) -> None:
        for ask in list(self.waiting):
            place = self._place_for(ask)
            if place is None:
                continue
            self.waiting.remove(ask)
            place.running.append(ask)
            if self.suspects.is_suspect(ask):
                self.suspects.sent(ask, place)
            if ask.poison is not None:
                ask.left = max(1, ask.poison() - ask.tokens)

    def _place_for(self, ask: Ask) -> Place | None:
        up = [place for place in self.places if not place.down]
        if not self.suspects.is_suspect(ask):
            up = [place for place in up if place.kept is None and len(place.running) < place.slots]
            return self._rng.choice(up) if up else None
        for place in sorted(up, key=lambda place: len(place.running)):
            kept = self.suspects.kept_for(ask)
            if kept not in (None, place):
                continue
            if self.suspects.may_go(ask, place, len(place.running)):
                if len(place.running) < place.slots:
                    if self.suspects.runs_alone(ask):
                        self.suspects.keep(ask, place)
                        place.kept = ask
                    return place
            elif self.suspects.runs_alone(ask) and place.kept is None:
                self.suspects.keep(ask, place)
                place.kept = ask
                return None
        return None

    def _leave(self, ask: Ask) -> None:
        place = self.suspects.left(ask)
        if place is not None:
            assert place.kept is ask
            place.kept = None

    def _work(self, place: Place) -> None:
        suspects = [ask for ask in place.running if self.suspects.is_suspect(ask)]
        assert len(suspects) <= 1, "no two suspects share a host"
        if any(self.suspects.runs_alone(ask) for ask in suspects):
            assert len(place.running) == 1
        for ask in list(place.running):
            ask.left -= 1
            if ask.poison is not None and ask.left <= 0:
                ask.ended += 1
                return self._die(place)
            ask.tokens += 1
            self.suspects.got(ask, ask.tokens)
            if ask.tokens >= ask.length:
                place.running.remove(ask)
                self._over(ask, "answered")
        return None

    def _die(self, place: Place) -> None:
        self.deaths += 1
        place.down = self._rng.randint(1, 5)
        running, place.running = place.running, []
        for each in self.places:  # who waited for this host looks for another
            if each is place and each.kept is not None:
                self._leave(each.kept)
        for ask in running:
            ask.deaths += 1
            self._leave(ask)
        self.suspects.died({ask: ask.tokens for ask in running}, by_itself=self._by_itself)
        for ask in running:
            if self.suspects.is_convicted(ask):
                self._over(ask, "convicted")
            else:
                self.waiting.append(ask)

    def _over(self, ask: Ask, how: str) -> None:
        ask.end = how
        self._leave(ask)
        self.suspects.over(ask)


@given(
    hosts=st.integers(1, 4),
    slots=st.integers(1, 4),
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=10),
    poisons=st.sets(st.integers(0, 9), max_size=4),
    fixed=st.booleans(),
    by_itself=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_every_innocent_is_answered_and_every_poison_fails_after_three_deaths(
    hosts: int,
    slots: int,
    lengths: list[int],
    poisons: set[int],
    fixed: bool,
    by_itself: bool,
    seed: int,
) -> None:
    """Some end their host at the same token each time.  Others do at any moment: that they fail
    some time needs hosts that are known to have died by themselves."""
    rng = Random(seed)
    world = World(hosts, slots, rng, by_itself)

    def poison(length: int) -> Callable[[], int]:
        at = rng.randint(1, length)
        if fixed or not by_itself:
            return lambda: at
        return lambda: rng.randint(1, length)

    asks = [
        Ask(number, length, poison(length) if number in poisons else None)
        for number, length in enumerate(lengths)
    ]
    coming = list(asks)
    for _ in range(1000):
        if coming and rng.random() < 0.5:
            world.waiting.append(coming.pop(0))
        world.turn()
        if all(ask.end for ask in asks):
            break
    guilty = [ask for ask in asks if ask.poison is not None]
    if fixed or not by_itself:
        assert {ask.end for ask in guilty} <= {"convicted"}
    assert {ask.end for ask in asks if ask not in guilty} <= {"answered"}
    assert world.deaths <= 3 * len(guilty)
    assert all(ask.ended <= 3 for ask in guilty)
    if by_itself:
        assert all(ask.deaths <= (3 if ask in guilty else 2) for ask in asks)
    assert not len(world.suspects) and not world.suspects._records
    assert all(place.kept is None for place in world.places)


def test_one_that_ran_alone_from_the_beginning_is_tried_once_more() -> None:
    suspects: Suspects[str, str] = Suspects()
    for by_itself in (True, False):
        suspects.died({"bad": 0}, by_itself=by_itself)
        assert suspects.is_suspect("bad") and not suspects.is_convicted("bad")
        suspects.died({"bad": 0}, by_itself=by_itself)
        assert suspects.is_convicted("bad") and suspects.deaths("bad") == 2
        suspects.over("bad")


def test_one_that_got_further_is_no_suspect_of_a_host_that_may_have_been_killed() -> None:
    suspects: Suspects[str, str] = Suspects()
    for tokens in range(1, 10):
        suspects.died({"long": tokens}, by_itself=False)
        assert suspects.deaths("long") == 1 and not suspects.is_convicted("long")
    suspects.died({"long": 10}, by_itself=True)
    assert suspects.is_convicted("long")


def test_beside_strangers_nothing_is_known_to_run_alone() -> None:
    suspects: Suspects[str, str] = Suspects()
    for death in range(1, MOST + 1):
        suspects.died({"one": 0}, by_itself=True, strangers=True)
        assert suspects.is_convicted("one") == (death == MOST)
        assert suspects.runs_alone("one") == (death >= ALONE)


@pytest.mark.parametrize("tokens", [3, 4])
def test_a_new_token_ends_the_suspicion_of_one_death(tokens: int) -> None:
    suspects: Suspects[str, str] = Suspects()
    suspects.died({"a": 3, "b": 0}, by_itself=True)
    suspects.sent("a", "host")
    assert not suspects.may_go("b", "host", 0) and suspects.may_go("b", "other", 7)
    suspects.got("a", tokens)
    assert suspects.is_suspect("a") == (tokens == 3) == (not suspects.may_go("b", "host", 1))
    suspects.died({"a": tokens, "b": 0}, by_itself=True)
    suspects.got("a", tokens + 1)
    assert suspects.is_suspect("a"), "after two deaths it is one until it is over"
