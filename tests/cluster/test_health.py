"""Thresholds, patience and circuits, given the time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster.health import (
    FAILURES,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    Breaker,
    Circuit,
    Health,
    Pulse,
    Rules,
)

RULES = Rules(interval=1.0, healthy_threshold=2, unhealthy_threshold=3, patience=10.0)


def test_one_missed_heartbeat_degrades_and_enough_in_time_heal() -> None:
    pulse = Pulse(RULES, 0.0)
    pulse.missed(1.0)
    assert pulse.health is Health.DEGRADED
    pulse.answered(1.5)  # late: it does not count as one in time
    pulse.answered(2.5)
    assert pulse.health is Health.DEGRADED
    pulse.answered(3.5)
    assert pulse.health is Health.HEALTHY


def test_a_host_is_lost_when_it_missed_often_and_was_silent_for_long() -> None:
    pulse = Pulse(RULES, 0.0)
    for now in range(1, 10):
        pulse.missed(float(now))
        assert pulse.health is Health.DEGRADED, "patience is not over"
    pulse.missed(10.0)
    assert pulse.health is Health.LOST


def test_long_silence_alone_is_no_loss() -> None:
    """Our own event loop may have slept."""
    pulse = Pulse(RULES, 0.0)
    pulse.missed(60.0)
    pulse.missed(61.0)
    assert pulse.health is Health.DEGRADED
    pulse.missed(62.0)
    assert pulse.health is Health.LOST


@given(
    st.lists(st.booleans(), max_size=200),
    st.integers(1, 5),
    st.integers(1, 5),
    st.floats(0, 30),
)
def test_health_is_what_the_last_rows_say(
    beats: list[bool], healthy: int, unhealthy: int, patience: float
) -> None:
    """Against the rules, said anew: of the last row of missed ones and of those in time."""
    pulse = Pulse(Rules(1.0, healthy, unhealthy, patience), 0.0)
    heard = now = 0.0
    missed = in_time = 0
    well = True
    for answered in beats:
        now += 1.0
        if answered:
            in_time, missed, heard = (in_time + 1 if not missed else 0), 0, now
            well = well or in_time >= healthy
            pulse.answered(now)
        else:
            missed, in_time, well = missed + 1, 0, False
            pulse.missed(now)
            if missed >= unhealthy and now - heard >= patience:
                assert pulse.health is Health.LOST
                return
        assert pulse.health is (Health.HEALTHY if well else Health.DEGRADED)


def open_breaker(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.circuit(now) is Circuit.CLOSED
        breaker.failed(now)
    return breaker


def test_failures_in_a_row_open_a_circuit_and_a_success_between_does_not() -> None:
    breaker = Breaker()
    for _ in range(10):
        for _ in range(FAILURES - 1):
            breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.circuit(0.0) is Circuit.CLOSED
    assert open_breaker().circuit(0.0) is Circuit.OPEN


def test_after_the_pause_one_request_decides() -> None:
    breaker = open_breaker()
    assert breaker.circuit(FIRST_PAUSE_S - 0.1) is Circuit.OPEN
    assert breaker.circuit(FIRST_PAUSE_S) is Circuit.HALF_OPEN
    breaker.failed(FIRST_PAUSE_S)
    assert breaker.until == FIRST_PAUSE_S + 2 * FIRST_PAUSE_S
    assert breaker.circuit(breaker.until) is Circuit.HALF_OPEN
    breaker.succeeded()
    assert breaker.circuit(breaker.until) is Circuit.CLOSED


def test_failures_of_requests_that_were_sent_before_do_not_lengthen_the_pause() -> None:
    breaker = open_breaker()
    until = breaker.until
    for _ in range(50):
        breaker.failed(FIRST_PAUSE_S / 2)
    assert breaker.until == until


@given(st.integers(1, 40))
def test_pauses_double_up_to_the_longest(tries: int) -> None:
    breaker = open_breaker()
    for i in range(1, tries):
        opened = breaker.until
        breaker.failed(opened)
        pause = breaker.until - opened
        assert pause == pytest.approx(min(FIRST_PAUSE_S * 2**i, LONGEST_PAUSE_S))
