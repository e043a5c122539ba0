"""An answer as a terminal shows it: words are whole, and nothing in it commands the terminal.

A `Prose` holds back the word that is being said, until it ends or would fill a line by itself.
Control characters are shown as `cat -v` shows them.  Pipes get an answer's own bytes, and none
of this.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable

VISIBLE = {
    code: "^" + chr(code ^ 0x40) if code < 0x80 else f"M-^{chr(code - 0x40)}"
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\n\t"
}
"""for str.translate"""
_TAB = 8


class Prose:
    def __init__(self, width: Callable[[], int]) -> None:
        """`width` is that of the terminal now, in columns."""
        self._width = width
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._column = 0
        self._gap = self._word = ""
        """what was not shown yet"""

    def add(self, piece: bytes) -> bytes:
        """What is to be shown now."""
        return self._shown(self._decoder.decode(piece))

    def rest(self) -> bytes:
        """What was held back; the next begins a line."""
        shown = self._shown(self._decoder.decode(b"", final=True))
        shown += self._placed() + self._gap.encode()
        self._gap, self._column = "", 0
        return shown

    def _shown(self, text: str) -> bytes:
        width = self._width()
        shown = []
        for ch in text.translate(VISIBLE):
            if ch == "\n":
                shown += [self._placed(), b"\n"]
                self._gap, self._column = "", 0
            elif ch.isspace():
                shown.append(self._placed())
                self._gap += " " * (_TAB - self._end % _TAB) if ch == "\t" else ch
            elif _cells(ch) == 2:  # a script that has no spaces between words
                shown.append(self._placed())
                self._word = ch
                shown.append(self._placed())
            else:
                self._word += ch
                if len(self._word) >= width:
                    shown.append(self._placed())
        return b"".join(shown)

    @property
    def _end(self) -> int:
        return self._column + len(self._gap)

    def _placed(self) -> bytes:
        """The word, where it has room."""
        if not self._word:
            return b""
        cells = _cells(self._word)
        if self._column and self._end + cells > self._width():
            before, self._column = "\n", cells
        else:
            before, self._column = self._gap, self._end + cells
        word, self._gap, self._word = self._word, "", ""
        return (before + word).encode()


def _cells(text: str) -> int:
    """Columns of the terminal."""
    return sum(
        0 if unicodedata.combining(ch) else 2 if unicodedata.east_asian_width(ch) in "WF" else 1
        for ch in text
    )
