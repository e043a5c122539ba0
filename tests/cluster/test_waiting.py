"""The queue of those who wait for a worker, as a policy: no clock, no cluster."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster.waiting import WaitingQueue
from llambo9p.engine.scheduler import PATIENCE

ARRIVALS = st.lists(st.tuples(st.floats(0, 100), st.integers(-10, 0)), max_size=30)


@given(ARRIVALS)
def test_who_waits_longer_is_first_and_each_step_of_priority_is_patience(
    arrivals: list[tuple[float, int]],
) -> None:
    queue: WaitingQueue[int] = WaitingQueue(100)
    for item, (since, priority) in enumerate(arrivals):
        queue.add(item, since, priority)

    def due(item: int) -> float:
        since, priority = arrivals[item]
        return since - priority * PATIENCE

    assert list(queue) == sorted(range(len(arrivals)), key=lambda item: (due(item), item))


@given(ARRIVALS, st.data())
def test_positions_count_from_one_and_are_told_when_they_change(
    arrivals: list[tuple[float, int]], data: st.DataObject
) -> None:
    queue: WaitingQueue[int] = WaitingQueue(100)
    told: dict[int, int] = {}
    for item, (since, priority) in enumerate(arrivals):
        queue.add(item, since, priority)
        if data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(list(queue)))
            queue.remove(gone)
            told.pop(gone, None)
        for moved, position in queue.moved():
            assert told.get(moved) != position
            told[moved] = position
        assert [told[item] for item in queue] == list(range(1, len(queue) + 1))
        assert queue.moved() == []


def test_it_is_full_at_its_limit_and_who_was_admitted_may_come_back() -> None:
    queue: WaitingQueue[str] = WaitingQueue(2)
    queue.add("a", 1.0, 0)
    assert not queue.is_full
    queue.add("b", 2.0, 0)
    assert queue.is_full
    queue.add("was here before both", 0.0, 0)
    assert list(queue) == ["was here before both", "a", "b"]
    queue.remove("nobody")
    for item in queue:
        queue.remove(item)
    assert len(queue) == 0 and "a" not in queue
