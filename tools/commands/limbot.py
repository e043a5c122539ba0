"""`llamboctl limbot`, and `limbot` by itself: a chat with the cluster, or one question."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import click

from .. import options, show
from ..asking import Given, question, question_options
from ..calls import apart
from ..limbot.answer import Answer
from ..limbot.chat import Chat
from ..limbot.pipe import Pipe
from ..limbot.screen import Screen
from ..limbot.session import Reader, Session
from ..options import addr_option
from ..program import run

_PATIENCE_S = 30.0
"""that a question from a script waits for a cluster that went away"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("prompt", nargs=-1)
@click.option("-i", "--interactive", is_flag=True, help="Chat, even after a PROMPT or in a pipe.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer and its usage as JSON.")
@question_options
@addr_option
def limbot(prompt: tuple[str, ...], interactive: bool, as_json: bool, given: Given) -> None:
    """Chat with the cluster, or ask it one PROMPT.

    What is piped counts, too: PROMPT, an empty line, and the input.  With `-` instead of it, and
    without it in a pipe, the input is the prompt.  /help in the chat shows its commands.  A chat
    survives a restart of the cluster's orchestrator; one in a pipe (-i) fails when a prompt or a
    command of it has failed.
    """
    if interactive and as_json:
        raise click.UsageError("--json is for one question, without -i")
    words = " ".join(prompt) if prompt else None
    chats = interactive or (words is None and not given.files and sys.stdin.isatty())
    if not chats:
        given.check_shown(as_json)
        _ask(_text(question(words, given.files)), given, as_json)
    elif words is None and not given.files:
        _chat(None, given)
    else:
        _chat(_text(question(words, given.files, pipe=False)), given)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _ask(prompt: str, given: Given, as_json: bool) -> None:
    screen = Screen()
    patience = 0.0 if options.explaining() else _PATIENCE_S
    queued = screen.queued if patience else None
    chat = _chat_with(given, screen.note, patience, queued)
    shown = _nothing if as_json else screen.answer

    def ask() -> tuple[Answer, str]:
        chat.open()
        answer = chat.ask(prompt, shown)
        logprobs = chat.read_own("logprobs") if "logprobs" in given.settings else ""
        chat.close()
        return answer, logprobs

    answer, logprobs = apart(ask)
    if as_json:
        usage = {name: show.number(value) for name, value in answer.usage.items()}
        show.as_json(
            {"text": answer.text, **show.logprobs(given.settings, logprobs), "usage": usage}
        )
    elif screen.is_terminal:
        screen.end_line()
        if cut := show.cut(answer.usage, chat.max_tokens, "--max-tokens allows more"):
            screen.note(cut)


@options.beyond_files(
    "each prompt is written to a conversation cloned at the root; "
    "`llamboctl --explain limbot PROMPT` shows how"
)
def _chat(first: str | None, given: Given) -> None:
    screen = Screen()
    chat = _chat_with(given, screen.note, queued=screen.queued)
    apart(chat.open)
    reader: Reader = Pipe()
    if sys.stdin.isatty() and screen.is_terminal:
        from ..limbot.console import Console  # half of what a question takes to start

        reader = Console(screen)
    session = Session(chat, screen, reader)
    session.greet(str(options.cluster().address))
    session.run(first)
    session.call(chat.close)
    if session.failed and not sys.stdin.isatty():
        raise click.exceptions.Exit(1)


def _chat_with(
    given: Given,
    notice: Callable[[str], None],
    patience: float = math.inf,
    queued: Callable[[int], None] | None = None,
) -> Chat:
    texts = {name: _text(text).removesuffix("\n") for name, text in given.texts.items()}
    return Chat(
        options.connecting(), given.settings, texts, given.sources, notice, patience, queued
    )


def _nothing(piece: bytes) -> None:
    pass


def main() -> None:
    """The console script."""
    run(limbot, "limbot")
