"""`llamboctl limbot`, and `limbot` by itself: a chat with the cluster, or one question."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click

from .. import options, show
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
@click.option("--system", metavar="TEXT", default="", help="The system prompt.")
@click.option("--max-tokens", metavar="N", type=click.IntRange(min=1), help="Longest answer.")
@click.option("--temperature", metavar="T", type=click.FloatRange(min=0), help="0 is greedy.")
@click.option("--seed", metavar="N", type=click.IntRange(min=0))
@addr_option
def limbot(
    prompt: tuple[str, ...],
    interactive: bool,
    as_json: bool,
    system: str,
    **settings: float | None,
) -> None:
    """Chat with the cluster, or ask it one PROMPT (`-`: standard input).

    /help in the chat shows its commands.  A chat survives a restart of the cluster's
    orchestrator.
    """
    if interactive and as_json:
        raise click.UsageError("--json is for one question, without -i")
    given = {name: str(value) for name, value in settings.items() if value is not None}
    question = _question(prompt, interactive)
    if question is None or interactive:
        _chat(question, given, system)
    else:
        _ask(question, given, system, as_json)


def _question(words: tuple[str, ...], interactive: bool) -> str | None:
    """None for a chat."""
    if words == ("-",) or (not words and not interactive and not sys.stdin.isatty()):
        if interactive:
            raise click.UsageError("standard input is the chat's; it cannot be the PROMPT, too")
        text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    elif words:
        text = " ".join(words)
    else:
        return None
    if not text.strip():
        raise click.UsageError("the PROMPT is empty")
    return text


def _ask(question: str, settings: Mapping[str, str], system: str, as_json: bool) -> None:
    screen = Screen()
    patience = 0.0 if options.explaining() else _PATIENCE_S
    queued = screen.queued if patience else None
    chat = Chat(options.connecting(), settings, system, screen.note, patience, queued)
    shown = _nothing if as_json else screen.answer

    def ask() -> Answer:
        chat.open()
        answer = chat.ask(question, shown)
        chat.close()
        return answer

    answer = apart(ask)
    if as_json:
        usage = {name: show.number(value) for name, value in answer.usage.items()}
        show.as_json({"text": answer.text, "usage": usage})
    elif screen.is_terminal:
        screen.end_line()


@options.beyond_files(
    "each prompt is written to a conversation cloned at the root; "
    "`llamboctl --explain limbot PROMPT` shows how"
)
def _chat(first: str | None, settings: Mapping[str, str], system: str) -> None:
    screen = Screen()
    chat = Chat(options.connecting(), settings, system, screen.note, queued=screen.queued)
    apart(chat.open)
    reader: Reader = Pipe()
    if sys.stdin.isatty() and screen.is_terminal:
        from ..limbot.console import Console  # half of what a question takes to start

        reader = Console(screen)
    session = Session(chat, screen, reader)
    session.greet(str(options.cluster().address))
    session.run(first)
    session.call(chat.close)


def _nothing(piece: bytes) -> None:
    pass


def main() -> None:
    """The console script."""
    run(limbot, "limbot")
