"""What went wrong with one request, and whether it is asked again: a pure policy.

What is the request's own fault (a bad argument, no permission, what the worker does not
support) would fail everywhere and is told at once.  All else is a worker's: it was lost, is
busy, makes no progress, was stopped by somebody else, or cannot decode.  Then the request
goes on elsewhere.  `max_retries` counts failures in a row without a new token: an answer
that grows between them can outlive any number, and has an end because it grows.  Only those
count that can be the request's doing: who was in line at a host that failed (`turns`) was as
well off in line here, and whoever makes hosts fail was not in line; and it counts that a host
which lives takes nothing new, for that can go on for ever.  With 0 nothing is asked again at all.

A host that has no room (ENOSPC) has a limit of its own, on one file or on what a user or all
keep there.  Another, whose memory is its own, is asked once: what two say, all would, for the
limits are one configuration's.

Workers that failed are avoided where others can be had, until there is a new token.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from ..errors import ConnectionLost, Error, WorkerLost

_OWN_FAULT = {errno.EINVAL, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP}
_OF_THE_WELL = _OWN_FAULT | {errno.EBUSY, errno.ENOSPC}


def is_workers_fault(error: Error) -> bool:
    """Whether a worker that is well would not have given it, on a connection that is."""
    return error.errno not in _OF_THE_WELL and not isinstance(error, ConnectionLost)


def is_hosts(error: Error) -> bool:
    """Whether the host's other workers would say the same."""
    return error.errno in (errno.ETIMEDOUT, errno.ENOSPC)


class Failures:
    """Of one request."""

    def __init__(self, max_retries: int) -> None:
        self.avoided: frozenset[str] = frozenset()
        """names of workers"""
        self.last: Error | None = None
        self._max_retries = max_retries
        self._in_a_row = 0
        self._tokens = 0
        self._no_room = False
        """said the last one"""

    def add(
        self, error: Error, worker: str, avoid: Iterable[str], tokens: int, counts: bool = True
    ) -> None:
        """`worker` failed, which `counts` or not (see the module); `avoid` it and those
        that share its fate.  The answer has so many tokens.  Raises what the request fails with
        if that was all."""
        no_room = error.errno == errno.ENOSPC
        if error.errno in _OWN_FAULT or (no_room and self._no_room):
            raise error
        self._no_room = no_room
        if tokens:
            error = WorkerLost(f"{worker} was lost in the middle of the answer: {error}")
        if tokens > self._tokens:
            self._tokens = tokens
            self._in_a_row = 0
            self.avoided = frozenset()
            counts = True
        self._in_a_row += counts or not self._max_retries
        self.avoided |= frozenset(avoid)
        self.last = error
        if self._in_a_row > self._max_retries:
            raise error
