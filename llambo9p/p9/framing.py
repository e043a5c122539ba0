"""Cuts a byte stream into 9P frames, and bounds every length while doing it.

A frame is size[4] type[1] tag[2] ..., size counting itself (intro(5)).  A size
below the header's 7 or above msize cannot be skipped over safely: it is a
`ProtocolError`, and the connection that sent it must be closed.  Never holds
more than one incomplete frame, so never more than msize bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .constants import HEADER

_unpack_size = struct.Struct("<I").unpack_from


class ProtocolError(Exception):
    """The peer broke the framing; nothing after it can be understood."""

    def __init__(self, reason: str, frames: Sequence[bytes] = ()) -> None:
        super().__init__(reason)
        self.frames = frames
        """the sound ones that came before, where it was found while cutting"""


class Framer:
    """`feed` bytes as they come; get whole frames back, in order."""

    __slots__ = ("msize", "rest")

    def __init__(self, msize: int) -> None:
        self.msize = msize
        """the largest frame accepted; may be lowered between two `feed`s"""
        self.rest = b""
        """what is in no frame yet: one that is incomplete, or all from a bad size on"""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes.

        Raises `ProtocolError`, with the frames before it, at a bad size.
        """
        if self.rest:
            data = self.rest + data
        frames: list[bytes] = []
        at, end = 0, len(data)
        msize = self.msize
        while end - at >= 4:
            (size,) = _unpack_size(data, at)
            if not HEADER <= size <= msize:
                self.rest = data[at:]
                raise ProtocolError(
                    f"frame of {size} bytes, must be {HEADER} to {msize} (msize)", frames
                )
            after = at + size
            if after > end:
                break
            frames.append(data[at:after])
            at = after
        self.rest = data[at:] if at < end else b""
        return frames
