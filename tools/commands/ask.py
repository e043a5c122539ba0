"""A question from the command line: of one worker, or of several."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click
from py9p.constants import ORDWR

from llambo9p.cluster.fusion import STRATEGIES
from llambo9p.fs.ctl import split_lines, split_words

from .. import show
from ..options import addr_option, connect, json_option
from ..tree import Tree

_VOTE = ("worker", "weight", "ms", "state", "answer", "text")
"""the words of a line of `votes`"""


@click.command()
@click.argument("text", required=False)
@click.option("--max-tokens", metavar="N", type=click.IntRange(min=1))
@click.option("--temperature", metavar="T", type=click.FloatRange(min=0), help="0 is greedy.")
@click.option("--seed", metavar="N", type=int)
@click.option("--system", metavar="TEXT", help="The system prompt.")
@json_option
@addr_option
def infer(
    text: str | None, system: str | None, as_json: bool, **options: float | None
) -> None:
    """Ask the cluster one question and print the answer as it comes.

    Without TEXT the question is standard input. Options hold for this question only. With
    --json the answer comes when it is whole, with its usage.
    """
    query = _question(text)
    with connect() as tree:
        if system is None and not as_json and all(value is None for value in options.values()):
            show.answer(_asked(tree, "data", query))
            return
        with _own_conversation(tree, "", options, system) as directory:
            answer = _asked(tree, f"{directory}/data", query)
            if as_json:
                show.as_json(_whole(tree, directory, answer))
            else:
                show.answer(answer)


@click.command()
@click.argument("text", required=False)
@click.option("--strategy", metavar="S", type=click.Choice(STRATEGIES), show_choices=False,
              help=f"{', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}.")  # fmt: skip
@click.option("--n", "n_nodes", metavar="N", type=click.IntRange(min=1), help="Workers to ask.")
@click.option("--timeout", "timeout_ms", metavar="MS", type=click.IntRange(min=1),
              help="Who has not answered then is left out.")  # fmt: skip
@click.option("--min-consensus", "min_consensus_nodes", metavar="N", type=click.IntRange(min=1),
              help="Answers that there must be.")  # fmt: skip
@click.option("--max-tokens", metavar="N", type=click.IntRange(min=1))
@click.option("--temperature", metavar="T", type=click.FloatRange(min=0))
@click.option("--seed", metavar="N", type=int)
@click.option("--system", metavar="TEXT", help="The system prompt.")
@click.option("--votes", is_flag=True, help="Show every worker's answer, on standard error.")
@json_option
@addr_option
def fuse(
    text: str | None,
    system: str | None,
    votes: bool,
    as_json: bool,
    **options: float | str | None,
) -> None:
    """Ask several workers, and print one answer made of theirs.

    Without TEXT the question is standard input. --json has the votes in it.
    """
    query = _question(text)
    with connect() as tree, _own_conversation(tree, "fusion/", options, system) as directory:
        try:
            answer = _asked(tree, f"{directory}/data", query)
            if as_json:
                show.as_json(_whole(tree, directory, answer) | _election(tree, directory))
            else:
                show.answer(answer)
        finally:
            if votes:
                click.echo(tree.text(f"{directory}/votes"), err=True, nl=False)


def _question(text: str | None) -> bytes:
    query = sys.stdin.buffer.read() if text is None else text.encode("utf-8", "surrogateescape")
    if not query:
        raise click.UsageError("the question is empty")
    return query


@contextlib.contextmanager
def _own_conversation(
    tree: Tree, place: str, options: Mapping[str, float | str | None], system: str | None
) -> Iterator[str]:
    """A conversation cloned in `place`, for the options belong to one; its directory, which
    is there as long as its clone file is open."""
    with tree.open(f"{place}clone", ORDWR) as ctl:
        directory = place + b"".join(ctl.chunks()).decode().strip()
        lines = [f"{name} {value}\n" for name, value in options.items() if value is not None]
        ctl.write("".join(lines).encode())
        if system is not None:
            tree.write(f"{directory}/system", system.encode("utf-8", "surrogateescape"))
        yield directory


def _asked(tree: Tree, path: str, query: bytes) -> Iterator[bytes]:
    """The pieces of the answer."""
    with tree.open(path, ORDWR) as f:
        f.write(query)
        yield from f.chunks()


def _whole(tree: Tree, directory: str, answer: Iterable[bytes]) -> dict[str, Any]:
    text = b"".join(answer).decode(errors="replace")
    return {"text": text, "usage": show.numbers(tree.text(f"{directory}/usage"))}


def _election(tree: Tree, directory: str) -> dict[str, Any]:
    """How the answer was made of several."""
    agreement = show.numbers(tree.text(f"{directory}/status")).get("agreement")
    votes = []
    for line in split_lines(tree.text(f"{directory}/votes")):
        if line:
            vote: dict[str, Any] = dict(zip(_VOTE, split_words(line), strict=True))
            votes.append(vote | {name: show.number(vote[name]) for name in ("weight", "ms")})
    return {"agreement": agreement, "votes": votes}
