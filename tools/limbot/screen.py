"""What limbot says: answers to standard output, everything about them to standard error.

On a terminal notes are dim, errors red, and nothing that a model answers can command it:
control characters are shown as `cat -v` shows them.  Into a pipe go an answer's bytes.
"""

from __future__ import annotations

import codecs
import contextlib
import sys
import termios
from collections.abc import Iterator

import click

_VISIBLE = {
    code: "^" + chr(code ^ 0x40) if code < 0x80 else f"M-^{chr(code - 0x40)}"
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\n\t"
}


class Screen:
    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        # of the command's context, which other threads do not see
        self._color = click.get_current_context().color
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._in_line = False

    def answer(self, piece: bytes) -> None:
        out = sys.stdout.buffer
        if self.is_terminal:
            piece = self._decoder.decode(piece).translate(_VISIBLE).encode()
        out.write(piece)
        out.flush()
        if piece:
            self._in_line = not piece.endswith(b"\n")

    def end_line(self) -> None:
        """If there is one: what follows stands below it."""
        if self._in_line:
            self._in_line = False
            click.echo()

    def say(self, text: str = "", bold: bool = False) -> None:
        """What a command was asked to show."""
        self.end_line()
        if self.is_terminal:
            text = text.translate(_VISIBLE)
        click.echo(click.style(text, bold=True) if bold else text, color=self._color)

    def gap(self) -> None:
        """An empty line between what was said and what comes, where people read."""
        if self.is_terminal:
            click.echo()

    def note(self, text: str) -> None:
        if self.is_terminal:
            self.end_line()
        click.secho(f"[{text}]", dim=True, err=True, color=self._color)

    def error(self, text: str) -> None:
        if self.is_terminal:
            self.end_line()
        click.secho(f"limbot: {text}", fg="red", err=True, color=self._color)

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """What is typed meanwhile is not shown in the middle of an answer; whoever reads next
        gets it."""
        if not (self.is_terminal and sys.stdin.isatty()):
            yield
            return
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
        quiet = termios.tcgetattr(fd)
        quiet[3] &= ~termios.ECHO
        termios.tcsetattr(fd, termios.TCSADRAIN, quiet)
        try:
            yield
        finally:
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
