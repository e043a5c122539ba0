"""Whom a host can have begun with, as a policy, against a host that does begin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster.turns import Turns
from llambo9p.cluster.waiting import WaitingQueue


class Slots:
    """What a host does: `taken` of its slots are others'."""

    def __init__(self, slots: int, taken: int) -> None:
        self.free = slots - taken
        self.begun: list[int] = []
        self.queue: WaitingQueue[int] = WaitingQueue()

    def step(self) -> None:
        for item in self.queue:
            if len(self.begun) < self.free:
                self.queue.remove(item)
                self.begun.append(item)

    def end(self, item: int) -> None:
        self.queue.remove(item)
        if item in self.begun:
            self.begun.remove(item)


@given(st.integers(1, 4), st.integers(0, 4), st.data())
def test_whoever_is_in_line_was_not_begun(slots: int, taken: int, data: st.DataObject) -> None:
    host = Slots(slots, min(slots, taken))
    turns: Turns[int] = Turns()
    there: set[int] = set()
    for item in range(data.draw(st.integers(0, 20))):
        priority = data.draw(st.integers(-2, 0))
        turns.told(item, item, priority, slots)
        host.queue.add(item, item, priority)
        there.add(item)
        host.step()
        if data.draw(st.booleans()):
            over = data.draw(st.sampled_from(sorted(there)))
            turns.ended(over, slots)
            host.end(over)
            there.remove(over)
            host.step()
        can = {each for each in there if turns.can_have_begun(each)}
        assert can >= set(host.begun)
        assert all(turns.is_in_line(each) for each in there - can)
        assert len(can) == min(slots, len(there)), "and no more than have a slot"
        if not taken:
            assert can == set(host.begun)


def test_nobody_moves_up_when_the_host_fails() -> None:
    turns: Turns[str] = Turns()
    for item in ("first", "second", "third"):
        turns.told(item, 0, 0, slots=1)
    assert not turns.can_have_begun("never told")
    for item in ("first", "second"):
        assert turns.can_have_begun(item) == (item == "first")
        turns.failed(item)
    assert not turns.can_have_begun("third")
    turns.told("fourth", 1, 0, slots=1)
    assert turns.can_have_begun("third"), "for it was not over after all"


def test_who_is_seen_to_have_begun_has() -> None:
    turns: Turns[str] = Turns()
    turns.told("first", 0, 0, slots=1)
    turns.told("second", 0, 0, slots=1)
    turns.begun("second")
    turns.begun("never told")
    assert turns.can_have_begun("second") and not turns.can_have_begun("never told")
