"""When a piece of the decode thread's work takes too long: a pure policy.

The decode thread says which piece of work it begins and when it waits for messages; a
piece is the admission of requests, one step, or one part of an embedding.  A `Pace` learns from
the steps and gives each piece its bound.  A `Watchdog` compares the present piece with that
bound.  The event loop asks the watchdog, because the thread may be stuck in C.

Rules:
- The bound of a piece is `FACTOR` times the slowest recent step, scaled by the rows of the piece,
  and never less than `least` seconds.
- Only a piece that the watchdog saw at two looks in a row can be too long.
- A pause between two looks counts as at most `LONGEST_LOOK_S`.  A process that was stopped, or a
  machine that slept, has not worked meanwhile, and its steps are not to blame.

Neither class reads a clock.  All times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST_S = 10.0
"""the default of `least`"""
FACTOR = 10.0
ROWS = 16
"""A step of fewer rows takes as long as one of 16: it is the weights that take the time to
read."""
FORGET = 0.98
"""what is left of the slowest step's time after each step: half after 35 steps"""
LOOK_S = 0.5
"""between two looks of the event loop"""
LONGEST_LOOK_S = 2 * LOOK_S


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A piece of work that the thread has begun.  Compared by identity."""

    what: str
    """in words, for the error"""
    bound: float
    """the longest that it may take, in seconds"""


class Pace:
    """The bounds of pieces, learnt from the steps before.  For the decode thread."""

    def __init__(self, least: float, step: float = 0.0) -> None:
        """A step of one row takes `step` seconds, as far as is known."""
        self._least = least
        self._slowest = step
        """what `ROWS` rows took in the slowest recent step"""

    def took(self, rows: int, seconds: float) -> None:
        """A step of so many rows ended."""
        self._slowest = max(self._slowest * FORGET, seconds / _units(rows))

    def bound(self, rows: int) -> float:
        """The longest that a piece with so many rows may take."""
        return max(self._least, FACTOR * self._slowest * _units(rows))


class Watchdog:
    """For the event loop, which looks every `LOOK_S` seconds."""

    def __init__(self) -> None:
        self._seen: Piece | None = None
        """the piece at the last look; None when the thread was waiting"""
        self._last = 0.0
        """the time of the last look"""
        self._worked = 0.0
        """seconds that the piece has taken, as far as the looks show it"""

    def look(self, piece: Piece | None, now: float) -> str | None:
        """Say what is wrong when `piece`, which the thread works on now, takes too long."""
        if piece is None or piece is not self._seen:
            self._seen, self._worked = piece, 0.0
        else:
            self._worked += min(max(0.0, now - self._last), LONGEST_LOOK_S)
        self._last = now
        if piece is None or self._worked <= piece.bound:
            return None
        return f"{piece.what} has not ended after {self._worked:.1f} s"


def _units(rows: int) -> float:
    return max(rows, ROWS) / ROWS
