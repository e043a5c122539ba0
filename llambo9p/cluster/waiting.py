"""Who waits for a worker, in which order: a pure queue.

Requests go in the order of arrival; one with a priority below 0 as if it had come
`PATIENCE` seconds later for each step, as in a host's scheduler: so it lets others go
first, and does not starve.

No I/O and no clock: the caller says when each one came, and decides who can go now.
"""

from __future__ import annotations

import bisect
import sys
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..engine.scheduler import PATIENCE

_T = TypeVar("_T", bound=Hashable)


@dataclass(slots=True, eq=False)
class _Entry(Generic[_T]):
    item: _T
    due: float
    """whose is earlier, is before the others"""
    position: int = 0
    """as last told"""


class WaitingQueue(Generic[_T]):
    """At most `limit` new ones are to be added; who was admitted before may always come back."""

    def __init__(self, limit: int = sys.maxsize) -> None:
        self.limit = limit
        self._entries: list[_Entry[_T]] = []
        self._by_item: dict[_T, _Entry[_T]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: _T) -> bool:
        return item in self._by_item

    def __iter__(self) -> Iterator[_T]:
        """In order, as it is now: whoever is met may be removed."""
        return iter([entry.item for entry in self._entries])

    @property
    def is_full(self) -> bool:
        return len(self._entries) >= self.limit

    def add(self, item: _T, since: float, priority: int) -> None:
        """It waits since then, by the caller's clock in seconds, and not here yet."""
        assert item not in self._by_item
        entry = self._by_item[item] = _Entry(item, since - priority * PATIENCE)
        bisect.insort(self._entries, entry, key=lambda entry: entry.due)

    def remove(self, item: _T) -> None:
        """It need not be there."""
        entry = self._by_item.pop(item, None)
        if entry is not None:
            self._entries.remove(entry)

    def moved(self) -> list[tuple[_T, int]]:
        """Those whose position, from 1, is another than at the last call, with it."""
        moved = []
        for position, entry in enumerate(self._entries, 1):
            if entry.position != position:
                entry.position = position
                moved.append((entry.item, position))
        return moved
