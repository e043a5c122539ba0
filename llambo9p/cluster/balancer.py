"""Which worker gets a request: a pure policy over a table of workers.

No I/O and no clock: the caller says what happened (`add`, `remove`, `started`,
`finished`) and asks `choose`.  A choice takes the same time for ten workers and for
ten thousand.  Strategies:

- `round-robin`: each eligible worker in turn;
- `least-loaded`: the one with fewer pending tokens of two picked at random (power of
  two choices: Mitzenmacher 2001), pending being our own dispatch record.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

STRATEGIES = ("round-robin", "least-loaded")


@dataclass(slots=True)
class Entry:
    """A worker that may be chosen."""

    name: str
    pending: int = 0
    """estimated tokens dispatched to it and not finished"""
    place: int = 0
    """its index in the list of the eligible"""


class Balancer:
    def __init__(self, strategy: str, rng: random.Random | None = None) -> None:
        assert strategy in STRATEGIES
        self.strategy = strategy
        self._rng = rng or random.Random()
        self._entries: dict[str, Entry] = {}
        self._eligible: list[Entry] = []
        self._turn = 0

    def __len__(self) -> int:
        return len(self._eligible)

    def add(self, name: str) -> None:
        """The worker may be chosen from now on.  Its pending tokens are kept."""
        if name in self._entries:
            return
        entry = Entry(name, place=len(self._eligible))
        self._entries[name] = entry
        self._eligible.append(entry)

    def remove(self, name: str) -> None:
        """The worker is lost, draining or gone."""
        entry = self._entries.pop(name, None)
        if entry is None:
            return
        last = self._eligible.pop()
        if last is not entry:
            self._eligible[entry.place] = last
            last.place = entry.place

    def choose(self, without: frozenset[str] = frozenset()) -> str | None:
        """The worker for the next request, none of `without` if that can be helped;
        None when there is no worker at all."""
        n = len(self._eligible)
        if n == 0:
            return None
        first = self._pick()
        for _ in range(n if without else 0):
            if first.name not in without:
                break
            first = self._step()
        return first.name

    def _step(self) -> Entry:
        self._turn = (self._turn + 1) % len(self._eligible)
        return self._eligible[self._turn]

    def _pick(self) -> Entry:
        if self.strategy == "round-robin":
            return self._step()
        n = len(self._eligible)
        a = self._eligible[self._rng.randrange(n)]
        b = self._eligible[self._rng.randrange(n)]
        if a is b:
            b = self._eligible[(b.place + 1) % n]
        return a if a.pending <= b.pending else b

    def started(self, name: str, tokens: int) -> None:
        """A request of about `tokens` tokens was sent to the worker."""
        if name in self._entries:
            self._entries[name].pending += tokens

    def finished(self, name: str, tokens: int) -> None:
        """The end of what `started` told, with the same number."""
        if name in self._entries:
            self._entries[name].pending = max(0, self._entries[name].pending - tokens)

    def pending(self, name: str) -> int:
        return self._entries[name].pending if name in self._entries else 0
