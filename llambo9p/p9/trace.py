"""Both byte streams of one connection, watched from between: the lines of its transcript.

A `Tracer` answers nothing and judges nothing.  What a side sent is a line as soon as it
is a whole frame, in the dialect of the last Rversion; bytes that are no message of it
are shown in hex with the reason, so that the lines, read back with `text.parse_bytes`,
are the streams to the last byte.  The transcript is one that the tests play: `->` the
client sent, `<-` the server sent, and `! lost` where the connection ended.
"""

from __future__ import annotations

from . import messages as m
from .dialects import DIALECTS, P9_2000
from .framing import Framer, ProtocolError
from .text import format, format_bytes
from .wire import BadMessage

LARGEST = 1 << 24
"""of the frames that are collected; msizes in use are far below"""


class Tracer:
    """Give it what each side sends; it gives back the lines that this completes."""

    def __init__(self, max_data: int | None = None) -> None:
        """With `max_data`, lines are cut to so many bytes of data, and cannot be played."""
        self._max_data = max_data
        self.dialect = P9_2000
        """that of the last Rversion"""
        self._client = _Side("->")
        self._server = _Side("<-")

    def from_client(self, data: bytes) -> list[str]:
        return self._lines(self._client, data)

    def from_server(self, data: bytes) -> list[str]:
        return self._lines(self._server, data)

    def ended(self) -> list[str]:
        """Neither side sends any more."""
        lines = [
            self._hex(side, side.framer.rest, "a frame that was not finished")
            for side in (self._client, self._server)
            if side.framer.rest and not side.broken
        ]
        return [*lines, "! lost"]

    def _lines(self, side: _Side, data: bytes) -> list[str]:
        if side.broken:
            return [self._hex(side, data, "after a frame that was none")]
        try:
            return [self._line(side, frame) for frame in side.framer.feed(data)]
        except ProtocolError as e:
            side.broken = True
            lines = [self._line(side, frame) for frame in e.frames]
            return [*lines, self._hex(side, side.framer.rest, str(e))]

    def _line(self, side: _Side, frame: bytes) -> str:
        try:
            msg = self.dialect.unpack(frame)
        except BadMessage as e:
            return self._hex(side, frame, e.reason)
        line = format(msg, self._max_data)
        if msg.pack() != frame:
            return self._hex(side, frame, f"more than the text says: {line}")
        if isinstance(msg, m.Rversion):
            self.dialect = DIALECTS.get(msg.version, self.dialect)
        return f"{side.mark} {line}"

    def _hex(self, side: _Side, data: bytes, reason: str) -> str:
        return f"{side.mark} {format_bytes(data, reason, self._max_data)}"


class _Side:
    """What one side sends."""

    __slots__ = ("broken", "framer", "mark")

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.framer = Framer(LARGEST)
        self.broken = False
        """a bad size: no frame can be found any more"""
