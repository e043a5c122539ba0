"""What clients may have in a process, and who has how much of it.

A `Quota` counts one thing; whoever takes of it gives back the same when he is done.  One
that is full refuses, naming itself and whose it is, and nothing is taken then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..errors import Busy, Error, NoSpace

_MB = 2**20


class Quota:
    """At most `limit` of something in all, and `per_user` of each user but `free`, who may
    have what there is."""

    __slots__ = ("_error", "_of", "_what", "free", "limit", "per_user", "used")

    def __init__(
        self,
        what: str,
        error: type[Error],
        *,
        limit: int | None = None,
        per_user: int | None = None,
        free: str | None = None,
    ) -> None:
        """`what` is a plural that can follow a number; None is no limit."""
        self.limit = limit
        self.per_user = per_user
        self.free = free
        self.used = 0
        self._what = what
        self._error = error
        self._of: Counter[str] = Counter()

    def take(self, count: int, user: str) -> None:
        """Raises the quota's error, and takes nothing, when that would be too much."""
        self.check(count, user)
        self.add(count, user)

    def check(self, count: int, user: str) -> None:
        """Raises the quota's error when `count` more would be too much."""
        if self.limit is not None and self.used + count > self.limit:
            raise self._refusal(self.limit, "all clients")
        if self._bounds(user, count):
            raise self._refusal(self.per_user, user or "one user")

    def add(self, count: int, user: str) -> None:
        """Take in any case."""
        self.used += count
        if count:
            self._of[user] += count

    def give_back(self, count: int, user: str) -> None:
        self.used -= count
        self._of[user] -= count
        if not self._of[user]:
            del self._of[user]

    def is_over(self, user: str) -> bool:
        """Whether the user must give something back: he has more than he may take, or all
        have and he is one of those who have more than their part."""
        if self.limit is not None and self.used > self.limit:
            return self._of[user] * len(self._of) >= self.used
        return self._bounds(user, 0)

    def excess(self, user: str) -> int:
        """How much the user must give back, roughly: never more than makes `is_over` false, but
        for what others give back or take."""
        excess = 0
        if self.per_user is not None and user != self.free:
            excess = self._of[user] - self.per_user
        if self.limit is not None and self._of:
            above = self._of[user] - self.used // len(self._of)
            excess = max(excess, min(self.used - self.limit, above))
        return max(excess, 0)

    def _bounds(self, user: str, count: int) -> bool:
        if self.per_user is None or user == self.free:
            return False
        return self._of[user] + count > self.per_user

    def _refusal(self, limit: int | None, whose: str) -> Error:
        return self._error(f"{self._error.ename}: more than {limit} {self._what} of {whose}")


def buffer(limit: int = 256 * _MB, per_user: int | None = None) -> Quota:
    return Quota("bytes of prompts not yet asked", NoSpace, limit=limit, per_user=per_user)


def kept(limit: int = 2048 * _MB, per_user: int | None = None) -> Quota:
    return Quota("bytes of histories, prompts and open texts", NoSpace,
                 limit=limit, per_user=per_user)  # fmt: skip


def clones(per_user: int = 10_000) -> Quota:
    return Quota("cloned conversations", Busy, per_user=per_user)


def requests(per_user: int | None = None, free: str | None = None) -> Quota:
    return Quota("unfinished requests", Busy, per_user=per_user, free=free)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one conversation may hold, and the quotas that it shares with others."""

    prompt_bytes: int = 8 * _MB
    """of one prompt or system prompt that is being written"""
    queued_prompts: int = 64
    """behind the running one"""
    history_bytes: int = 16 * _MB
    """of all messages, MESSAGE_BYTES of each beside its text; older turns are forgotten, or
    with `overflow error` the next prompt is refused"""
    buffer: Quota = field(default_factory=buffer)
    kept: Quota = field(default_factory=kept)
    clones: Quota = field(default_factory=clones)
    requests: Quota = field(default_factory=requests)
