"""What went wrong with one request, and whether it is asked again: a pure policy.

What is the request's own fault (a bad argument, no permission, what the worker does not
support) would fail everywhere and is told at once.  All else is a worker's: it was lost, is
busy, makes no progress, was stopped by somebody else, or cannot decode.  Then the request
goes on elsewhere.  `max_retries` counts failures in a row without a new token: an answer
that grows between them can outlive any number, and has an end because it grows.

Workers that failed are avoided where others can be had, until there is a new token.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from ..errors import Error, WorkerLost

_OWN_FAULT = {errno.EINVAL, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP}


class Failures:
    """Of one request."""

    def __init__(self, max_retries: int) -> None:
        self.avoided: frozenset[str] = frozenset()
        """names of workers"""
        self.last: Error | None = None
        self._max_retries = max_retries
        self._in_a_row = 0
        self._tokens = 0

    def add(self, error: Error, worker: str, avoid: Iterable[str], tokens: int) -> None:
        """`worker` failed; `avoid` it and those that share its fate.  The answer has so many
        tokens.  Raises what the request fails with if that was all."""
        if error.errno in _OWN_FAULT:
            raise error
        if tokens:
            error = WorkerLost(f"{worker} was lost in the middle of the answer: {error}")
        if tokens > self._tokens:
            self._tokens = tokens
            self._in_a_row = 0
            self.avoided = frozenset()
        self._in_a_row += 1
        self.avoided |= frozenset(avoid)
        self.last = error
        if self._in_a_row > self._max_retries:
            raise error
