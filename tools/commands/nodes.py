"""`llamboctl nodes`: the workers, by the files in `nodes/`."""

from __future__ import annotations

import contextlib
import time

import click

from .. import show
from ..failure import Failure
from ..options import addr_option, connect, json_option
from ..remote import Unreachable
from ..tree import Tree


@click.group()
def nodes() -> None:
    """Look at the workers."""


@nodes.command("list")
@json_option
@addr_option
def nodes_list(as_json: bool) -> None:
    """Show a line for each worker."""
    with connect() as tree:
        found = []
        for entry in tree.entries("nodes"):
            # a worker may go while we look
            with contextlib.suppress(_Gone):
                found.append(_node(tree, entry.name))
    if as_json:
        show.as_json(found)
        return
    header = [name for name in (found[0] if found else {}) if name not in ("epoch", "circuit")]
    rows = [[_cell(name, node.get(name, "-")) for name in header] for node in found]
    if rows:
        show.table(header, rows)
    else:
        click.echo("no workers; start some with `llamboctl spawn --count 4 --type tiny`", err=True)


class _Gone(Exception):
    pass


def _node(tree: Tree, name: str) -> dict[str, str]:
    try:
        text = tree.text(f"nodes/{name}")
    except Unreachable:
        raise
    except Failure:
        raise _Gone from None
    return {
        attr: value if isinstance(value, str) else " ".join(value)
        for attr, value in show.attributes(text).items()
    }


def _cell(attr: str, value: str) -> str:
    """For people: a model without its path, a heartbeat as the time since then."""
    if attr == "model":
        return value.rpartition("/")[2] or value
    if attr == "heartbeat":
        with contextlib.suppress(ValueError):
            return f"{max(time.time() - float(value), 0):.1f}s"
    return value
