"""What happened in the cluster, as JSON lines that anybody may follow from his own place.

`Events` keeps the newest ones in a ring; each has a number, one more than the one before it,
and a time.  An open of the file begins with the oldest that is kept and then waits for what
comes.  Nobody who emits waits for a reader: one that is too slow finds a line of kind
`missed` with the `count` of what the ring did not keep for him.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping

from ..errors import PermissionDenied
from ..fs.file import OpenFile
from ..fs.sleepers import Sleepers
from ..fs.tree import SyntheticFile, Tree
from ..fs.user import User
from ..p9.node import Maybe

KEPT = 10_000
"""events; a thousand workers that are lost at once are a thousand events"""


_Event = tuple[float, str, Mapping[str, object]]
"""time, kind and attributes: most are never read, and those that are become text then"""
_encode = json.JSONEncoder(default=str).encode


class Events:
    """The ring.  `clock` gives seconds since the epoch."""

    def __init__(self, kept: int = KEPT, clock: Callable[[], float] = time.time) -> None:
        self.told: Callable[[str], None] = lambda kind: None
        """is called with the kind of each"""
        self._clock = clock
        self._events: deque[_Event] = deque(maxlen=kept)
        self._next = 0
        """the number of the next event"""
        self._sleepers = Sleepers()
        """who waits for the next event"""

    @property
    def first(self) -> int:
        """The number of the oldest event that is kept, or of the next one."""
        return self._next - len(self._events)

    @property
    def count(self) -> int:
        """How many there have been: the number of the next one."""
        return self._next

    def emit(self, kind: str, **attrs: object) -> None:
        """Something happened: `kind` is `what.happened`, `attrs` are words and numbers."""
        self._events.append((self._clock(), kind, attrs))
        self._next += 1
        self.told(kind)
        self._sleepers.wake()

    def since(self, number: int, count: int) -> tuple[bytes, int]:
        """The lines from that number on, as many as fit `count` bytes but at least one, and
        the number after them; b"" when there is none yet."""
        lines = []
        if number < self.first:
            missed = self._clock(), "missed", {"count": self.first - number}
            number = self.first
            lines.append(_line(number - 1, missed))
        size = sum(map(len, lines))
        while number < self._next:
            line = _line(number, self._events[number - self.first])
            if lines and size + len(line) > count:
                break
            lines.append(line)
            size += len(line)
            number += 1
        return b"".join(lines), number

    async def wait(self, number: int) -> None:
        """Until there is an event of that number."""
        while number >= self._next:
            await self._sleepers.sleep()


def _line(number: int, event: _Event) -> bytes:
    when, kind, attrs = event
    return _encode({"seq": number, "time": round(when, 3), "kind": kind, **attrs}).encode() + b"\n"


class OpenEvents(OpenFile):
    """A cursor; offsets are ignored.  A line longer than a read comes in pieces."""

    __slots__ = ("_events", "_next", "_rest")

    def __init__(self, events: Events) -> None:
        self._events = events
        self._next = events.first
        self._rest = b""
        """what the last read left of the lines before `_next`"""

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        if not self._rest:
            self._rest, self._next = self._events.since(self._next, count)
        if not self._rest:
            return self._read_later(offset, count)
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    async def _read_later(self, offset: int, count: int) -> bytes:
        await self._events.wait(self._next)
        data = self.read(offset, count)
        return data if isinstance(data, bytes) else await data


class EventsFile(SyntheticFile):
    """`events`, for administrators: it tells of all users' requests."""

    __slots__ = ("_events", "_user")

    def __init__(self, tree: Tree, user: User, events: Events) -> None:
        super().__init__(tree, "events", 0o444)
        self._events = events
        self._user = user

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        self._user.check_admin("events")
        return OpenEvents(self._events)
