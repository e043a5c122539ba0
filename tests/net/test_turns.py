"""Whose messages are handled when: the rotation of users, and what a turn of the loop may take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.net.turns import SLICE_S, TURN_S, Rotation, Turns


@dataclass(eq=False)
class Waiter:
    whose: str


@given(st.lists(st.sampled_from("abc"), max_size=30), st.data())
def test_9_users_take_turns_and_a_user_s_connections_come_in_their_order(
    users: list[str], data: st.DataObject
) -> None:
    rotation: Rotation[Waiter] = Rotation()
    waiters = [Waiter(user) for user in users]
    for waiter in waiters:
        rotation.add(waiter)
        rotation.add(data.draw(st.sampled_from(waiters[: waiters.index(waiter) + 1])))
    assert rotation.waiting == set(waiters)
    order = [rotation.next() for _ in waiters]
    assert not rotation.waiting
    for user in "abc":
        assert [w for w in order if w.whose == user] == [w for w in waiters if w.whose == user]
    for place, waiter in enumerate(order):
        # before anybody's turn each other user had one more turn than he had, at most
        before = [w.whose for w in order[:place]]
        mine = before.count(waiter.whose)
        assert all(before.count(user) <= mine + 1 for user in set(before))


class World:
    """A clock that moves only when a message is handled, and a loop of turns."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: deque[Callable[[], None]] = deque()
        self.turns = Turns(self.soon.append, lambda: self.now)
        self.handled: list[tuple[str, int]] = []

    def turn(self) -> float:
        """One turn of the loop; what it took."""
        before = self.now
        for _ in range(len(self.soon)):
            self.soon.popleft()()
        return self.now - before


@dataclass(eq=False)
class Messages:
    """A connection whose messages take these seconds."""

    world: World
    name: str
    whose: str
    waiting: deque[float] = field(default_factory=deque)
    number: int = 0

    def handle(self, until: float) -> bool:
        while self.waiting:
            self.world.now += self.waiting.popleft()
            self.world.handled.append((self.name, self.number))
            self.number += 1
            if self.world.now >= until:
                break
        return bool(self.waiting)


costs = st.lists(st.sampled_from([0.00001, 0.0005, 0.004, 0.03]), min_size=1, max_size=40)
crowds = st.lists(st.tuples(st.sampled_from("abc"), costs), min_size=1, max_size=12)


@given(crowds)
def test_a_turn_is_bounded_whoever_comes_in_it_and_everything_is_handled_in_order(
    crowd: list[tuple[str, list[float]]],
) -> None:
    world = World()
    connections = [
        Messages(world, str(number), whose, deque(costs))
        for number, (whose, costs) in enumerate(crowd)
    ]
    longest = max(max(costs) for _, costs in crowd)
    for connection in connections:
        world.turns.handle(connection)  # all of them arrive in one turn
    assert world.now <= TURN_S + longest
    while world.soon:
        assert world.turn() <= TURN_S + longest
    for connection in connections:
        numbers = [n for name, n in world.handled if name == connection.name]
        assert numbers == list(range(connection.number))
    assert len(world.handled) == sum(len(costs) for _, costs in crowd)


def test_one_message_of_a_user_waits_for_a_slice_of_each_other_user_and_no_more() -> None:
    world = World()
    for number in range(100):  # of one who has a hundred connections
        world.turns.handle(Messages(world, f"greedy {number}", "greedy", deque([0.001] * 500)))
    world.turn()
    came = world.now
    world.turns.handle(Messages(world, "patient", "patient", deque([0.0001])))
    while ("patient", 0) not in world.handled:
        world.turn()
    assert world.now - came <= TURN_S + SLICE_S + 0.001


def test_who_has_little_to_do_is_handled_when_it_comes() -> None:
    world = World()
    for number in range(100):
        world.turns.handle(Messages(world, str(number), "", deque([0.0001])))
        assert world.handled[-1] == (str(number), 0)
    assert not world.soon


def test_a_connection_that_fails_leaves_the_others_their_turns() -> None:
    class Bad(Messages):
        def handle(self, until: float) -> bool:
            raise RuntimeError

    world = World()
    world.turns.handle(Messages(world, "slow", "a", deque([1.0, 0.001])))
    world.turns.handle(Bad(world, "bad", "b"))
    world.turns.handle(Messages(world, "good", "c", deque([0.001])))
    while world.soon:
        try:
            world.turn()
        except RuntimeError:
            pass
    assert [name for name, _ in world.handled] == ["slow", "slow", "good"]
