"""How long to wait before what failed is tried again: twice as long each time, to a longest,
and by chance up to half less, so that many who lost the same server do not come back at once.
"""

from __future__ import annotations

import random


class Backoff:
    """Seconds, the `first` at first."""

    def __init__(
        self, first: float, longest: float, rng: random.Random | None = None
    ) -> None:
        self._first = self._next = first
        self._longest = longest
        self._rng = rng or random.Random()

    def next(self) -> float:
        pause, self._next = self._next, min(2 * self._next, self._longest)
        return pause * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It was not in vain."""
        self._next = self._first
