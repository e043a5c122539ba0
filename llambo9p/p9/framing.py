"""Cuts a byte stream into 9P frames, and bounds every length while doing it.

A frame is size[4] type[1] tag[2] ..., size counting itself (intro(5)).  A size
below the header's 7 or above msize cannot be skipped over safely: it is a
`ProtocolError`, and the connection that sent it must be closed.  Never holds
more than one incomplete frame, so never more than msize bytes.
"""

from __future__ import annotations

from .constants import HEADER


class ProtocolError(Exception):
    """The peer broke the framing; nothing after it can be understood."""


class Framer:
    """`feed` bytes as they come; get whole frames back, in order."""

    __slots__ = ("_rest", "msize")

    def __init__(self, msize: int) -> None:
        self.msize = msize
        """the largest frame accepted; may be lowered between two `feed`s"""
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes.

        Frames before a bad size are lost with it: raises `ProtocolError`.
        """
        if self._rest:
            data = self._rest + data
        frames = []
        at, end = 0, len(data)
        while end - at >= 4:
            size = int.from_bytes(data[at : at + 4], "little")
            if not HEADER <= size <= self.msize:
                raise ProtocolError(
                    f"frame of {size} bytes, must be {HEADER} to {self.msize} (msize)"
                )
            if end - at < size:
                break
            frames.append(data[at : at + size])
            at += size
        self._rest = data[at:] if at < end else b""
        return frames
