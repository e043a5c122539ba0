"""Pauses double to the longest, and chance makes them shorter, never longer."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.net.backoff import Backoff


@given(st.floats(0.01, 1), st.floats(1, 100), st.integers(1, 50), st.integers())
def test_pauses_double_to_the_longest(
    first: float, longest: float, tries: int, seed: int
) -> None:
    backoff = Backoff(first, longest, random.Random(seed))
    for i in range(tries):
        whole = min(first * 2**i, longest)
        assert whole / 2 <= backoff.next() <= whole * 1.000001
    backoff.reset()
    assert backoff.next() <= first


def test_two_that_lost_the_same_server_come_back_at_different_times() -> None:
    one, two = Backoff(1, 60, random.Random(1)), Backoff(1, 60, random.Random(2))
    assert [one.next() for _ in range(5)] != [two.next() for _ in range(5)]
