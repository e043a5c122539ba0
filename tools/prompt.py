"""A line read from a terminal, by prompt_toolkit, in which no ^C is lost or breaks anything.

What comes while one prompt ends finds prompt_toolkit without an application, which it shows as
a traceback, and what comes before the next one begins would end the program.  Here such a ^C is
the next prompt's.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import AppSession, create_app_session
from prompt_toolkit.formatted_text import AnyFormattedText
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent, merge_key_bindings
from prompt_toolkit.output.plain_text import PlainTextOutput

from .program import is_dumb_terminal


def _plain() -> contextlib.AbstractContextManager[AppSession]:
    """For a terminal that knows no escape sequences."""
    return create_app_session(output=PlainTextOutput(sys.stdout))


class Prompt:
    def __init__(self, keys: KeyBindings | None = None, **options: Any) -> None:
        """`keys` and `options` are those of a PromptSession."""
        self._late = False
        ours = KeyBindings()

        @ours.add("c-c")
        @ours.add("<sigint>")
        def interrupt(event: KeyPressEvent) -> None:
            ending = event.app.future
            if ending is None or ending.done():
                self._late = True
            else:
                event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

        bindings = merge_key_bindings([keys or KeyBindings(), ours])
        with _plain() if is_dumb_terminal() else contextlib.nullcontext():
            self._session: PromptSession[str] = PromptSession(key_bindings=bindings, **options)

    def hear(self) -> None:
        """From now on ^C is this prompt's whenever nobody else hears it."""

        def note(number: int, frame: object) -> None:
            self._late = True

        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, note)

    def read(self, message: AnyFormattedText) -> str:
        """Raises EOFError for ^D, KeyboardInterrupt for ^C."""
        if self._late:
            self._late = False
            self._session.default_buffer.reset()
            raise KeyboardInterrupt
        return self._session.prompt(message, pre_run=self._begin)

    def _begin(self) -> None:
        """What came while the prompt was being set up."""
        if self._late:
            self._late = False
            self._session.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    @property
    def typed(self) -> str:
        """What stood there when it ended."""
        return self._session.default_buffer.text
