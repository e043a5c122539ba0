"""A long text that is made piece by piece, each piece when somebody reads it.

Opening such a text costs nothing, and a read makes about what it returns.  So a text of megabytes
never holds up the event loop, and takes no memory while it is open.

Reads go forward mostly: a cursor stands at the last piece that was read.  A read behind it begins
anew.  A read far ahead makes what it skips in parts of `MOST` bytes, and lets others go on in
between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from ..p9.node import Maybe

MOST = 1 << 19
"""bytes that one turn of the event loop may make and skip"""
_EACH = 256
"""bytes that a piece counts beside its own: small ones cost time, too"""


class _Cursor:
    """The place of one reader: `piece` begins at `start`."""

    __slots__ = ("pieces", "piece", "start")

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.piece = b""
        self.start = 0

    def skip(self, offset: int) -> bool:
        """Go on to the piece that has `offset`, or to the end; False when that is far."""
        made = 0
        while offset >= self.start + len(self.piece) and made < MOST:
            piece = next(self.pieces, None)
            if piece is None:
                return True
            self.start += len(self.piece)
            self.piece = piece
            made += len(piece) + _EACH
        return made < MOST

    def take(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset`, which is in `piece` or beyond the end."""
        parts: list[bytes] = []
        while count > 0:
            at = offset - self.start
            part = self.piece[at : at + count]
            if not part:
                piece = next(self.pieces, None)
                if piece is None:
                    break
                self.start += len(self.piece)
                self.piece = piece
                continue
            parts.append(part)
            offset += len(part)
            count -= len(part)
        return b"".join(parts)


class Pieces:
    """The text of one open file.  `make` gives its pieces from the first on, each time the same;
    none of them is long."""

    __slots__ = ("_cursor", "_make")

    def __init__(self, make: Callable[[], Iterator[bytes]]) -> None:
        self._make = make
        self._cursor = _Cursor(make())

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        cursor = self._cursor
        if offset < cursor.start:
            cursor = self._cursor = _Cursor(self._make())
        if cursor.skip(offset):
            return cursor.take(offset, count)
        # reads that overlap may have moved the cursor by then: this one has its own
        self._cursor = _Cursor(self._make())
        return self._read_far(cursor, offset, count)

    async def _read_far(self, cursor: _Cursor, offset: int, count: int) -> bytes:
        while not cursor.skip(offset):  # noqa: ASYNC110 - nobody else moves this cursor
            await asyncio.sleep(0)
        self._cursor = cursor
        return cursor.take(offset, count)
