"""Whom a host can have begun with, as a policy, against a host that does begin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster.turns import Turns
from llambo9p.engine.fair import WAIT, FairQueue


class Host:
    """What a host does: `taken` of its slots are others'."""

    def __init__(self, slots: int, taken: int) -> None:
        self.slots = slots
        self.queue: FairQueue[int] = FairQueue()
        self.running: list[int] = []
        self.begun: set[int] = set()
        """and not over"""
        for stranger in range(-taken, 0):
            self.queue.add(stranger, "stranger", 0, 0)
            self.give(stranger)

    def give(self, item: int | None) -> None:
        assert item is not None
        self.queue.take(item)
        self.running.append(item)
        self.begun.add(item)

    def step(self, now: float) -> None:
        exchange = self.queue.exchange(now, lambda item: True)
        if len(self.running) == self.slots and exchange is not None:
            claim, item = exchange
            self.queue.interrupt(item, now)
            self.running.remove(item)
            self.give(claim)
        while len(self.running) < self.slots and len(self.queue):
            self.give(self.queue.next())

    def end(self, item: int, now: float) -> None:
        self.queue.remove(item, now)
        self.begun.discard(item)
        if item in self.running:
            self.running.remove(item)


@given(
    st.integers(1, 4),
    st.integers(0, 4),
    st.sampled_from(["a", "ab", "abc"]),
    st.integers(-2, 0),
    st.data(),
)
def test_whoever_is_in_line_was_not_begun(
    slots: int, taken: int, users: str, lowest: int, data: st.DataObject
) -> None:
    """Nor with a user's slot that another user got, however often."""
    taken = min(slots, taken)
    host = Host(slots, taken)
    turns: Turns[int] = Turns()
    there: dict[int, str] = {}
    now = 0.0
    for item in range(data.draw(st.integers(0, 20))):
        now += data.draw(st.sampled_from([0.1, WAIT]))
        priority = data.draw(st.integers(lowest, 0))
        user = there[item] = data.draw(st.sampled_from(users))
        turns.told(item, user, now, priority, slots)
        host.queue.add(item, user, now, priority)
        host.step(now)
        if data.draw(st.booleans()):
            over = data.draw(st.sampled_from(sorted(there)))
            turns.ended(over, slots)
            host.end(over, now)
            del there[over]
            host.step(now)
        can = {each for each in there if turns.can_have_begun(each)}
        assert can >= host.begun & there.keys()
        assert all(turns.is_in_line(each) for each in there.keys() - can)
        for user in users:
            of = [each for each in there if there[each] == user]
            assert len(can & set(of)) >= min(slots, len(of))
            assert lowest or len(can & set(of)) <= slots, "and no more than have a slot"
        if not taken and len(users) == 1 and not lowest:
            assert can == host.begun
    for item in there:
        turns.failed(item)
    assert not turns._lines and not turns._told and not turns._begun


def test_nobody_moves_up_when_the_host_fails() -> None:
    turns: Turns[str] = Turns()
    for item in ("first", "second", "third"):
        turns.told(item, "a", 0, 0, slots=1)
    assert not turns.can_have_begun("never told")
    for item in ("first", "second"):
        assert turns.can_have_begun(item) == (item == "first")
        turns.failed(item)
    assert not turns.can_have_begun("third")
    turns.told("fourth", "a", 1, 0, slots=1)
    assert turns.can_have_begun("third"), "for it was not over after all"


def test_who_is_seen_to_have_begun_has() -> None:
    turns: Turns[str] = Turns()
    turns.told("first", "a", 0, 0, slots=1)
    turns.told("second", "a", 0, 0, slots=1)
    turns.begun("second")
    turns.begun("never told")
    turns.ended("never told", slots=1)
    assert turns.can_have_begun("second") and not turns.can_have_begun("never told")


def test_of_each_user_the_first_can_have_begun() -> None:
    turns: Turns[str] = Turns()
    for item in ("a1", "a2", "b1", "b2"):
        turns.told(item, item[0], 0, 0, slots=1)
    assert [turns.can_have_begun(item) for item in ("a1", "a2", "b1", "b2")] == [
        True, False, True, False
    ]  # fmt: skip
