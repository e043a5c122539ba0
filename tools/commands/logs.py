"""`llamboctl logs`: what the programs of the cluster say, by the files in `logs/`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import click

from .. import show
from ..failure import Failure
from ..options import addr_option, connect, json_option
from ..remote import Unreachable
from ..tree import Tree
from ..workers import Worker, parse


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until ^C.")
@click.option("-n", "--lines", metavar="N", type=click.IntRange(min=0),
              help="Only the last N lines of what there is.")  # fmt: skip
@json_option
@addr_option
def logs(name: str | None, follow: bool, lines: int | None, as_json: bool) -> None:
    """Print the log of a host, of a worker's host, or of the orchestrator.

    Without NAME, list the logs.  Lines are text or JSON as `monitoring.log_format` says.
    """
    if name is None and (follow or lines is not None):
        raise click.UsageError("whose log? `llamboctl logs` lists them")
    if name is not None and as_json:
        raise click.UsageError("--json lists logs; a log's lines are what they are")
    with connect() as tree:
        if name is None:
            _list(tree, as_json)
        else:
            _print(tree, _path(tree, name), follow, lines)


def _list(tree: Tree, as_json: bool) -> None:
    names = [entry.name for entry in tree.entries("logs")]
    workers = parse(tree.text("workers"))
    counts = Counter(worker.host for worker in workers)
    types = {worker.host: worker.type for worker in workers}
    if as_json:
        show.as_json(
            [{"name": n, "type": types.get(n), "workers": counts.get(n, 0)} for n in names]
        )
        return
    show.table(
        ["name", "type", "workers"],
        ([name, types.get(name, "-"), str(counts.get(name, "-"))] for name in names),
    )


def _path(tree: Tree, name: str) -> str:
    """Of the log that is called so, or of the host of the worker that is."""
    path = f"logs/{name}"
    try:
        tree.stat(path)
        return path
    except Unreachable:
        raise
    except Failure as e:
        worker = _worker(tree, name)
        if worker is None:
            raise Failure(f"{e.message}; `llamboctl logs` lists the logs") from None
    if worker.host == "-":
        raise Failure(f"the host of {name}, at {worker.addr}, was not started by this cluster")
    return f"logs/{worker.host}"


def _worker(tree: Tree, name: str) -> Worker | None:
    return next((worker for worker in parse(tree.text("workers")) if worker.name == name), None)


def _print(tree: Tree, path: str, follow: bool, lines: int | None) -> None:
    if follow:
        chunks = tree.follow(path)
    else:
        with tree.open(path) as f:
            chunks = iter(list(f.chunks()))
    if lines is not None:
        there = itertools.takewhile(bool, chunks)
        chunks = itertools.chain([_last(there, lines)], chunks)
    show.stream(chunks)


def _last(chunks: Iterable[bytes], lines: int) -> bytes:
    whole = b"".join(chunks).splitlines(keepends=True)
    return b"".join(whole[max(len(whole) - lines, 0) :])

