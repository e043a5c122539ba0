"""Which requests may have ended a host, and where these may be tried again: a pure policy.

A host can die by what it is asked: a prompt reaches a bug of the engine, or takes all memory.
Sent on and on, such a request would end host after host.  All requests that a host had begun with
when it died are suspects, because nobody can tell which of them did it.

Rules:
- A suspect of one death goes where no other suspect runs.  It stops being a suspect when it has a
  token that it did not have when its host died: then it is past the point where the host died.
- A suspect of two deaths runs alone: its host has no other request, and gets none.  It stays a
  suspect until it is over.
- A suspect is convicted, and fails, when a host dies on which only this request ran.  What ran
  beside others is never convicted for that.
- When a host may have been killed, a request that has got new tokens since its death before is no
  suspect of that earlier one any more.  Otherwise an answer that is long enough would be convicted
  by operators.
- Where strangers ask the host, too, nothing is known to run alone; then the fourth death convicts.
- A suspect that waits at a host for its turn counts as one that the host had begun with: the last
  that the host said, that an answer is over, may not have been heard when it died.

So with K requests that end each host which gets to a certain token of theirs, and no strangers,
every other request is answered, each of the K fails, and at most 3 x K hosts die: each of the K
ends at most three.  One that always ran alone ends two.  (One that is no suspect yet, waits for its
turn at a host, and ends it in the very step that it begins with, ends one more: nobody knows.)

No I/O and no clock.  An item is a request, a place is a host; both are known by identity.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

ALONE = 2
"""deaths of a suspect after which it runs alone"""
MOST = 4
"""deaths that convict in any company"""

_T = TypeVar("_T", bound=Hashable)
_P = TypeVar("_P", bound=Hashable)


@dataclass(slots=True)
class _Record(Generic[_P]):
    """What is known of one request."""

    deaths: int = 0
    tokens: int = 0
    """of its answer, at the last death"""
    is_suspect: bool = True
    convicted: bool = False
    at: _P | None = None
    """where it runs as a suspect"""
    kept: _P | None = None
    """the place that gets nothing else, because this one runs there or waits for it"""


class Suspects(Generic[_T, _P]):
    """See the module."""

    def __init__(self) -> None:
        self._records: dict[_T, _Record[_P]] = {}

    def __len__(self) -> int:
        """How many suspects there are."""
        return sum(record.is_suspect for record in self._records.values())

    def died(self, begun: Mapping[_T, int], *, by_itself: bool, strangers: bool = False) -> None:
        """A host died that had begun with these requests, whose answers had so many tokens.
        `by_itself`: it is known that nobody killed it.  `strangers`: others asked it, too."""
        alone = len(begun) == 1 and not strangers
        for item, tokens in begun.items():
            record = self._records.setdefault(item, _Record())
            if not by_itself and tokens > record.tokens:
                record.deaths = 0
            record.deaths += 1
            record.tokens = tokens
            record.is_suspect = True
            record.convicted = (alone and record.deaths > 1) or record.deaths >= MOST

    def deaths(self, item: _T) -> int:
        record = self._records.get(item)
        return 0 if record is None else record.deaths

    def is_suspect(self, item: _T) -> bool:
        record = self._records.get(item)
        return record is not None and record.is_suspect

    def is_convicted(self, item: _T) -> bool:
        record = self._records.get(item)
        return record is not None and record.convicted

    def runs_alone(self, item: _T) -> bool:
        """Whether it must."""
        record = self._records.get(item)
        return record is not None and record.is_suspect and record.deaths >= ALONE

    def may_go(self, item: _T, place: _P, requests: int) -> bool:
        """Whether a suspect may go to a place that has so many requests."""
        for other, record in self._records.items():
            if other is not item and (record.at is place or record.kept is place):
                return False
        return not requests or not self.runs_alone(item)

    def kept_for(self, item: _T) -> _P | None:
        """The place that gets nothing but this one."""
        record = self._records.get(item)
        return None if record is None else record.kept

    def keep(self, item: _T, place: _P) -> None:
        """`place` gets nothing but this one from now on."""
        self._records[item].kept = place

    def sent(self, item: _T, place: _P) -> None:
        """The suspect runs there."""
        self._records[item].at = place

    def got(self, item: _T, tokens: int) -> None:
        """The answer has so many tokens."""
        record = self._records.get(item)
        if record is not None and tokens > record.tokens and record.deaths < ALONE:
            record.is_suspect, record.at = False, None

    def left(self, item: _T) -> _P | None:
        """It runs nowhere any more.  Returns the place that it kept."""
        record = self._records.get(item)
        if record is None:
            return None
        record.at = None
        kept, record.kept = record.kept, None
        return kept

    def over(self, item: _T) -> None:
        """It has ended, after `left`: forget it."""
        self._records.pop(item, None)
