"""dish on a terminal: the prompt, its history, and lines that go on until they are whole."""

from __future__ import annotations

import click
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

from ..failure import Failure
from ..history import kept
from ..prompt import Prompt
from .completion import ShellCompleter
from .shell import Shell
from .syntax import Misread, parse


def converse(shell: Shell) -> None:
    """Until `exit`, whose Exit is raised, or ^D."""
    prompt = Prompt(
        _keys(),
        history=_history(),
        completer=ShellCompleter(shell),
        complete_in_thread=True,
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        multiline=True,
        reserve_space_for_menu=0,
        prompt_continuation=lambda width, line, wrapped: "" if wrapped else "> ".rjust(width),
    )
    prompt.hear()
    address = shell.namespace.find("/").address
    click.echo(f"The files of {address}; help shows the commands, exit or ^D leaves.", err=True)
    while True:
        try:
            line = prompt.read(_prompt(shell.directory))
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        try:
            shell.run(parse(line))
        except KeyboardInterrupt:
            click.echo(err=True)  # after the ^C that the terminal shows
        except Misread as e:
            where = "" if e.at.line == 1 else f"line {e.at.line}, "
            _complain(f"{where}column {e.at.column}: {e.message}")
        except Failure as e:
            _complain(e.message)


def _prompt(directory: str) -> FormattedText:
    """`llambo> ` at the root."""
    return FormattedText([("bold", f"llambo{directory.rstrip('/')}> ")])


def _complain(why: str) -> None:
    click.secho(why, fg="red", err=True)


def _history() -> History:
    try:
        return kept("dish_history")
    except Failure as e:
        _complain(e.message)
        return InMemoryHistory()


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def enter(event: KeyPressEvent) -> None:
        """Runs what is whole; another line for what is not."""
        buffer = event.current_buffer
        try:
            parse(buffer.text)
        except Misread as e:
            if e.incomplete and buffer.document.is_cursor_at_the_end:
                buffer.insert_text("\n")
                return
        buffer.validate_and_handle()

    return keys
