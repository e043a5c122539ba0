"""Which of the requests that were told to a host it can have begun with: pure.

Users take turns for a host's slots, and an answer may give up its slot to another user and wait
again (see `engine.fair`).  So what one user asked says nothing about another user's requests.
But of one user this is certain:

- Requests are begun in the order of the host's queue: one that came before another, and is due
  before it, is begun before it.
- The next one is begun only when none waits that was begun before, as those go first.  So the host
  has begun at most as many that are not over as it has slots.

So a request was queued there as long as so many others of its user, that are not over, came before
it and were due before it.  What others ask of the host, and how long prompts take to be read, can
only make that later.  When the host itself fails, nobody moves up: it begins with nothing any more.
(What it said last may not have been heard.  It may have begun with the next one after an answer's
end that nobody heard of: `suspects` allows for that.)
"""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Hashable
from typing import Generic, TypeVar

from ..engine.fair import due

_T = TypeVar("_T", bound=Hashable)


class Turns(Generic[_T]):
    """Of one host, whose `slots` may change."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[_T, float]] = {}
        """of each user what is not over, in the order in which it was told, and when it is due"""
        self._told: dict[_T, str] = {}
        """whose they are"""
        self._begun: set[_T] = set()
        """those that can have begun"""

    def told(self, item: _T, user: str, now: float, priority: int, slots: int) -> None:
        """The host gets to know of it, at this time in seconds."""
        self._told[item] = user
        self._lines.setdefault(user, {})[item] = due(now, priority)
        self._move_up(user, slots)

    def begun(self, item: _T) -> None:
        """The host says that it has begun with it, before its turn or not."""
        if item in self._told:
            self._begun.add(item)

    def is_in_line(self, item: _T) -> bool:
        return item in self._told and item not in self._begun

    @property
    def all(self) -> frozenset[_T]:
        """All that it knows of, and that are not over."""
        return frozenset(self._told)

    def can_have_begun(self, item: _T) -> bool:
        """Not what was never told."""
        return item in self._begun

    def ended(self, item: _T, slots: int) -> None:
        """The host is done with it, if it was told."""
        user = self._told.get(item)
        self.failed(item)
        if user is not None:
            self._move_up(user, slots)

    def failed(self, item: _T) -> None:
        """It ended with the host, or because that is silent."""
        user = self._told.pop(item, None)
        if user is not None:
            self._begun.discard(item)
            line = self._lines[user]
            del line[item]
            if not line:
                del self._lines[user]

    def _move_up(self, user: str, slots: int) -> None:
        before: list[float] = []
        """when those are due that came before, in order"""
        for item, due_at in self._lines.get(user, {}).items():
            if bisect(before, due_at) < slots:
                self._begun.add(item)
            insort(before, due_at)
