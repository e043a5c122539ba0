"""The loop of a chat: a line is a command or a prompt, until there are no more.

Nothing that goes wrong in between ends it, and ^C ends what runs and no more.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from .. import show
from ..calls import apart
from ..failure import Failure
from . import commands
from .answer import Answer
from .chat import Chat
from .screen import Screen

T = TypeVar("T")

_PATIENCE_S = 2.0
"""for the cluster to answer a `cancel`"""

_COMMAND = re.compile(r"/([A-Za-z]*)(?:\s+(.*))?", re.DOTALL)
"""`/etc/passwd is` begins a prompt"""


class Reader(Protocol):
    """Where lines come from."""

    def read(self) -> str | None:
        """What is asked or commanded, perhaps in several lines; None when there is no more."""

    def answer(self, question: str) -> str:
        """What is said to it, perhaps nothing."""

    def offer(self, names: list[str]) -> None:
        """What `/model` may be followed by."""


class Session:
    def __init__(self, chat: Chat, screen: Screen, reader: Reader) -> None:
        self.chat = chat
        self.screen = screen
        self.reader = reader
        self.last: Answer | None = None
        """the newest answer, for what it took"""
        self.over = False
        self.failed = False
        """a prompt or a command did"""
        self._forgets = False
        """that turns are forgotten was said"""

    def run(self, first: str | None = None) -> None:
        """`first` is asked before anything is read."""
        if first is not None:
            self.take(first)
        while not self.over:
            line = self.reader.read()
            if line is None:
                break
            self.take(line)

    def take(self, line: str) -> None:
        """A command, or a prompt."""
        command = _COMMAND.fullmatch(line.strip())
        try:
            if command:
                commands.run(self, command[1].lower(), (command[2] or "").strip())
            elif line.strip():
                self.ask(line)
        except Failure as e:
            self.failed = True
            self.screen.error(e.message)
        if line.strip():
            self.screen.end_line()
            self.screen.gap()

    def ask(self, prompt: str) -> None:
        """Show the answer, and what is to be said of it.  Raises Failure."""
        self._show(lambda: self.chat.ask(prompt, self.screen.answer), int(self.chat.max_tokens))

    def more(self) -> None:
        """Go on with the last answer.  Raises Failure when there is nothing to go on with."""
        last = self.last
        if last is None or not self.chat.can_go_on(last):
            raise Failure("there is no answer that was cut or stopped")
        allowed = self.chat.most_after(last)
        self._show(lambda: self.chat.more(last, self.screen.answer), allowed)

    def _show(self, answering: Callable[[], Answer], allowed: int) -> None:
        """With what is to be said of an answer of at most so many tokens."""
        with self.screen.silence():
            self.last = answer = self.call(answering)
        if answer.stopped:
            self.screen.note("stopped; /more goes on")
        elif cut := show.cut(answer.usage, str(allowed), "/more goes on"):
            self.screen.note(cut)
        self._tell_what_is_forgotten(int(answer.usage.get("trimmed_turns", "0")))

    def _tell_what_is_forgotten(self, turns: int) -> None:
        """When it begins."""
        begins, self._forgets = turns > 0 and not self._forgets, turns > 0
        if begins:
            what = "the first turn is" if turns == 1 else f"the first {turns} turns are"
            larger = self.call(lambda: commands.larger_types(self))
            hint = f"; {larger}" if larger else ""
            self.screen.note(f"{what} forgotten: the context is full{hint}")

    def call(self, method: Callable[[], T]) -> T:
        """A method of the chat, which ^C stops; a second one hangs up."""
        self.chat.stopping.clear()
        return apart(method, self._interrupt)

    def _interrupt(self, number: int) -> None:
        if number > 1:
            self.chat.hang_up()
            return
        hint = "the cluster does not react; ^C again hangs up"
        timer = threading.Timer(_PATIENCE_S, self.screen.note, (hint,))
        timer.start()
        self.chat.stop()
        timer.cancel()

    def confirm(self, question: str) -> bool:
        return self.reader.answer(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    def greet(self, address: str) -> None:
        """What one talks to; where there are no workers, how to get some."""
        if not self.screen.is_terminal:
            return
        status = show.words(self.call(lambda: self.chat.read("status")))
        self.reader.offer([*status.get("types", "").split(), *status.get("models", "").split()])
        self.screen.say(f"limbot at {address}: {commands.offer(status)}", bold=True)
        self.screen.say("/help shows the commands, ^C stops an answer, ^D leaves.")
        self.screen.gap()
