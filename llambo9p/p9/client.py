"""One 9P connection seen from the client, without I/O: tags and their replies.

A tag belongs to its request until the reply comes, or until the Rflush of a
Tflush for it comes: only then is it used again (flush(5)).  A reply that arrives
before the Rflush is delivered, as the manual demands.
"""

from __future__ import annotations

from . import constants as c
from . import messages as m
from .dialects import DIALECTS, P9_2000
from .framing import Framer, ProtocolError
from .wire import BadMessage


class ClientConn:
    """Give it T-messages of 9P2000 with `send`, bytes with `receive`; write
    `data_to_send`.  What is sent takes the form of the dialect that Rversion names:
    9P2000 or 9P2000.u, as Tversion asked."""

    def __init__(self, msize: int = c.DEFAULT_MSIZE) -> None:
        self.dialect = P9_2000
        self.msize = msize
        self._framer = Framer(msize)
        self._out: list[bytes] = []
        self._free: list[int] = []
        self._next = 0
        self._outstanding: dict[int, type[m.Message]] = {}
        self._flushing: dict[int, int] = {}
        """tag of a Tflush -> the tag it flushes"""
        self._flushed: set[int] = set()
        """the tags that are being flushed"""
        self._relayed: set[int] = set()
        """the tags of what was sent by `relay`"""

    @property
    def outstanding(self) -> int:
        """Requests whose tags are in use, Tflushes not counted."""
        return len(self._outstanding) - len(self._flushing)

    def send(self, msg: m.Message) -> int:
        """Send `msg` under a fresh tag, which is returned.  Raises ProtocolError
        when all 65,535 are in use."""
        tag = c.NOTAG if isinstance(msg, m.Tversion) else self._new_tag()
        msg.tag = tag
        self._outstanding[tag] = self.dialect.table[msg.number + 1]
        self._out.append(self.dialect.of(msg).pack())
        return tag

    def _new_tag(self) -> int:
        if self._free:
            return self._free.pop()
        if self._next < c.NOTAG:
            self._next += 1
            return self._next - 1
        raise ProtocolError("all tags of the connection are in use")

    def relay(self, frame: bytes, fid: int) -> int:
        """Send a Tread or Twrite that another client sent, for `fid` and under a fresh tag.
        Its Rread or Rwrite is received as a frame."""
        tag = self._new_tag()
        self._outstanding[tag] = self.dialect.table[frame[4] + 1]
        self._relayed.add(tag)
        ours = tag.to_bytes(2, "little") + fid.to_bytes(4, "little")
        self._out.append(b"".join((frame[:5], ours, frame[11:])))
        return tag

    def flush(self, tag: int) -> None:
        """Ask the server, once, to forget the request with `tag`, if it is outstanding."""
        if tag in self._outstanding and tag not in self._flushed:
            self._flushing[self.send(m.Tflush(0, tag))] = tag
            self._flushed.add(tag)

    def data_to_send(self) -> list[bytes]:
        out, self._out = self._out, []
        return out

    def receive(self, data: bytes) -> list[tuple[int, m.Message | bytes]]:
        """The replies that `data` completes, with their tags; Rflush is kept back.

        Raises ProtocolError if the server breaks the protocol.
        """
        replies: list[tuple[int, m.Message | bytes]] = []
        for frame in self._framer.feed(data):
            if self._relayed and self._is_relayed(frame):
                tag = frame[5] | frame[6] << 8
                replies.append((tag, frame))
                if tag not in self._flushed:
                    del self._outstanding[tag]
                    self._free.append(tag)
                continue
            try:
                msg = self.dialect.unpack(frame)
            except BadMessage as e:
                raise ProtocolError(e.reason) from e
            expected = self._outstanding.pop(msg.tag, None)
            if expected is None:
                raise ProtocolError(f"{type(msg).__name__} for tag {msg.tag}, which is not in use")
            if not isinstance(msg, (expected, m.Rerror)):
                raise ProtocolError(f"{type(msg).__name__} where {expected.__name__} was expected")
            if isinstance(msg, m.Rversion):
                self.msize = self._framer.msize = min(self.msize, msg.msize)
                self.dialect = DIALECTS.get(msg.version, self.dialect)
            flushed = self._flushing.pop(msg.tag, None)
            if flushed is not None:
                self._flushed.discard(flushed)
                self._relayed.discard(flushed)
                if self._outstanding.pop(flushed, None) is not None:
                    self._free.append(flushed)
                self._free.append(msg.tag)
                continue
            replies.append((msg.tag, msg))
            # the reply of a request being flushed frees its tag only at the Rflush
            if msg.tag in self._flushed:
                self._outstanding[msg.tag] = expected
            elif msg.tag != c.NOTAG:
                self._free.append(msg.tag)
        return replies

    def _is_relayed(self, frame: bytes) -> bool:
        """Whether it is the reply, and no error, to what `relay` sent."""
        tag = frame[5] | frame[6] << 8
        if tag not in self._relayed:
            return False
        self._relayed.discard(tag)
        return self._outstanding[tag].number == frame[4]
