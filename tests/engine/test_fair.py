"""Turns between users, as a policy: no clock, no engine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.engine.fair import PATIENCE, WAIT, FairQueue

USERS = "abcde"
ARRIVALS = st.lists(st.tuples(st.floats(0, 100), st.integers(-10, 0)), max_size=30)


def taken(queue: FairQueue[int]) -> int:
    item = queue.next()
    assert item is not None
    queue.take(item)
    return item


@given(ARRIVALS)
def test_requests_of_a_user_go_by_arrival_and_each_step_of_priority_is_patience(
    arrivals: list[tuple[float, int]],
) -> None:
    queue: FairQueue[int] = FairQueue()
    for item, (since, priority) in enumerate(arrivals):
        queue.add(item, "a", since, priority)

    def due(item: int) -> float:
        since, priority = arrivals[item]
        return since - priority * PATIENCE

    expected = sorted(range(len(arrivals)), key=lambda item: (due(item), item))
    assert list(queue.in_turn()) == expected
    assert [taken(queue) for _ in arrivals] == expected


@given(st.lists(st.integers(-10, 0), min_size=2, max_size=5), st.integers(1, 300))
def test_shares_are_as_the_weights_within_one_request(priorities: list[int], turns: int) -> None:
    """One slot, for which all users always wait."""
    queue: FairQueue[int] = FairQueue()
    cost = [1 - priority for priority in priorities]
    of: dict[int, int] = {}
    had = [0] * len(cost)

    def ask(user: int) -> None:
        item = len(of)
        of[item] = user
        queue.add(item, USERS[user], item, priorities[user])

    for user in range(len(cost)):
        ask(user)
        ask(user)
    for _ in range(turns):
        item = taken(queue)
        ask(of[item])
        queue.remove(item, 0)
        had[of[item]] += 1
        for i in range(len(cost)):
            for j in range(i):
                assert abs(had[i] * cost[i] - had[j] * cost[j]) <= cost[i] + cost[j]


@dataclass
class Slots:
    """What a host does, at the slowest: an answer takes as long as the test likes."""

    slots: int
    queue: FairQueue[int] = field(default_factory=FairQueue)
    user: dict[int, str] = field(default_factory=dict)
    running: list[int] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    now: float = 0.0

    def ask(self, user: str, priority: int = 0) -> int:
        item = len(self.user)
        self.user[item] = user
        self.queue.add(item, user, self.now, priority)
        return item

    def fill(self) -> None:
        while len(self.running) < self.slots and len(self.queue):
            self.give(self.queue.next())

    def give(self, item: int | None) -> None:
        assert item is not None
        before = Counter(self.user[each] for each in self.running)
        self.queue.take(item)
        waiting = {self.user[each] for each in self.queue.in_turn()}
        if all(self.queue._entries[each].cost == 1 for each in self.user if each in self.there):
            assert all(before[self.user[item]] <= before[user] for user in waiting)
        self.running.append(item)
        if item not in self.begun:
            self.begun.append(item)

    @property
    def there(self) -> set[int]:
        return set(self.queue._entries)

    def end(self, item: int) -> None:
        self.queue.remove(item, self.now)
        if item in self.running:
            self.running.remove(item)

    def interrupt(self) -> int | None:
        """One gives up its slot, if one must."""
        if len(self.running) < self.slots:
            return None
        exchange = self.queue.exchange(self.now, lambda item: True)
        if exchange is None:
            return None
        claim, item = exchange
        self.queue.interrupt(item, self.now)
        self.running.remove(item)
        self.give(claim)
        return item


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(USERS), st.integers(-3, 0)),
        st.integers(0, 40),
        st.floats(0, 3),
        st.just("cancel"),
    ),
    max_size=60,
)


@given(ACTIONS, st.integers(1, 4), st.data())
def test_slots_are_never_idle_and_everybody_ends(
    actions: list[object], slots: int, data: st.DataObject
) -> None:
    host = Slots(slots)
    priority: dict[int, int] = {}
    for action in actions:
        if isinstance(action, tuple):
            priority[host.ask(*action)] = action[1]
        elif isinstance(action, float):
            host.now += action
        elif action == "cancel" and host.there:
            host.end(data.draw(st.sampled_from(sorted(host.there))))
        elif isinstance(action, int) and host.running:
            host.end(host.running[action % len(host.running)])
        interrupted = host.interrupt()
        if interrupted is not None:
            of = host.user[interrupted]
            left = [each for each in host.running if host.user[each] == of]
            assert left or slots == 1, "who has one slot of several keeps it"
            assert all(
                each < interrupted for each in left if priority[each] >= priority[interrupted]
            ), "the newest makes room"
        host.fill()
        assert len(host.running) == min(slots, len(host.there))
        assert len(host.queue) == len(host.there) - len(host.running)
        assert sorted(host.queue.in_turn()) == sorted(host.there - set(host.running))
        # the requests of a user that were begun are the first ones of his that are not over
        for user in USERS:
            begun = [each for each in host.begun if each in host.there and host.user[each] == user]
            assert len(begun) <= slots
    for _ in range(len(host.there)):
        host.end(host.running[0])
        host.fill()
    assert not host.there and not host.queue._users and not host.queue._turns


@given(st.integers(1, 8), st.integers(0, 100), st.integers(0, 3))
def test_a_lone_request_waits_for_one_slot_at_most(slots: int, others: int, over: int) -> None:
    host = Slots(slots)
    for _ in range(others):
        host.ask("a")
    host.fill()
    for item in list(host.running)[:over]:
        host.end(item)
        host.fill()
    host.now = 5.0
    lone = host.ask("b")
    host.fill()
    if len(host.running) == slots and lone not in host.running:
        host.end(host.running[0])
        host.fill()
    assert lone in host.running


@given(st.integers(1, 8), st.integers(1, 100), st.integers(-10, 0))
def test_a_lone_request_has_a_slot_after_it_waited(slots: int, others: int, priority: int) -> None:
    host = Slots(slots)
    for _ in range(others):
        host.ask("a")
    host.fill()
    lone = host.ask("b", priority)
    host.now = WAIT * (1 - priority)
    before = list(host.running)
    interrupted = host.interrupt()
    if others >= slots:
        assert interrupted == before[-1]
        assert host.running == [*before[:-1], lone]
        assert next(host.queue.in_turn()) == interrupted, "which is the next of its user"
        assert host.interrupt() is None, "one is enough"
    else:
        assert interrupted is None


def test_who_has_one_slot_of_several_keeps_it() -> None:
    host = Slots(2)
    for user in "abc":
        host.ask(user)
    host.fill()
    host.now = 100.0
    assert host.interrupt() is None


def test_who_may_not_be_interrupted_is_passed_over() -> None:
    host = Slots(3)
    requests = [host.ask("a") for _ in range(3)]
    host.fill()
    lone = host.ask("b")
    host.now = WAIT
    for may in (2, 1, 0):
        assert host.queue.exchange(WAIT, lambda item, may=may: item <= may) == (lone, requests[may])
    assert host.queue.exchange(WAIT, lambda item: False) is None


def test_one_that_can_wait_for_long_holds_up_no_other_claim() -> None:
    host = Slots(2)
    for _ in range(2):
        host.ask("a")
    host.fill()
    patient = host.ask("b", -10)
    for _ in range(10):  # others have so many turns, in which the patient one comes to be the next
        host.ask("c")
        host.end(host.running[-1])
        host.fill()
    host.end(host.running[-1])
    host.ask("a")
    hers = next(item for item in host.queue.in_turn() if host.user[item] == "a")
    host.queue.take(hers)
    host.running.append(hers)
    lone = host.ask("d")
    assert host.queue.newcomers() == [patient, lone]
    host.now = WAIT
    host.interrupt()
    assert lone in host.running


def test_the_only_slot_goes_to_and_fro() -> None:
    host = Slots(1)
    first, second, third = (host.ask(user) for user in "aba")
    host.fill()
    for now, interrupted in ((0.9, None), (1.0, first), (1.9, None), (2.0, second)):
        host.now = now
        assert host.interrupt() == interrupted
    assert host.running == [first]
    assert list(host.queue.in_turn()) == [second, third]


def test_a_low_priority_has_fewer_slots() -> None:
    host = Slots(12)
    for _ in range(40):
        host.ask("a")
        host.ask("b", -2)
    host.fill()
    for _ in range(20):
        host.end(host.running[0])
        host.fill()
    held = Counter(host.user[item] for item in host.running)
    assert held == {"a": 9, "b": 3}


@given(ACTIONS, st.integers(1, 3))
def test_positions_are_the_turns_and_are_told_when_they_change(
    actions: list[object], slots: int
) -> None:
    host = Slots(slots)
    told: dict[int, int] = {}
    for action in actions:
        if isinstance(action, tuple):
            host.ask(*action)
        elif isinstance(action, int) and host.running:
            host.end(host.running[action % len(host.running)])
        host.fill()
        for moved, position in host.queue.moved():
            assert told.get(moved) != position
            told[moved] = position
        waiting = list(host.queue.in_turn())
        assert sorted(told[item] for item in waiting) == list(range(1, len(waiting) + 1))
        if waiting:
            assert told[waiting[0]] == 1
        assert host.queue.moved() == []
    # with as many slots more, they go in the order that was told
    expected = sorted(host.queue.in_turn(), key=told.__getitem__)
    assert [taken(host.queue) for _ in expected] == expected


@given(st.lists(st.sampled_from(USERS), max_size=30), st.data())
def test_who_is_left_in_a_round_keeps_his_turn(users: list[str], data: st.DataObject) -> None:
    queue: FairQueue[int] = FairQueue()
    for item, user in enumerate(users):
        queue.add(item, user, item)
    got, left = [], []
    for item in queue.in_turn():
        action = data.draw(st.sampled_from(["take", "leave", "remove"]))
        if action == "take":
            queue.take(item)
        elif action == "remove":
            queue.remove(item, 0)
        (left if action == "leave" else got).append(item)
    assert sorted(got + left) == list(range(len(users)))
    assert sorted(queue.in_turn()) == sorted(left)
    for user in USERS:
        of = [item for item in queue.in_turn() if users[item] == user]
        assert of == sorted(of)


def test_what_is_not_there_is_removed_in_peace() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.remove("nobody", 0)
    queue.add("x", "a", 0)
    assert "x" in queue and len(queue) == 1 and not queue.has_slot("a")
    queue.take("x")
    assert "x" not in queue and len(queue) == 0 and queue.has_slot("a")
    assert queue.next() is None and queue.exchange(9, lambda item: True) is None
    queue.remove("x", 0)
    assert not queue.has_slot("a")


def test_new_users_do_not_keep_a_known_one_waiting() -> None:
    """However many come, one after the other."""
    queue: FairQueue[int] = FairQueue()
    queue.add(0, "known", 0)
    queue.add(1, "known", 0)
    for turn in range(2, 1000):
        queue.add(turn, f"new {turn}", turn)
        item = taken(queue)
        queue.remove(item, turn)
        if item == 1:
            return
    raise AssertionError("starved")


class Counted(float):
    """Counts how often it is compared."""

    comparisons = 0

    def __sub__(self, other: float) -> Counted:
        return Counted(float(self) - other)

    def __lt__(self, other: float) -> bool:
        Counted.comparisons += 1
        return float(self) < float(other)


def test_a_turn_costs_the_logarithm_of_what_waits() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(1024):
        queue.add(item, "a", Counted(item))
    Counted.comparisons = 0
    for item in range(1024, 2048):
        queue.remove(item - 500, 0)
        queue.add(item, "a", Counted(item))
        queue.remove(taken(queue), 0)
        queue.add(item + 5000, "a", Counted(item - 300))
    assert 0 < Counted.comparisons / 1024 < 5 * 11
