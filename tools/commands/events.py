"""`llamboctl events`: what happened in the cluster, a line for each event."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import click

from .. import show
from ..options import addr_option, connect, json_option
from ..tree import Tree, lines

_BAD = ("lost", "failed", "rejected", "ended", "missed")
_COMMON = ("seq", "time", "kind", "epoch")
"""what is shown apart, or is nothing for people"""


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Wait for what comes, until ^C.")
@json_option
@addr_option
def events(follow: bool, as_json: bool) -> None:
    """Show what happened in the cluster.

    The oldest of the newest 10,000 events comes first. With --json an event is a line of
    JSON, as in the file `events`.
    """
    with connect() as tree:
        for line in _lines(tree) if follow else _until_now(tree):
            if as_json:
                show.stream([line])
            else:
                _show(json.loads(line))


def _until_now(tree: Tree) -> Iterator[bytes]:
    """The file does not end by itself: `status` knows how many there have been."""
    last = int(show.numbers(tree.text("status")).get("events", 1)) - 1
    if last < 0:
        return
    for line in _lines(tree):
        yield line
        if json.loads(line)["seq"] >= last:
            return


def _lines(tree: Tree) -> Iterator[bytes]:
    with tree.open("events") as f:
        yield from lines(f.chunks())


def _show(event: dict[str, object]) -> None:
    when = time.strftime("%b %d %H:%M:%S", time.localtime(float(str(event["time"]))))
    kind = str(event["kind"])
    colour = "red" if kind.endswith(_BAD) else None
    attrs = "  ".join(f"{k} {v}" for k, v in event.items() if k not in _COMMON)
    click.echo(f"{click.style(when, dim=True)}  {click.style(f'{kind:18}', fg=colour)}  {attrs}")
