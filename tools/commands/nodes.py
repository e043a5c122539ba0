"""`llamboctl nodes`: the workers, by the file `workers`, those in `nodes/`, and the verbs about
them."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import click

from llambo9p.fs.ctl import quote

from .. import complete, show
from ..options import addr_option, connect, json_option
from ..workers import Worker, parse

_COLUMNS = (
    "id", "type", "state", "health", "load", "queued", "capacity", "requests", "tokens", "errors",
    "heartbeat", "model", "addr",
)  # fmt: skip
"""what a terminal may cut off comes last"""

_NUMBERS = (
    "load", "queued", "capacity", "requests", "tokens", "errors", "heartbeat", "epoch"
)  # fmt: skip

_FIGURES = ("state", "load", "queued", "requests", "tokens", "errors")
"""that only administrators are told"""

_names = click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete.workers
)


@click.group()
def nodes() -> None:
    """Look at the workers, and say which of them get work."""


@nodes.command("list")
@json_option
@addr_option
def nodes_list(as_json: bool) -> None:
    """Show a line for each worker."""
    with connect() as tree:
        found = parse(tree.text("workers"))
    if as_json:
        show.as_json([*map(_as_dict, found)])
    elif found:
        show.table(_COLUMNS, map(_cells, found))
    else:
        click.echo("no workers; start some with `llamboctl spawn --count 4`", err=True)


@nodes.command("show")
@_names
@json_option
@addr_option
def nodes_show(names: tuple[str, ...], as_json: bool) -> None:
    """Show all that is known of workers."""
    with connect() as tree:
        texts = [tree.text(f"nodes/{name}") for name in names]
    if as_json:
        show.as_json([_typed(show.words(text)) for text in texts])
    else:
        click.echo("\n".join(texts), nl=False)


def _verb(name: str, what: str) -> None:
    @nodes.command(name, help=what)
    @_names
    @addr_option
    def command(names: tuple[str, ...]) -> None:
        with connect() as tree:
            tree.write("ctl", f"{name} {' '.join(map(quote, names))}\n".encode())


_verb("drain", "Let workers finish what they have, and give them nothing new.")
_verb("resume", "Give workers work again that were drained or failed.")
_verb("kill", "End workers at once; what was asked of them goes on elsewhere.")


def _typed(node: dict[str, str]) -> dict[str, Any]:
    return node | {name: show.number(node[name]) for name in _NUMBERS if name in node}


def _as_dict(worker: Worker) -> dict[str, Any]:
    """By the names that `nodes/` has."""
    said = dataclasses.asdict(worker)
    if not said.pop("figures"):
        said = {name: value for name, value in said.items() if name not in _FIGURES}
    return {"id": said.pop("name"), **said}


def _cells(worker: Worker) -> list[str]:
    """For people: a model without its path, a heartbeat as the time since then."""
    said = _as_dict(worker)
    said["model"] = worker.model.rpartition("/")[2] or worker.model
    said["heartbeat"] = f"{max(time.time() - worker.heartbeat, 0):.1f}s"
    return [str(said.get(name, "-")) for name in _COLUMNS]
