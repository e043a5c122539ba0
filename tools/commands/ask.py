"""A question from the command line: of one worker, or of several."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping

import click
from py9p.constants import ORDWR

from llambo9p.cluster.fusion import STRATEGIES

from .. import show
from ..options import addr_option, connect
from ..tree import Tree


@click.command()
@click.argument("text", required=False)
@click.option("--max-tokens", metavar="N", type=click.IntRange(min=1))
@click.option("--temperature", metavar="T", type=click.FloatRange(min=0), help="0 is greedy.")
@click.option("--seed", metavar="N", type=int)
@click.option("--system", metavar="TEXT", help="The system prompt.")
@addr_option
def infer(text: str | None, system: str | None, **options: float | None) -> None:
    """Ask the cluster one question and print the answer as it comes.

    Without TEXT the question is standard input.  Options hold for this question only.
    """
    query = _question(text)
    with connect() as tree:
        if system is None and all(value is None for value in options.values()):
            _ask(tree, "data", query)
            return
        with _own_conversation(tree, "", options, system) as directory:
            _ask(tree, f"{directory}/data", query)


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
@addr_option
def fuse(
    text: str | None, system: str | None, votes: bool, **options: float | str | None
) -> None:
    """Ask several workers one question and print one answer made of theirs.

    Without TEXT the question is standard input.
    """
    query = _question(text)
    with connect() as tree, _own_conversation(tree, "fusion/", options, system) as directory:
        try:
            _ask(tree, f"{directory}/data", query)
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


def _ask(tree: Tree, path: str, query: bytes) -> None:
    with tree.open(path, ORDWR) as f:
        f.write(query)
        show.stream(f.chunks(), newline=sys.stdout.isatty())
