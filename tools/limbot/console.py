"""Where a chat's lines come from on a terminal: with history, completion and several lines.

What is typed is kept, readable to its owner only, in `$XDG_STATE_HOME/llambo/limbot_history`.
"""

from __future__ import annotations

from collections.abc import Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

from ..failure import Failure
from ..history import kept
from ..prompt import Prompt
from . import commands
from .chat import DEFAULTS
from .screen import Screen


class Console:
    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._completer = _Completer()
        self._prompt = Prompt(
            _bindings(),
            history=self._open_history(),
            completer=self._completer,
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            prompt_continuation="  ",
        )
        self._prompt.hear()

    def read(self) -> str | None:
        """^C forgets what was typed; where there is nothing it says how to leave."""
        while True:
            try:
                return self._prompt.read(HTML("<b>&gt; </b>"))
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not self._prompt.typed:
                    self._screen.note("^D or /exit leaves")

    def answer(self, question: str) -> str:
        """What is typed is not kept; ^C and ^D say nothing."""
        try:
            return Prompt().read(question)
        except (EOFError, KeyboardInterrupt):
            return ""

    def offer(self, names: list[str]) -> None:
        self._completer.models = names

    def _open_history(self) -> History:
        try:
            return kept("limbot_history")
        except Failure as e:
            self._screen.note(e.message)
            return InMemoryHistory()


def _bindings() -> KeyBindings:
    bindings = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)  # and not searching

    @bindings.add("escape", "enter", filter=typing)
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("enter", filter=typing)
    def ask(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    return bindings


class _Completer(Completer):
    """Commands, and what may follow some of them."""

    def __init__(self) -> None:
        self.models: list[str] = []
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        text = document.text_before_cursor
        command, space, rest = text.partition(" ")
        if not space:
            return _beginning(text, commands.names()) if text.startswith("/") else ()
        if command in ("/save", "/load"):
            return self._paths.get_completions(Document(rest), complete_event)
        if command == "/model":
            return _beginning(rest, self.models)
        if command == "/set":
            return _beginning(rest, DEFAULTS)
        return ()


def _beginning(text: str, names: Iterable[str]) -> Iterable[Completion]:
    return [Completion(name, -len(text)) for name in names if name.startswith(text)]
