"""When a piece of the decode thread's work takes too long, as a policy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.engine.watchdog import (
    FACTOR,
    LEAST_S,
    LONGEST_LOOK_S,
    LOOK_S,
    ROWS,
    Pace,
    Piece,
    Watchdog,
)

rows = st.integers(0, 2048)
seconds = st.floats(0, 1000)
steps = st.lists(st.tuples(rows, seconds), max_size=20)


@given(steps, rows, seconds)
def test_a_step_may_take_many_times_what_one_like_it_just_took(before, rows, seconds):
    pace = Pace(LEAST_S)
    for step in [*before, (rows, seconds)]:
        pace.took(*step)
    bound = pace.bound(rows)
    assert bound >= LEAST_S
    assert bound >= FACTOR * seconds * 0.999999
    assert bound <= pace.bound(rows + 1) <= pace.bound(2 * max(rows, ROWS))


@given(steps)
def test_the_bound_of_one_that_hung_for_a_while_is_forgotten(before):
    pace = Pace(LEAST_S)
    for step in before:
        pace.took(*step)
    for _ in range(2000):
        pace.took(16, 0.01)
    assert pace.bound(16) == LEAST_S


def test_before_the_first_step_the_bound_goes_by_what_the_load_measured():
    assert Pace(10.0, step=0.01).bound(1) == 10.0
    assert Pace(10.0, step=5.0).bound(1) == FACTOR * 5.0


looks = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 100)), max_size=60)


@given(looks, st.floats(0, 20))
def test_only_a_piece_that_is_worked_on_for_longer_than_its_bound_is_reported(looks, bound):
    """Each look sees a piece, 0 for none, so many seconds after the look before."""
    pieces = [None, *(Piece("a step", bound) for _ in range(3))]
    watchdog = Watchdog()
    now = worked = 0.0
    seen = None
    for number, later in looks:
        now += later
        same = number == seen and number != 0
        worked = worked + min(later, LONGEST_LOOK_S) if same else 0.0
        seen = number
        wrong = watchdog.look(pieces[number], now)
        assert (wrong is not None) == (same and worked > bound + 1e-9) or abs(worked - bound) < 1e-6
        if wrong is not None:
            assert wrong.startswith("a step has not ended after ")


@given(st.floats(0.5, 30))
def test_a_piece_that_hangs_is_found_soon_after_its_bound(bound):
    watchdog, piece = Watchdog(), Piece("a step", bound)
    now = 0.0
    while watchdog.look(piece, now) is None:
        now += LOOK_S
        assert now <= bound + 2 * LOOK_S
    assert now > bound


def test_a_process_that_was_stopped_for_an_hour_has_not_worked():
    watchdog, piece = Watchdog(), Piece("a step", 10.0)
    assert watchdog.look(piece, 0.0) is None
    for look in range(1, 9):
        assert watchdog.look(piece, 3600.0 * look) is None
