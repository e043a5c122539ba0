"""Checkpoints: what they take, who shares them, and which goes when there are many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.engine.checkpoints import MOST, Checkpoints, Ram


def places(points):
    return sorted(point.at for point in points)


def test_the_least_recently_used_makes_room():
    ram = Ram(10)
    gone = []
    for item in "abc":
        assert ram.add(item, 3, lambda item=item: gone.append(item))
    ram.touch("a")
    assert ram.add("d", 4, lambda: None)
    assert (gone, ram.used) == (["b"], 10)
    assert not ram.add("e", 11, lambda: None), "it could never be kept"
    assert gone == ["b"]
    ram.remove("a")
    ram.remove("a")
    assert ram.used == 7


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 12)), max_size=40))
def test_no_more_is_kept_than_there_is_room(items):
    ram = Ram(20)
    kept = {}
    for number, (_, size) in enumerate(items):
        if ram.add(number, size, lambda number=number: kept.pop(number)):
            kept[number] = size
        assert ram.used == sum(kept.values()) <= 20


def test_who_begins_alike_shares():
    ram = Ram(100)
    first, second = Checkpoints(ram), Checkpoints(ram)
    for at in (10, 20, 30):
        first.add(at, 0, 10)
    second.share(first, 20)
    assert (places(second), ram.used) == ([10, 20], 30)
    first.clear()
    assert ram.used == 20, "what only the first one had is gone"
    assert (second.last(19).at, second.last(9)) == (10, None)
    second.clear()
    assert ram.used == 0


def test_what_had_to_go_is_gone_for_all_that_shared_it():
    ram = Ram(30)
    first, second = Checkpoints(ram), Checkpoints(ram)
    first.add(10, 0, 15)
    first.add(20, 0, 15)
    second.share(first, 15)
    assert first.add(30, 0, 15) is not None
    assert (places(first), places(second)) == ([10, 30], [10]), "10 was of use after 20"
    assert first.add(40, 0, 31) is None
    assert ram.used == 30


def test_what_could_not_be_kept_is_not_gone_back_to():
    points = Checkpoints(Ram(100))
    points.add(10, 0, 1)
    points.add(20, 0, 1).cells.failed = True
    assert points.last(25).at == 10


def test_many_are_thinned_out_evenly_but_for_the_newest():
    points = Checkpoints(Ram(1000))
    for at in range(100, 100 * (4 * MOST), 100):
        points.add(at, 0, 1)
    kept = places(points)
    assert len(kept) == MOST
    assert kept[-2:] == [100 * (4 * MOST - 2), 100 * (4 * MOST - 1)]
    gaps = [after - before for before, after in zip([0, *kept], kept, strict=False)]
    assert max(gaps) <= 800
