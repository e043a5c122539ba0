"""What a client may expect of its connection, checked message by message.

The observer sees the stream of each side, and hears of each message as the server
handles it or answers.  Rules: what is handled is what was sent, in order; a frame that
is no message is answered with an error; a reply answers a message that has none yet,
and is an error or of its kind; after an Rflush nothing before its Tflush is answered,
after an Rversion nothing; every reply is a message of the dialect that fits msize.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque

from llambo9p.p9 import messages as m
from llambo9p.p9.dialects import DIALECTS, P9_2000, Dialect, Rlerror
from llambo9p.p9.framing import Framer, ProtocolError
from llambo9p.p9.server import ServerConn
from llambo9p.p9.text import parse_bytes
from llambo9p.p9.trace import Tracer
from llambo9p.p9.wire import BadMessage, frame_tag

ERRORS = (m.Rerror, Rlerror)


class Observer:
    """`conn` is set when the connection is made, as that needs `seen` first."""

    conn: ServerConn

    def __init__(self, tracing: bool) -> None:
        self.handling = False
        """inside `receive` or `resume`"""
        self._unhandled: deque[bytes] = deque()
        self._asked: dict[int, list[tuple[int, m.Message]]] = defaultdict(list)
        """by tag: messages without a reply, each with its place in the order of all"""
        self._order = itertools.count()
        self._answered: deque[m.Message] = deque()
        """replies whose bytes have not been seen"""
        self._from_client = Framer(1 << 32)
        self._dialect: Dialect = P9_2000
        self._msize = 1 << 32
        self._transcript = Transcript() if tracing else None

    # -- bytes ---------------------------------------------------------------------

    def sent(self, data: bytes) -> None:
        """A segment is about to be received."""
        if self._transcript is not None:
            self._transcript.add("->", data)
        self._from_client.msize = self.conn.msize
        try:
            self._unhandled += self._from_client.feed(data)
        except ProtocolError as e:
            self._unhandled += e.frames  # the server must find it too; see `broken`

    def came(self, frames: list[bytes]) -> None:
        """Replies leave."""
        for frame in frames:
            if self._transcript is not None:
                self._transcript.add("<-", frame)
            assert len(frame) <= self._msize, f"{len(frame)} bytes, msize is {self._msize}"
            assert int.from_bytes(frame[:4], "little") == len(frame)
            expected = self._answered.popleft()
            msg = self._dialect.unpack(frame)
            assert msg.tag == expected.tag
            assert frame == expected.pack() or isinstance(msg, ERRORS), f"{msg} for {expected}"
            if isinstance(msg, m.Rversion) and msg.version in DIALECTS:
                self._dialect = DIALECTS[msg.version]
                self._msize = msg.msize

    # -- messages ------------------------------------------------------------------

    def seen(self, way: str, msg: m.Message) -> None:
        """ServerConn's `trace`."""
        if way == "->":
            self._handled(msg)
        else:
            self._answered.append(msg)
            self._replied(msg)

    def _handled(self, msg: m.Message) -> None:
        frame = self._unhandled.popleft()
        # a 9P2000.u extension is read over, so equal bytes would be too much to ask
        assert self.conn.dialect.unpack(frame) == msg
        self._asked[msg.tag].append((next(self._order), msg))

    def _replied(self, reply: m.Message) -> None:
        if isinstance(reply, ERRORS) and self._answers_a_bad_frame(reply.tag):
            self._unhandled.popleft()
            return
        order, msg = self._take(reply)
        if isinstance(reply, m.Rversion):
            self._asked.clear()
        if isinstance(msg, m.Tflush) and isinstance(reply, m.Rflush):
            asked = self._asked[msg.oldtag]
            asked[:] = [entry for entry in asked if entry[0] > order]

    def _answers_a_bad_frame(self, tag: int) -> bool:
        if not self.handling or not self._unhandled or frame_tag(self._unhandled[0]) != tag:
            return False
        try:
            self.conn.dialect.unpack(self._unhandled[0])
        except BadMessage:
            return True
        return False

    def _take(self, reply: m.Message) -> tuple[int, m.Message]:
        """The message that `reply` answers; of two with one tag, an error refuses the later."""
        asked = self._asked[reply.tag]
        for entry in reversed(asked):
            if isinstance(reply, ERRORS) or reply.number == entry[1].number + 1:
                asked.remove(entry)
                return entry
        raise AssertionError(f"{reply} answers nothing")

    # -- ends ----------------------------------------------------------------------

    def broken(self) -> None:
        """The server says that the client broke the framing."""
        rest = self._from_client.rest
        size = int.from_bytes(rest[:4], "little")
        assert len(rest) >= 4 and not 7 <= size <= self._from_client.msize

    def all_answered(self) -> None:
        """Nothing is left to happen on a connection that still stands."""
        asked = [msg for asked in self._asked.values() for _, msg in asked]
        assert not asked, f"without a reply: {asked}"
        assert not self._unhandled, "frames were not handled"
        assert not self._answered, "replies did not leave"

    def ended(self) -> None:
        if self._transcript is not None:
            self._transcript.check()


class Transcript:
    """What the tracer writes of the two streams must say them to the last byte."""

    def __init__(self) -> None:
        self._tracer = Tracer()
        self._sent = {"->": bytearray(), "<-": bytearray()}
        self._said = {"->": bytearray(), "<-": bytearray()}

    def add(self, mark: str, data: bytes) -> None:
        self._sent[mark] += data
        feed = self._tracer.from_client if mark == "->" else self._tracer.from_server
        dialect = self._tracer.dialect
        for line in feed(data):
            self._read(line, dialect)

    def _read(self, line: str, dialect: Dialect) -> None:
        assert line.isprintable()
        mark, _, text = line.partition(" ")
        if mark in self._said:
            self._said[mark] += parse_bytes(text, dialect)

    def check(self) -> None:
        for line in self._tracer.ended():
            self._read(line, self._tracer.dialect)
        assert self._said == self._sent
