"""What limbot says: answers to standard output, everything about them to standard error.

On a terminal notes are dim, errors red, and answers `Prose`.  Into a pipe go an answer's bytes.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import termios
from collections.abc import Iterator

import click

from ..prose import VISIBLE, Prose


class Screen:
    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        # of the command's context, which other threads do not see
        self._color = click.get_current_context().color
        self._prose = Prose(lambda: shutil.get_terminal_size().columns)
        self._in_line = False

    def answer(self, piece: bytes) -> None:
        self._write(self._prose.add(piece) if self.is_terminal else piece)
        if piece:
            self._in_line = not piece.endswith(b"\n")

    def end_line(self) -> None:
        """If there is one: what follows stands below it."""
        if self._in_line:
            self._in_line = False
            self._write((self._prose.rest() if self.is_terminal else b"") + b"\n")

    def _write(self, data: bytes) -> None:
        # past the buffer, whose lock a thread that ^C cuts off would hold at the program's end
        out = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
        while data:
            data = data[out.write(data) :]

    def say(self, text: str = "", bold: bool = False) -> None:
        """What a command was asked to show."""
        self.end_line()
        if self.is_terminal:
            text = text.translate(VISIBLE)
        click.echo(click.style(text, bold=True) if bold else text, color=self._color)

    def gap(self) -> None:
        """An empty line between what was said and what comes, where people read."""
        if self.is_terminal:
            click.echo()

    def note(self, text: str) -> None:
        if self.is_terminal:
            self.end_line()
        click.secho(f"[{text}]", dim=True, err=True, color=self._color)

    def queued(self, position: int) -> None:
        """Where people wait for an answer."""
        if self.is_terminal:
            self.note(f"place {position} in the queue")

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
