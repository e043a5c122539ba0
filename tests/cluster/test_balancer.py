"""The balancer as a pure policy: who is chosen, and who never is."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster.balancer import STRATEGIES, Balancer


def balancer(strategy: str, *names: str) -> Balancer:
    b = Balancer(strategy, random.Random(9))
    for name in names:
        b.add(name)
    return b


def test_round_robin_takes_each_in_turn() -> None:
    b = balancer("round-robin", "a", "b", "c")
    assert sorted(b.choose() or "" for _ in range(3)) == ["a", "b", "c"]
    assert [b.choose() for _ in range(3)] == [b.choose() for _ in range(3)]


def test_least_loaded_of_two_takes_the_idle_one() -> None:
    b = balancer("least-loaded", "a", "b")
    b.started("a", 100)
    assert {b.choose() for _ in range(50)} == {"b"}
    b.finished("a", 100)
    b.started("b", 1)
    assert {b.choose() for _ in range(50)} == {"a"}


def test_least_loaded_spreads_requests_of_unequal_size() -> None:
    b = balancer("least-loaded", *map(str, range(10)))
    sizes = [1000 if i % 7 == 0 else 10 for i in range(700)]
    for size in sizes:
        name = b.choose()
        assert name is not None
        b.started(name, size)
    loads = [b.pending(str(i)) for i in range(10)]
    assert max(loads) - min(loads) <= 3 * 1000, loads


def test_nobody_is_chosen_from_nothing() -> None:
    for strategy in STRATEGIES:
        assert balancer(strategy).choose() is None


def test_tried_workers_are_passed_over_while_there_are_others() -> None:
    for strategy in STRATEGIES:
        b = balancer(strategy, "a", "b", "c")
        assert {b.choose(frozenset("ab")) for _ in range(30)} == {"c"}
        assert b.choose(frozenset("abc")) in ("a", "b", "c")


@given(
    st.sampled_from(STRATEGIES),
    st.lists(st.tuples(st.sampled_from(["add", "remove", "start"]), st.integers(0, 9))),
)
def test_only_present_workers_are_chosen(
    strategy: str, steps: list[tuple[str, int]]
) -> None:
    b = Balancer(strategy, random.Random(1))
    present: set[str] = set()
    for step, n in steps:
        name = f"w{n}"
        if step == "add":
            b.add(name)
            present.add(name)
        elif step == "remove":
            b.remove(name)
            present.discard(name)
        else:
            b.started(name, n)
        assert len(b) == len(present)
        chosen = b.choose()
        assert chosen in present if present else chosen is None
