"""Fair turns between users: which of the waiting requests is next, and which one makes room.

Owns the requests that wait, and the book of those that have a slot.  A host's scheduler, its
embeddings and the orchestrator's dispatcher each have one `FairQueue`.

Rules it keeps:
- The next request is one of the user who has the fewest slots.  Users who have equally many
  take turns.
- Requests of one user go by arrival.  A request with a priority below 0 goes as if it had come
  `PATIENCE` seconds later for each step.  A request that was interrupted goes before all
  others of its user.
- Between users a request with priority -N counts as N + 1 requests: for the slots that its user
  has, and for the turns that its user had.  So of two users who always ask, one at priority 0
  and one at priority -N, the first has N + 1 times as many turns.
- A user who has no slot, and has waited `WAIT` seconds for each request that his next one counts
  as, may have the slot of another user.  The user who has the most slots gives up one, if he has
  two or more, or all that are in use.  It is the slot of his last request by the order above:
  that is the newest one, which has the least to lose, and so his requests still go by arrival.
- Nobody starves: every turn of another user puts that user behind those who wait.
- Whenever requests wait, one of them is next.

The turns are self-clocked fair queueing (Golestani, INFOCOM 1994): a user's next turn is
stamped with the stamp of the newest turn that anybody took plus what the request counts, and
the lowest stamp is next; of equal ones that of a user who had no turn since he began to wait.

With n requests waiting, adding, taking and removing one takes O(log n) comparisons, and moves
at most n pointers of an array; `moved` takes O(n log n).  Measured with 1,024: 7 us of CPU time
for a request from `add` to `remove`, 0.9 ms for `moved`.

It must never read a clock (it is given times, in seconds), nor do I/O.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from llambo9p.engine.base import Request

PATIENCE = 10.0
"""seconds by which a request goes later, for each step of priority below 0"""
WAIT = 1.0
"""seconds that a user without a slot waits until another user gives one up"""

T = TypeVar("T", bound=Hashable)


def whose(request: Request) -> str:
    """The user whose turn a request takes."""
    return request.user


def due(since: float, priority: int) -> float:
    """When a request comes in the order of its user's requests, in the seconds of `since`."""
    return since - priority * PATIENCE


class _Entry(Generic[T]):
    """An item that waits or has a slot."""

    __slots__ = ("cost", "item", "key", "position", "since", "user")

    def __init__(self, item: T, user: _User[T], since: float, priority: int, number: int) -> None:
        self.item = item
        self.user = user
        self.since = since
        self.cost = max(1, 1 - priority)
        """how many requests it counts as"""
        self.key = (1, due(since, priority), number)
        """its place among its user's requests; the lowest is first"""
        self.position = 0
        """among all that wait, as `moved` told it last"""

    def has_waited(self, now: float) -> bool:
        """Whether it may have another user's slot."""
        since = max(self.since, self.user.slotless_since)
        return now - since >= WAIT * self.cost


class _User(Generic[T]):
    """A user who has a request here."""

    __slots__ = ("held", "name", "order", "running", "slotless_since", "stamp", "turn", "waiting")

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.waiting: list[tuple[tuple[int, float, int], _Entry[T]]] = []
        """by key"""
        self.running: dict[T, _Entry[T]] = {}
        """the requests that have a slot"""
        self.held = 0
        """what these count"""
        self.slotless_since = now
        """when the user began to have no slot"""
        self.stamp = 0
        """from which the next turn counts"""
        self.order = False, 0
        """among users of equal stamps"""
        self.turn: _Turn[T] | None = None
        """the user's place among the users who wait"""


_Turn = tuple[int, int, tuple[bool, int], _User[T]]
"""What the user's slots count, the stamp of the next turn, whether the user had a turn since he
began to wait, and a number for the order; the lowest is next."""


