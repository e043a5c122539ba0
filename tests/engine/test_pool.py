"""Threads that do users' jobs by turns."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, wait

import pytest

from llambo9p.engine.pool import Pool


class Doors:
    """Jobs that wait until they are let go, and the order in which they began."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self._lock = threading.Condition()
        self._open: set[str] = set()

    def job(self, name):
        def run(_):
            with self._lock:
                self.began.append(name)
                self._lock.notify_all()
                self._lock.wait_for(lambda: name in self._open)
            return name

        return run

    def let_go(self, *names):
        with self._lock:
            self._open |= set(names)
            self._lock.notify_all()

    def wait_for(self, count):
        with self._lock:
            assert self._lock.wait_for(lambda: len(self.began) >= count, 10)


@pytest.fixture
def doors():
    return Doors()


def test_users_take_turns_and_one_user_goes_by_arrival(doors):
    pool = Pool("test", 1, lambda: None)
    first = pool.submit(doors.job("a0"), "a")
    doors.wait_for(1)
    jobs = [pool.submit(doors.job(name), name[0]) for name in ("a1", "a2", "a3", "b1", "c1", "b2")]
    doors.let_go("a0", "a1", "a2", "a3", "b1", "b2", "c1")
    wait([first, *jobs])
    assert doors.began == ["a0", "a1", "b1", "c1", "a2", "b2", "a3"]
    assert first.result() == "a0"
    pool.close()


def test_one_user_leaves_a_thread_to_the_others(doors):
    pool = Pool("test", 2, lambda: None, per_user=1)
    jobs = [pool.submit(doors.job(f"a{i}"), "a") for i in range(5)]
    doors.wait_for(1)
    other = pool.submit(doors.job("b0"), "b")
    doors.wait_for(2)
    assert doors.began == ["a0", "b0"]
    doors.let_go("b0")
    assert other.result(10) == "b0"
    assert doors.began == ["a0", "b0"]
    doors.let_go(*(f"a{i}" for i in range(5)))
    wait(jobs)
    assert doors.began == ["a0", "b0", *(f"a{i}" for i in range(1, 5))]
    pool.close()


def test_a_thread_has_its_own_state_which_ends_with_it(doors):
    made, ended = [], []

    def make():
        made.append(object())
        return made[-1]

    pool = Pool("test", 2, make, ended.append)
    assert not made
    jobs = [pool.submit(doors.job(str(i)), str(i)) for i in range(2)]
    doors.wait_for(2)
    doors.let_go("0", "1")
    wait(jobs)
    assert pool.submit(lambda state: state in made).result(10)
    pool.close()
    assert len(made) == 2 and set(map(id, made)) == set(map(id, ended))


def test_a_job_that_was_cancelled_is_not_done_and_one_that_raises_harms_no_other(doors):
    pool = Pool("test", 1, lambda: None)
    first = pool.submit(doors.job("first"))
    doors.wait_for(1)
    cancelled = pool.submit(doors.job("cancelled"))
    wrong = pool.submit(lambda _: 1 // 0)
    last = pool.submit(lambda _: "last")
    assert cancelled.cancel()
    doors.let_go("first")
    assert last.result(10) == "last" and first.result() == "first"
    with pytest.raises(ZeroDivisionError):
        wrong.result()
    assert doors.began == ["first"]
    pool.close()


def test_the_end_cancels_what_waits_and_waits_for_what_runs(doors):
    pool = Pool("test", 1, lambda: None)
    runs = pool.submit(doors.job("runs"))
    doors.wait_for(1)
    waits = pool.submit(doors.job("waits"))
    closing = threading.Thread(target=pool.close)
    closing.start()
    with pytest.raises(CancelledError):
        waits.result(10)
    assert not runs.done()
    doors.let_go("runs")
    closing.join(10)
    assert runs.result() == "runs"
    assert pool.submit(doors.job("late")).cancelled()


def test_a_large_stack_is_the_pools_alone():
    before = threading.stack_size()
    pool = Pool("test", 1, lambda: None, stack=64 << 20)

    def deep(n):
        return n and 1 + deep(n - 1)

    assert pool.submit(lambda _: deep(500)).result(10) == 500
    assert threading.stack_size() == before
    pool.close()
