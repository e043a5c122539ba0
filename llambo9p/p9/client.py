"""One 9P connection seen from the client, without I/O: tags and their replies.

A tag belongs to its request until the reply comes, or until the Rflush of a
Tflush for it comes: only then is it used again (flush(5)).  A reply that arrives
before the Rflush is delivered, as the manual demands.

Whoever sends gives with each message something of his own, `whose`, and gets it back
with the reply; it is not looked at here.
"""

from __future__ import annotations

from typing import Any

from . import constants as c
from . import in_dotl
from . import messages as m
from .dialects import DIALECTS, P9_2000, P9_2000_L, Rlerror
from .framing import Framer, ProtocolError
from .wire import BadMessage

_RELAYED = {m.Tread.number: bytes([m.Rread.number]), m.Twrite.number: bytes([m.Rwrite.number])}
"""the type of a reply as it lies on the wire, by the type of what is relayed"""


class ClientConn:
    """Give it T-messages of 9P2000 with `send`, bytes with `receive`; write
    `data_to_send`.  What is sent takes the form of the dialect that Rversion names, as
    Tversion asked, and replies that of 9P2000 again (see `in_dotl`)."""

    def __init__(self, msize: int = c.DEFAULT_MSIZE) -> None:
        self.dialect = P9_2000
        self.msize = msize
        self._framer = Framer(msize)
        self._out: list[bytes] = []
        self._free: list[int] = []
        self._next = 0
        self._expected: dict[int, type[m.Message]] = {}
        """the reply of each request that was sent by `send`, or flushed, by tag"""
        self._whose: dict[int, Any] = {}
        """of those"""
        self._relayed: dict[bytes, Any] = {}
        """whose each request is that was sent by `relay`, by type[1] and tag[2] of its reply"""
        self._dropped: list[Any] = []
        """whose replies came right before something that broke the protocol"""
        self._flushing: dict[int, int] = {}
        """tag of a Tflush -> the tag it flushes"""
        self._flushed: set[int] = set()
        """the tags that are being flushed"""

    @property
    def outstanding(self) -> int:
        """Requests whose tags are in use, Tflushes not counted."""
        return self._next - len(self._free) - len(self._flushing)

    def send(self, msg: m.Message, whose: Any = None) -> int:
        """Send `msg` under a fresh tag, which is returned.  Raises ProtocolError
        when all 65,535 are in use."""
        said = in_dotl.asked(msg) if self.dialect is P9_2000_L else msg
        tag = c.NOTAG if isinstance(msg, m.Tversion) else self._new_tag()
        said.tag = tag
        self._expected[tag] = self.dialect.table[said.number + 1]
        self._whose[tag] = whose
        self._out.append(self.dialect.of(said).pack())
        return tag

    def _new_tag(self) -> int:
        if self._free:
            return self._free.pop()
        if self._next < c.NOTAG:
            self._next += 1
            return self._next - 1
        raise ProtocolError("all tags of the connection are in use")

    def relay(self, frame: bytes, fid: bytes, whose: Any) -> int:
        """Send a Tread or Twrite that another client sent, for `fid` (as it lies on the
        wire) and under a fresh tag.  Its Rread or Rwrite is received as a frame."""
        tag = self._new_tag()
        wire_tag = tag.to_bytes(2, "little")
        self._relayed[_RELAYED[frame[4]] + wire_tag] = whose
        self._out.append(b"".join((frame[:5], wire_tag, fid, frame[11:])))
        return tag

    def flush(self, tag: int, whose: Any = None) -> None:
        """Ask the server, once, to forget the request with `tag`, if that is outstanding
        and still theirs."""
        if tag in self._expected:
            if tag in self._flushed or self._whose[tag] is not whose:
                return
        else:
            key = self._relayed_as(tag)
            if key is None or self._relayed[key] is not whose:
                return
            self._take_apart(tag, key)
        self._flushing[self.send(m.Tflush(0, tag))] = tag
        self._flushed.add(tag)

    def _relayed_as(self, tag: int) -> bytes | None:
        """The key in `_relayed` of what has the tag."""
        wire_tag = tag.to_bytes(2, "little")
        keys = (reply + wire_tag for reply in _RELAYED.values())
        return next((key for key in keys if key in self._relayed), None)

    def _take_apart(self, tag: int, key: bytes) -> None:
        """Let what was relayed be a request like those of `send`."""
        self._whose[tag] = self._relayed.pop(key)
        self._expected[tag] = self.dialect.table[key[0]]

    def data_to_send(self) -> list[bytes]:
        out, self._out = self._out, []
        return out

    def lost(self) -> list[Any]:
        """The connection is gone: whose requests were given no reply."""
        whose = [*self._dropped, *self._whose.values(), *self._relayed.values()]
        self._dropped.clear()
        self._expected.clear()
        self._whose.clear()
        self._relayed.clear()
        return whose

    def receive(self, data: bytes) -> list[tuple[Any, m.Message | bytes]]:
        """The replies that `data` completes, and whose they are; Rflush is kept back.

        Raises ProtocolError if the server breaks the protocol; there are no replies then.
        """
        replies: list[tuple[Any, m.Message | bytes]] = []
        try:
            self._receive(data, replies)
        except ProtocolError:
            self._dropped += [whose for whose, _ in replies]
            raise
        return replies

    def _receive(self, data: bytes, replies: list[tuple[Any, m.Message | bytes]]) -> None:
        relayed = self._relayed
        for frame in self._framer.feed(data):
            if relayed and (whose := relayed.pop(frame[4:7], None)) is not None:
                self._free.append(frame[5] | frame[6] << 8)
                replies.append((whose, frame))
                continue
            try:
                msg = self.dialect.unpack(frame)
            except BadMessage as e:
                raise ProtocolError(e.reason) from e
            tag = msg.tag
            if tag not in self._expected and (key := self._relayed_as(tag)) is not None:
                self._take_apart(tag, key)
            expected = self._expected.pop(tag, None)
            if expected is None:
                raise ProtocolError(f"{type(msg).__name__} for tag {tag}, which is not in use")
            if not isinstance(msg, (expected, m.Rerror, Rlerror)):
                raise ProtocolError(f"{type(msg).__name__} where {expected.__name__} was expected")
            if self.dialect is P9_2000_L:
                msg = in_dotl.answered(msg)
            if isinstance(msg, m.Rversion):
                if msg.msize < c.MIN_MSIZE:
                    raise ProtocolError(f"msize {msg.msize} is less than {c.MIN_MSIZE}")
                self.msize = self._framer.msize = min(self.msize, msg.msize)
                self.dialect = DIALECTS.get(msg.version, self.dialect)
            whose = self._whose.pop(tag)
            flushed = self._flushing.pop(tag, None)
            if flushed is not None:
                self._flushed.discard(flushed)
                if self._expected.pop(flushed, None) is not None:
                    del self._whose[flushed]
                    self._free.append(flushed)
                self._free.append(tag)
                continue
            replies.append((whose, msg))
            # the reply of a request being flushed frees its tag only at the Rflush
            if tag in self._flushed:
                self._expected[tag] = expected
                self._whose[tag] = None
            elif tag != c.NOTAG:
                self._free.append(tag)
