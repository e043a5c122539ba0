"""Whether a host is well, and whether a worker is: pure policies, given `now` in seconds.

A host is asked for a heartbeat every interval, one at a time.  One that is not answered
within the interval is missed, and so is each further interval that it is waited for.

- The first missed makes a healthy host degraded: what is new goes to others, if any is
  healthy.
- `unhealthy_threshold` missed in a row make it lost, but not before it has been silent for
  `patience` seconds.  The thresholds say how often, the patience how long at least: a client
  that writes megabytes can keep an event loop, the host's or ours, from everything else for
  seconds, and whoever is lost takes everybody's conversations along.
- An answer, even a late one, ends the row.  `healthy_threshold` answers in time, in a row,
  make a degraded host healthy.

Whoever's connection ends is lost at once, and needs no policy.

A worker whose requests fail while its host is well has a circuit breaker: `FAILURES` in a row
open it, and for a pause the worker is degraded.  Then it is tried again, by one request, and
is degraded until that is over: a success closes the circuit, a failure opens it for twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

FAILURES = 3
"""requests in a row that open a circuit"""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


class Health(Enum):
    """Of a worker, and all but `DRAINING` of a host, too."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """gets new requests only where nobody healthy is"""
    DRAINING = "draining"
    LOST = "lost"


class Circuit(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    """the next request decides"""


@dataclass(frozen=True, slots=True)
class Rules:
    interval: float = 1.0
    """seconds between heartbeats"""
    healthy_threshold: int = 2
    unhealthy_threshold: int = 3
    patience: float = 10.0
    """seconds"""


class Pulse:
    """A host's heartbeats, from its joining at `now`.  Nothing is told after `LOST`."""

    __slots__ = ("_answered", "_heard", "_missed", "_rules", "health")

    def __init__(self, rules: Rules, now: float) -> None:
        self.health = Health.HEALTHY
        self._rules = rules
        self._heard = now
        """when there was the last sign of life"""
        self._missed = 0
        """in a row"""
        self._answered = 0
        """in time and in a row"""

    def answered(self, now: float) -> None:
        self._heard = now
        self._answered = 0 if self._missed else self._answered + 1
        self._missed = 0
        if self._answered >= self._rules.healthy_threshold:
            self.health = Health.HEALTHY

    def missed(self, now: float) -> None:
        """Another interval has gone by without the answer."""
        self._missed += 1
        self._answered = 0
        silent = now - self._heard
        if self._missed >= self._rules.unhealthy_threshold and silent >= self._rules.patience:
            self.health = Health.LOST
        else:
            self.health = Health.DEGRADED


class Breaker:
    """A worker's circuit breaker."""

    __slots__ = ("_failures", "_opened", "_pause", "until")

    def __init__(self) -> None:
        self._failures = 0
        """in a row, while closed"""
        self._opened = False
        self._pause = FIRST_PAUSE_S
        self.until = 0.0
        """when the pause of a circuit that was opened ends"""

    def circuit(self, now: float) -> Circuit:
        if not self._opened:
            return Circuit.CLOSED
        return Circuit.OPEN if now < self.until else Circuit.HALF_OPEN

    def failed(self, now: float) -> None:
        """A request failed by the worker's fault."""
        match self.circuit(now):
            case Circuit.OPEN:
                return  # it was sent before
            case Circuit.HALF_OPEN:
                self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
            case Circuit.CLOSED:
                self._failures += 1
                if self._failures < FAILURES:
                    return
        self._opened = True
        self.until = now + self._pause

    def succeeded(self) -> None:
        self._failures = 0
        self._opened = False
        self._pause = FIRST_PAUSE_S
