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
from ..asking import Given, put_text, question, question_options
from ..failure import Failure, NoCluster
from ..options import addr_option, connect, json_option
from ..tree import Tree

_VOTE = ("worker", "weight", "ms", "state", "answer", "text")
"""the words of a line of `votes`"""


@click.command()
@click.argument("text", required=False)
@question_options
@json_option
@addr_option
def infer(text: str | None, as_json: bool, given: Given) -> None:
    """Ask the cluster one question and print the answer as it comes.

    What is piped counts, too: TEXT, an empty line, and the input.  Without TEXT, or with `-`, the
    input is the question.  Options hold for this question only.  With --json the answer comes
    when it is whole, with its usage.
    """
    given.check_shown(as_json)
    query = question(text, given.files)
    with connect() as tree:
        if given.is_plain and not as_json:
            _show(tree, "", _queried(tree, query))
            return
        with _own_conversation(tree, "", given.settings, given) as directory:
            answer = _answer(tree, directory, query)
            if as_json:
                show.as_json(_whole(tree, directory, answer, given))
            else:
                _show(tree, f"{directory}/", answer)


@click.command()
@click.argument("text", required=False)
@click.option("--strategy", metavar="S", type=click.Choice(STRATEGIES), show_choices=False,
              help=f"{', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}.")  # fmt: skip
@click.option("--n", "n_nodes", metavar="N", type=click.IntRange(min=1), help="Workers to ask.")
@click.option("--timeout", "timeout_ms", metavar="MS", type=click.IntRange(min=1),
              help="Who has not answered then is left out.")  # fmt: skip
@click.option("--min-consensus", "min_consensus_nodes", metavar="N", type=click.IntRange(min=1),
              help="Answers that there must be.")  # fmt: skip
@question_options
@click.option("--votes", is_flag=True, help="Show every worker's answer, on standard error.")
@json_option
@addr_option
def fuse(
    text: str | None, votes: bool, as_json: bool, given: Given, **fusion: float | str | None
) -> None:
    """Ask several workers, and print one answer made of theirs.

    The question is made as by `infer`.  --json has the votes in it.
    """
    given.check_shown(as_json)
    query = question(text, given.files)
    settings = {name: str(value) for name, value in fusion.items() if value is not None}
    settings |= given.settings
    with connect() as tree, _own_conversation(tree, "fusion/", settings, given) as directory:
        try:
            answer = _answer(tree, directory, query)
            if as_json:
                show.as_json(_whole(tree, directory, answer, given) | _election(tree, directory))
            else:
                _show(tree, f"{directory}/", answer)
        finally:
            if votes:
                click.echo(tree.text(f"{directory}/votes"), err=True, nl=False)


def _show(tree: Tree, place: str, answer: Iterator[bytes]) -> None:
    """Print the answer; where somebody looks on, say if it was cut.  That is read of the newest
    answer of `place`: another of the same user that ends in the same moment is taken for it."""
    show.answer(answer)
    with contextlib.suppress(Failure):  # the answer is there
        if not sys.stderr.isatty():
            return
        usage = show.words(tree.text(f"{place}usage"))
        settings = show.words(tree.text(f"{place}ctl"))
        allowed = settings.get("max_tokens", "")
        if cut := show.cut(usage, allowed, "--max-tokens allows more"):
            click.secho(f"[{cut}]", dim=True, err=True)


@contextlib.contextmanager
def _own_conversation(
    tree: Tree, place: str, settings: Mapping[str, str], given: Given
) -> Iterator[str]:
    """A conversation cloned in `place`, for the options belong to one; its directory, which
    is there as long as its clone file is open."""
    with tree.open(f"{place}clone", ORDWR) as ctl:
        directory = place + b"".join(ctl.chunks()).decode().strip()
        if settings:
            ctl.write("".join(f"{name} {value}\n" for name, value in settings.items()).encode())
        for name, text in given.texts.items():
            put_text(tree, directory, name, text, given.sources[name])
        yield directory


def _queried(tree: Tree, query: bytes) -> Iterator[bytes]:
    """The pieces of the root's answer to a query on its own."""
    with tree.open("data", ORDWR) as f:
        f.write(query)
        yield from f.chunks()


def _answer(tree: Tree, directory: str, prompt: bytes) -> Iterator[bytes]:
    """The pieces of a conversation's answer; its other files tell of it, too."""
    out = f"{directory}/out"
    tree.write(f"{directory}/prompt", prompt)
    try:
        with tree.open(out) as f:
            yield from f.chunks()
    except NoCluster:
        raise
    except Failure as e:  # whose number says nothing to anybody
        raise Failure(e.message.removeprefix(f"{out}: ")) from None


def _whole(tree: Tree, directory: str, answer: Iterable[bytes], given: Given) -> dict[str, Any]:
    text = b"".join(answer).decode(errors="replace")
    logprobs = tree.text(f"{directory}/logprobs") if "logprobs" in given.settings else ""
    return {
        "text": text,
        **show.logprobs(given.settings, logprobs),
        "usage": show.numbers(tree.text(f"{directory}/usage")),
    }


def _election(tree: Tree, directory: str) -> dict[str, Any]:
    """How the answer was made of several."""
    agreement = show.numbers(tree.text(f"{directory}/status")).get("agreement")
    votes = []
    for line in split_lines(tree.text(f"{directory}/votes")):
        if line:
            vote: dict[str, Any] = dict(zip(_VOTE, split_words(line), strict=True))
            votes.append(vote | {name: show.number(vote[name]) for name in ("weight", "ms")})
    return {"agreement": agreement, "votes": votes}
