"""Token bytes in, answer text out: the pure text side of one answer.

Owns the undecided end of an answer: an incomplete UTF-8 character, and text that
may be the beginning of a stop string.

Rules it keeps:
- Only whole characters leave; bytes that are not UTF-8 become U+FFFD.
- The answer ends before the first occurrence of a stop string, the one that
  begins earliest; nothing of it ever leaves.
- The result does not depend on how the bytes were split into tokens.
- Nothing is held back that cannot be the beginning of a stop string.

It must never look at tokens: it knows bytes only.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable


class Answer:
    """The text of one answer while it grows.

    `stopped` says that a stop string ended it; pushes after that give nothing.
    """

    def __init__(self, stop: Iterable[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> bytes:
        """The text that becomes final with the next token's bytes."""
        if self.stopped:
            return b""
        text = self._decoder.decode(piece)
        if not self._stop:
            return text.encode()
        self._held += text
        undecided = self._undecided()
        found = self._first_stop()
        if found is not None and found <= undecided:
            return self._end(found)
        final, self._held = self._held[:undecided], self._held[undecided:]
        return final.encode()

    def flush(self) -> bytes:
        """What was held back: nothing more can come."""
        if self.stopped:
            return b""
        self._held += self._decoder.decode(b"", final=True)
        found = self._first_stop()
        if found is not None:
            return self._end(found)
        final, self._held = self._held, ""
        return final.encode()

    def _end(self, at: int) -> bytes:
        self.stopped = True
        final, self._held = self._held[:at], ""
        return final.encode()

    def _first_stop(self) -> int | None:
        found = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        return min(found) if found else None

    def _undecided(self) -> int:
        """Where the held text begins that a longer text could turn into a stop string."""
        held, size = self._held, len(self._held)
        longest = max(len(s) for s in self._stop)
        for at in range(max(0, size - longest + 1), size):
            tail = held[at:]
            if any(len(s) > len(tail) and s.startswith(tail) for s in self._stop):
                return at
        return size
