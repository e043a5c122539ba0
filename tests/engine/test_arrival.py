"""Requests of a user are passed on in the order in which they came, whatever is ready first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.engine.arrival import Arrival


@given(
    st.lists(st.sampled_from("abc"), max_size=12),
    st.lists(st.tuples(st.sampled_from(["ready", "left"]), st.integers(0, 11)), max_size=30),
)
def test_each_users_requests_are_passed_on_in_order_and_as_soon_as_they_can(users, happenings):
    passed = []
    arrival = Arrival(passed.append)
    for number, user in enumerate(users):
        arrival.came(user, number)
    state = dict.fromkeys(range(len(users)), "waits")
    for what, number in happenings:
        if number >= len(users):
            continue
        if what == "ready":
            arrival.ready(users[number], number, f"{users[number]}{number}")
        else:
            arrival.left(users[number], number)
        is_passed = f"{users[number]}{number}" in passed
        if state[number] == "waits" or (what == "left" and not is_passed):
            state[number] = what
        for user in "abc":
            expected = []
            for other, owner in enumerate(users):
                if owner == user and state[other] != "left":
                    if state[other] == "waits":
                        break
                    expected.append(f"{user}{other}")
            assert [each for each in passed if each[0] == user] == expected