class FairQueue(Generic[T]):
    """See the module.  Each item is there once."""

    def __init__(self) -> None:
        self._entries: dict[T, _Entry[T]] = {}
        """all that wait or have a slot"""
        self._users: dict[str, _User[T]] = {}
        self._with_slots: dict[_User[T], None] = {}
        self._turns: list[_Turn[T]] = []
        """of the users who wait, in order"""
        self._stamp = 0
        """of the newest turn that was taken"""
        self._numbers = itertools.count()
        self._waiting = 0
        self._told = True
        """no position changed since `moved` told them"""

    def __len__(self) -> int:
        """How many items wait."""
        return self._waiting

    def __contains__(self, item: T) -> bool:
        """Whether it waits."""
        entry = self._entries.get(item)
        return entry is not None and item not in entry.user.running

    def has_slot(self, user: str) -> bool:
        """Whether a request of that user has a slot."""
        return user in self._users and self._users[user] in self._with_slots

    # What happens.

    def add(self, item: T, user: str, since: float, priority: int = 0) -> None:
        """It waits since then, and not here yet."""
        assert item not in self._entries
        if user not in self._users:
            self._users[user] = _User(user, since)
        entry = _Entry(item, self._users[user], since, priority, next(self._numbers))
        self._entries[item] = entry
        self._wait(entry, had_turn=False)

    def take(self, item: T) -> None:
        """A waiting item gets a slot."""
        entry = self._entries[item]
        user = entry.user
        self._leave(entry)
        user.running[item] = entry
        self._with_slots[user] = None
        user.held += entry.cost
        self._stamp = max(self._stamp, user.stamp + entry.cost)
        self._queue_up(user, had_turn=True)

    def interrupt(self, item: T, now: float) -> None:
        """An item that has a slot gives it up, and waits again."""
        entry = self._entries[item]
        self._give_up(entry, now)
        entry.key = (0, *entry.key[1:])
        entry.position = 0
        self._wait(entry, had_turn=True)

    def remove(self, item: T, now: float) -> None:
        """It is over, or waits no longer; it need not be there."""
        entry = self._entries.pop(item, None)
        if entry is None:
            return
        user = entry.user
        if item in user.running:
            self._give_up(entry, now)
        else:
            self._leave(entry)
        self._place(user)
        if not user.waiting and not user.running:
            del self._users[user.name]

    # What is next.

    def in_turn(self) -> Iterator[T]:
        """Each waiting item, the next one first.  Whoever iterates may `take` or `remove` the
        item that he has, and nothing else; one that he leaves keeps its turn."""
        turns = list(self._turns)  # sorted, and so a heap
        passed = {turn[-1]: 0 for turn in turns}
        while turns:
            user = turns[0][-1]
            at = passed[user]
            _, entry = user.waiting[at]
            yield entry.item
            if at < len(user.waiting) and user.waiting[at][1] is entry:
                passed[user] = at = at + 1
            if at >= len(user.waiting) or user.turn is None:
                heapq.heappop(turns)
            else:
                heapq.heapreplace(turns, user.turn)

    def next(self) -> T | None:
        """The waiting item whose turn it is."""
        return self._turns[0][-1].waiting[0][1].item if self._turns else None

    def newcomers(self) -> list[T]:
        """The first waiting item of each user who has no slot, the next one first."""
        return [user.waiting[0][1].item for user in self._slotless()]

    def exchange(self, now: float, may: Callable[[T], bool]) -> tuple[T, T] | None:
        """A waiting item that is to have another user's slot, and the item that gives it up, of
        those that `may`; for when all slots are taken."""
        only = len(self._with_slots) == 1
        givers = [user for user in self._with_slots if only or len(user.running) > 1]
        if not givers:
            return None
        claims = (user.waiting[0][1] for user in self._slotless())
        claim = next((each for each in claims if each.has_waited(now)), None)
        if claim is None:
            return None
        for user in sorted(givers, key=lambda user: user.held, reverse=True):
            entries = (entry for item, entry in user.running.items() if may(item))
            last = max(entries, key=lambda entry: entry.key, default=None)
            if last is not None:
                return claim.item, last.item
        return None

    def _slotless(self) -> Iterator[_User[T]]:
        """The waiting users who have no slot, the next one first."""
        turns = itertools.takewhile(lambda turn: not turn[0], self._turns)
        return (turn[-1] for turn in turns)

    def moved(self) -> list[tuple[T, int]]:
        """The waiting items whose position, from 1, is another than at the last call, with it.
        The position is the turn that an item has if nothing comes and nothing ends."""
        if self._told:
            return []
        self._told = True
        moved = []
        for position, entry in enumerate(self._expected(), 1):
            if entry.position != position:
                entry.position = position
                moved.append((entry.item, position))
        return moved

    def _expected(self) -> Iterator[_Entry[T]]:
        """All that wait, in the order in which they would be taken."""
        turns = list(self._turns)
        at = dict.fromkeys((turn[-1] for turn in turns), 0)
        newest = self._stamp
        for number in itertools.count(next(self._numbers)):
            if not turns:
                return
            held, stamp, _, user = turns[0]
            _, entry = user.waiting[at[user]]
            yield entry
            at[user] += 1
            newest = max(newest, stamp)
            if at[user] == len(user.waiting):
                heapq.heappop(turns)
            else:
                cost = user.waiting[at[user]][1].cost
                turn = held + entry.cost, newest + cost, (True, number), user
                heapq.heapreplace(turns, turn)

    # The book.

    def _wait(self, entry: _Entry[T], had_turn: bool) -> None:
        user = entry.user
        insort(user.waiting, (entry.key, entry))
        self._waiting += 1
        if len(user.waiting) == 1:
            self._queue_up(user, had_turn)
        else:
            self._place(user)

    def _leave(self, entry: _Entry[T]) -> None:
        waiting = entry.user.waiting
        del waiting[bisect_left(waiting, (entry.key,))]
        self._waiting -= 1

    def _give_up(self, entry: _Entry[T], now: float) -> None:
        user = entry.user
        del user.running[entry.item]
        user.held -= entry.cost
        if not user.running:
            del self._with_slots[user]
            user.slotless_since = now

    def _queue_up(self, user: _User[T], had_turn: bool) -> None:
        """Behind the users who wait: he has had his turn, or begins to wait."""
        user.stamp = self._stamp
        user.order = had_turn, next(self._numbers)
        self._place(user)

    def _place(self, user: _User[T]) -> None:
        """By what the user has now."""
        self._told = False
        if user.turn is not None:
            del self._turns[bisect_left(self._turns, user.turn)]
            user.turn = None
        if user.waiting:
            _, entry = user.waiting[0]
            user.turn = user.held, user.stamp + entry.cost, user.order, user
            insort(self._turns, user.turn)
