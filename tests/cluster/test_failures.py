"""When a request is asked again, as a policy."""

from __future__ import annotations

import errno

import pytest

from llambo9p.cluster.failures import Failures, is_hosts, is_workers_fault
from llambo9p.errors import (
    Busy,
    ConnectionLost,
    ContextOverflow,
    Error,
    InvalidArgument,
    NoSpace,
    PermissionDenied,
    RemoteError,
    TimedOut,
    WorkerLost,
)


@pytest.mark.parametrize(
    "error", [WorkerLost(), Busy(), TimedOut(), RemoteError("the step cannot be decoded")]
)
def test_a_failure_of_the_worker_is_tried_again_elsewhere(error: Error) -> None:
    failures = Failures(1)
    failures.add(error, "a", ["a", "b"], 0)
    assert failures.avoided == {"a", "b"}
    assert failures.last is error
    with pytest.raises(type(error)) as told:
        failures.add(error, "c", ["c"], 0)
    assert told.value is error


def test_the_requests_own_fault_is_told_at_once() -> None:
    remote = RemoteError("no such token: 3000")
    remote.errno = errno.EINVAL
    for error in (InvalidArgument("grammar"), ContextOverflow(), remote):
        with pytest.raises(type(error)) as told:
            Failures(3).add(error, "a", ["a"], 5)
        assert told.value is error


def test_what_a_worker_that_is_well_says_is_no_fault_of_it() -> None:
    remote = RemoteError("the prompt has 900 tokens, the context holds 64")
    assert is_workers_fault(remote), "its words tell nothing"
    remote.errno = errno.EINVAL
    well = (remote, ContextOverflow(), PermissionDenied(), Busy(), NoSpace(), ConnectionLost())
    for error in well:
        assert not is_workers_fault(error)
    for error in (WorkerLost(), TimedOut(), RemoteError("the step cannot be decoded")):
        assert is_workers_fault(error)


def test_what_one_host_has_no_room_for_is_asked_of_one_other() -> None:
    assert is_hosts(NoSpace()) and not is_hosts(Busy())
    failures = Failures(3)
    failures.add(NoSpace(), "a", ["a", "b"], 5)
    assert failures.avoided == {"a", "b"}
    failures.add(Busy(), "c", ["c"], 5)
    failures.add(NoSpace(), "d", ["d"], 5)
    with pytest.raises(NoSpace, match="history"):
        failures.add(NoSpace("history"), "e", ["e"], 5)


def test_failures_count_in_a_row_without_a_new_token() -> None:
    failures = Failures(2)
    for tokens in range(10):
        failures.add(WorkerLost(), "a", ["a"], tokens)
        failures.add(WorkerLost(), "b", ["b"], tokens)
        assert failures.avoided == {"a", "b"}
    with pytest.raises(WorkerLost, match="c was lost in the middle of the answer: .* is lost"):
        failures.add(WorkerLost(), "c", ["c"], 9)


def test_without_retries_the_first_failure_is_told() -> None:
    for counts in (False, True):
        with pytest.raises(Busy):
            Failures(0).add(Busy(), "a", ["a"], 0, counts)


def test_a_failure_before_the_worker_began_does_not_count_unless_there_are_new_tokens() -> None:
    failures = Failures(1)
    for name in "abc":
        failures.add(WorkerLost(), name, [name], 0, counts=False)
    assert failures.avoided == {"a", "b", "c"}
    failures.add(WorkerLost(), "d", ["d"], 0)
    failures.add(WorkerLost(), "e", ["e"], 3, counts=False)
    with pytest.raises(WorkerLost):
        failures.add(WorkerLost(), "f", ["f"], 3)
    with pytest.raises(InvalidArgument):
        Failures(1).add(InvalidArgument("grammar"), "a", ["a"], 0, counts=False)
