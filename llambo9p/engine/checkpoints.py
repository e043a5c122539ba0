"""Checkpoints of sequences, and the host memory in which they and whole sequences are kept.

Owns the budget of that memory, and which checkpoints a sequence has.  A checkpoint is the part
of a sequence's memory that does not last (see `retention`), as it was when the sequence held so
many tokens.  Sequences that begin with the same tokens share it.

Rules it keeps:
- What is kept never takes more than the budget; the least recently used makes room.
- A sequence has at most `MOST` checkpoints: the one goes without which the others are the most
  evenly apart, but never the newest two.
- A checkpoint is at a position that its sequence holds, at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from llambo9p.engine.runner import SavedCells

MOST = 32
"""checkpoints of one sequence"""

T = TypeVar("T")


class Ram(Generic[T]):
    """`limit` bytes for what is kept, the least recently used first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0
        self._kept: dict[T, tuple[int, Callable[[], None]]] = {}

    def add(self, item: T, size: int, drop: Callable[[], None]) -> bool:
        """Keep it, if there can be room; `drop` is called when it has to go for others."""
        if size > self._limit:
            return False
        while self.used + size > self._limit:
            oldest = next(iter(self._kept))
            _, drop_oldest = self._kept[oldest]
            self.remove(oldest)
            drop_oldest()
        self._kept[item] = size, drop
        self.used += size
        return True

    def touch(self, item: T) -> None:
        """It was of use now.  Nothing, when it is not kept."""
        kept = self._kept.pop(item, None)
        if kept is not None:
            self._kept[item] = kept

    def remove(self, item: T) -> None:
        """Nothing, when it is not kept."""
        size, _ = self._kept.pop(item, (0, None))
        self.used -= size


class Checkpoint:
    """What does not last of a sequence of `at` tokens."""

    __slots__ = ("at", "cells", "floor", "sharers")

    def __init__(self, at: int, floor: int) -> None:
        self.at = at
        self.floor = floor
        self.cells = SavedCells()
        self.sharers: list[Checkpoints] = []
        """who has it"""


class Checkpoints:
    """Those of one sequence.  `ram` is where they are kept."""

    __slots__ = ("_points", "_ram")

    def __init__(self, ram: Ram[object]) -> None:
        self._ram = ram
        self._points: dict[int, Checkpoint] = {}
        """by position, the lowest first"""

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self._points.values())

    def last(self, limit: int) -> Checkpoint | None:
        """The one with the most tokens, but no more than `limit`."""
        fitting = (
            point for point in self._points.values() if point.at <= limit and not point.cells.failed
        )
        return max(fitting, key=lambda point: point.at, default=None)

    def add(self, at: int, floor: int, size: int) -> Checkpoint | None:
        """A new one, of so many bytes; None when there is no room for it."""
        point = Checkpoint(at, floor)
        if not self._ram.add(point, size, lambda: _drop(point)):
            return None
        self._take(point)
        return point

    def share(self, others: Checkpoints, limit: int) -> None:
        """Have those of another sequence, which begins with the same `limit` tokens, up to there,
        and no others.  They were of use."""
        points = [point for point in others if point.at <= limit]
        self.clear(keep=points)
        for point in points:
            self._ram.touch(point)
            if point.at not in self._points:
                self._take(point)

    def clear(self, keep: list[Checkpoint] | None = None) -> None:
        for point in [point for point in self if point not in (keep or ())]:
            self._lose(point)

    def _take(self, point: Checkpoint) -> None:
        point.sharers.append(self)
        self._points[point.at] = point
        if len(self._points) > MOST:
            self._lose(self._least_missed())

    def _least_missed(self) -> Checkpoint:
        places = [0, *sorted(self._points)]
        _, at = min(
            (after - before, at)
            for before, at, after in zip(places, places[1:-2], places[2:], strict=False)
        )
        return self._points[at]

    def _lose(self, point: Checkpoint) -> None:
        del self._points[point.at]
        point.sharers.remove(self)
        if not point.sharers:
            self._ram.remove(point)


def _drop(point: Checkpoint) -> None:
    """It is kept no longer."""
    for sharer in point.sharers:
        del sharer._points[point.at]
    point.sharers.clear()
