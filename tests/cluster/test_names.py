"""Which names hosts' workers get: distinct, and their own where that can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster.names import Promises, assign, assign_again, first_free
from llambo9p.conversation.worker_names import number_of, worker_name


def named(*numbers: int) -> list[str]:
    return [worker_name(number) for number in numbers]


def test_a_host_that_is_alone_keeps_its_names() -> None:
    own = named(3, 4)
    assert assign(own, lambda name: True) == {name: name for name in own}


def test_the_second_host_gets_the_next_numbers_in_a_row() -> None:
    taken = set(named(0, 1, 3))
    names = assign(named(0, 1), lambda name: name not in taken)
    assert list(names.values()) == named(4, 5)


def test_a_wish_is_granted_if_it_is_free_and_else_the_own_numbers() -> None:
    assert list(assign(named(0, 1), lambda name: True, 8).values()) == named(8, 9)
    names = assign(named(0, 1), lambda name: name != "worker-0009", 8)
    assert list(names.values()) == named(0, 1)


def test_other_names_stay() -> None:
    assert assign(["region1"], lambda name: False) == {"region1": "region1"}
    assert number_of("worker-12") is None and number_of("worker-10000") == 10_000


numbers = st.sets(st.integers(0, 60), max_size=30)


@given(numbers, numbers, st.none() | st.integers(0, 60))
def test_names_are_distinct_free_and_in_order(
    there: set[int], taken: set[int], first: int | None
) -> None:
    here = set(named(*taken))
    names = assign(named(*there), lambda name: name not in here, first)
    assert set(names) == set(named(*there))
    assert len(set(names.values())) == len(there) and not here & set(names.values())
    assert sorted(names, key=names.__getitem__) == sorted(names)


def test_a_host_that_comes_back_with_more_workers_has_its_names_and_others() -> None:
    """One of which would have been that of another of its own."""
    had = {"worker-0000": "worker-0002"}
    here = set(named(0, 1))
    names = assign_again(named(0, 1, 2), had, lambda name: name not in here)
    assert list(names.values()) == named(2, 3, 4)


@given(numbers, numbers, st.dictionaries(st.integers(0, 60), st.integers(0, 60)))
def test_names_are_distinct_for_those_that_come_back(
    there: set[int], taken: set[int], before: dict[int, int]
) -> None:
    here = set(named(*taken))
    inverse = {number: name for name, number in before.items()}  # each had a name of its own
    had = {worker_name(name): worker_name(number) for number, name in inverse.items()}
    names = assign_again(named(*there), had, lambda name: name not in here)
    assert set(names) == set(named(*there))
    assert len(set(names.values())) == len(there) and not here & set(names.values())
    for name in set(names) & set(had):
        assert names[name] == had[name] or had[name] in here


@given(st.integers(1, 20), numbers)
def test_the_first_free_numbers_are_the_first(count: int, taken: set[int]) -> None:
    def fits(first: int) -> bool:
        return not taken & set(range(first, first + count))

    first = first_free(count, lambda name: number_of(name) not in taken)
    assert first == next(n for n in range(100) if fits(n))


def test_a_promised_name_is_for_one_host_until_the_promise_ends() -> None:
    promises = Promises()
    with promises.kept({"worker-0000": "host-0000"}), promises.kept({"worker-0001": "host-0001"}):
        assert promises.allow("worker-0000", "host-0000")
        assert not promises.allow("worker-0000", "host-0001")
        assert not promises.allow("worker-0000", None), "which was not started here"
        assert promises.allow("worker-0002", None)
    assert promises.allow("worker-0000", None)
