"""When the messages of which connection are handled: no connection holds up the others.

A turn of the event loop handles messages for `TURN_S` seconds in all, and then at most for what
one more message takes.  One connection gets `SLICE_S` of them while others wait.  Connections
that have more to handle wait in a `Rotation`: users take turns, and so do the connections of one
user.  While somebody waits, what arrives goes to the end of the line, so nobody is overtaken.

`Turns` measures only the time that the connections spend in their `handle`, with the clock that it
is given.  A connection that has little to do is handled when its bytes arrive, and costs two looks
at the clock.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

TURN_S = 0.02
SLICE_S = 0.005


class Member(Protocol):
    """What waits in a rotation."""

    @property
    def whose(self) -> str:
        """The user, who gets one share however many connections he has."""


class Handling(Member, Protocol):
    """A connection, as `Turns` sees it."""

    def handle(self, until: float) -> bool:
        """Handle messages until the clock shows `until`, at least one; whether there are more
        that could be handled at once."""


_M = TypeVar("_M", bound=Member)


class Rotation(Generic[_M]):
    """Who waits.  `next` takes the users in turns, and the members of a user in the order in
    which they came.  Pure."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[_M]] = OrderedDict()
        """of each user; the one whose turn it is comes first"""
        self.waiting: set[_M] = set()
        """all of them"""

    def add(self, member: _M) -> None:
        """It waits behind the others of its user; once, however often it is added."""
        if member not in self.waiting:
            self.waiting.add(member)
            self._lines.setdefault(member.whose, deque()).append(member)

    def next(self) -> _M:
        """The one whose turn it is, which does not wait any more.  There must be one."""
        whose, line = self._lines.popitem(last=False)
        member = line.popleft()
        self.waiting.discard(member)
        if line:
            self._lines[whose] = line
        return member


class Turns:
    """See the module.  `soon` calls a function in the next turn of the event loop."""

    def __init__(
        self,
        soon: Callable[[Callable[[], None]], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._soon = soon
        self._clock = clock
        self._rotation: Rotation[Handling] = Rotation()
        self._used = 0.0
        """seconds of this turn; what earlier turns left of theirs may be among them"""
        self.closed = False
        """nothing more is handled in this turn, or something is being handled"""
        self._scheduled = False

    def handle(self, connection: Handling) -> None:
        """Let it handle its messages: now, when nobody waits and there is time in this turn,
        else when its turn comes."""
        if self.closed:
            self._rotation.add(connection)
            return
        self.closed = True
        begun = self._clock()
        try:
            if connection.handle(begun + SLICE_S):
                self._rotation.add(connection)
        finally:
            self._used += self._clock() - begun
            if self._used >= TURN_S or self._rotation.waiting:
                self._schedule()
            else:
                self.closed = False

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._soon(self._turn)

    def _turn(self) -> None:
        """Begin anew, with those who wait."""
        self._scheduled = False
        rotation, clock = self._rotation, self._clock
        begun = now = clock()
        end = begun + TURN_S
        try:
            while rotation.waiting and now < end:
                connection = rotation.next()
                if connection.handle(min(now + SLICE_S, end)):
                    rotation.add(connection)
                now = clock()
        finally:
            self._used = now - begun
            if rotation.waiting:
                self._schedule()
            else:
                self.closed = self._used >= TURN_S
                if self.closed:
                    self._schedule()
