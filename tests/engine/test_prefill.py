"""Which prompts are read when, and how much of them, by the times that steps took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.engine.prefill import (
    CHUNK_MIN,
    CROWD_PROMPTS,
    STALL,
    STALL_PROMPTS,
    Prefill,
    Waiting,
    _in_turn,
)

ROW = 1 / 512


def budget(prompts=1):
    return Reader().prefill.budget(prompts)


class Reader:
    """Prompts that came at 0, and the times of a machine on which a token takes `row` seconds.
    Of those who decode the first one had his first token at `began`.  Steps end at each multiple of
    `every` tokens of a prompt."""

    def __init__(self, *sizes, chunk=512, row=ROW, began=-1.0, now=0.0, every=None):
        self.left = dict(enumerate(sizes))
        self.sizes = dict(self.left)
        self.every = every
        self.row = row
        self.began = began
        self.now = now
        self.prefill = Prefill(chunk, STALL, 0.0)
        for _ in range(30):
            self.prefill.read(64, 64 * row)

    def step(self):
        """The pieces that are read, as a dict; empty when those who decode had their step."""
        waiting = [
            Waiting(key, left, left, key, 0.0, room=self.room(key))
            for key, left in self.left.items()
            if left
        ]
        pieces = dict(self.prefill.next(waiting, self.now, self.began))
        for key, tokens in pieces.items():
            assert 0 < tokens <= self.left[key] and tokens <= (self.room(key) or tokens)
            self.left[key] -= tokens
        return pieces

    def room(self, key):
        if self.every is None:
            return None
        return self.every - (self.sizes[key] - self.left[key]) % self.every

    def until_decoding(self):
        """The steps that are read until those who decode are next."""
        steps = []
        while pieces := self.step():
            steps.append(pieces)
            assert len(steps) < 1000
        return steps


def test_prompts_are_read_one_after_the_other_the_shortest_first():
    assert Reader(70, 50, 60).until_decoding() == [{1: 50}, {2: 60}, {0: 70}]


def test_short_ones_are_read_together():
    assert Reader(8, 9, 70).until_decoding() == [{0: 8, 1: 9}, {2: 70}]


def test_who_decodes_waits_as_long_as_the_prompts_that_are_read_may_hold_him_up():
    alone = Reader(4000).until_decoding()
    assert alone == [{0: budget()}]
    crowd = Reader(*[100] * 10).until_decoding()
    left = budget(STALL_PROMPTS) - 300
    assert crowd == [{0: 100}, {1: 100}, {2: 100}, {3: left}]


def test_who_has_waited_is_read_together_with_others():
    assert Reader(*[50] * 3, now=50 * ROW).step() == {0: 50}
    assert Reader(*[50] * 3, now=210 * ROW).step() == {0: 50, 1: 50}
    assert Reader(*[50] * 9, now=410 * ROW).step() == dict.fromkeys(range(4), 50)


def test_those_who_came_together_have_their_first_tokens_first():
    crowd = Reader(*[100] * (CROWD_PROMPTS - 1), began=-STALL)
    assert len(crowd.until_decoding()) == CROWD_PROMPTS - 1
    assert not any(crowd.left.values())


def test_what_a_crowd_may_read_has_a_bound_and_so_has_each_step():
    crowd = Reader(*[4000] * 20, began=0.1)
    steps = crowd.until_decoding()
    assert sum(sum(step.values()) for step in steps) == crowd.prefill.budget(20, True)
    assert crowd.prefill.budget(20, True) == pytest.approx(CROWD_PROMPTS * STALL / ROW, abs=2)
    assert all(sum(step.values()) <= 512 for step in steps)


def test_half_is_the_first_ones():
    reader = Reader(4000, *[40] * 20)
    steps = reader.until_decoding()
    assert steps == [*({i: 40} for i in range(1, 5)), {0: budget(STALL_PROMPTS) - 160}]
    assert sum(sum(step.values()) for step in steps) == budget(STALL_PROMPTS)


def test_nobody_waits_where_nobody_decodes():
    reader = Reader(4000, 100, began=None)
    assert [reader.step() for _ in range(3)] == [{1: 100}, {0: budget()}, {0: budget()}]


@pytest.mark.parametrize("left", [1, CHUNK_MIN - 1])
def test_no_crumb_is_left(left):
    most = budget()
    assert Reader(most + left).until_decoding() == [{0: most + left}]
    assert Reader(most + CHUNK_MIN).until_decoding() == [{0: most}]


def test_what_somebody_waits_for_is_read_before_the_rest():
    prefill = Prefill(512, None, 0.0)
    waiting = [Waiting("long", 400, 30, 0, 0.0), Waiting("short", 40, 40, 1, 0.0)]
    assert prefill.next(waiting, 0.0, -1.0) == [("long", 30), ("short", 40)]


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=12),
    st.sampled_from([1, 16, 100, 512]),
    st.sampled_from([1e-6, 1e-4, ROW, 0.05]),
    st.sampled_from([-1.0, 0.1]),
)
def test_the_first_one_goes_on_before_each_step_of_those_who_decode(sizes, chunk, row, began):
    reader = Reader(*sizes, chunk=chunk, row=row, began=began)
    while any(reader.left.values()):
        first = min(key for key, left in reader.left.items() if left)
        before = reader.left[first]
        budget = reader.prefill.budget(1)
        steps = reader.until_decoding()
        read = sum(sum(step.values()) for step in steps)
        assert before - reader.left[first] >= min(before, budget // 2 - CHUNK_MIN)
        assert all(sum(step.values()) <= chunk for step in steps)
        assert read < reader.prefill.budget(len(sizes), began >= 0) + 2 * CHUNK_MIN


def test_a_users_first_prompt_comes_before_anothers_second():
    waiting = [
        Waiting(key, tokens, tokens, since, 0.0, user)
        for since, (key, tokens, user) in enumerate(
            [("first", 2000, "a"), ("short", 30, "a"), ("shorter", 20, "a"), ("b", 200, "b")]
        )
    ]
    assert [each.key for each in _in_turn(waiting)] == ["shorter", "b", "short", "first"]


@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=6),
    st.integers(1, 300),
    st.none() | st.just(-1.0),
)
def test_no_step_goes_beyond_where_it_has_to_end(sizes, every, began):
    reader = Reader(*sizes, every=every, began=began)
    ends = {key: set() for key in reader.left}
    for _ in range(10_000):
        for key in reader.step():
            ends[key].add(reader.sizes[key] - reader.left[key])
        if not any(reader.left.values()):
            break
    for key, size in reader.sizes.items():
        assert ends[key] >= {size, *range(every, size, every)}
