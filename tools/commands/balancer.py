"""`llamboctl balancer`: how workers are chosen, by the file of that name."""

from __future__ import annotations

from typing import Any

import click

from .. import complete, show
from ..options import addr_option, connect, json_option

_TABLES = ("type", "host", "worker")
"""what the file has several lines of, each with a name and pairs"""


@click.group(invoke_without_command=True)
@click.option("--strategy", metavar="S", shell_complete=complete.strategies,
              help="Choose by S from now on: round-robin, least-loaded, random, affinity, or one "
              "that a package adds.")  # fmt: skip
@json_option
@addr_option
@click.pass_context
def balancer(ctx: click.Context, strategy: str | None, as_json: bool) -> None:
    """Show what the load balancer does, or change how it chooses."""
    if strategy is not None:
        with connect() as tree:
            tree.write("balancer", f"{strategy}\n".encode())
    elif ctx.invoked_subcommand is None:
        _show(as_json)


@balancer.command()
@json_option
@addr_option
def stats(as_json: bool) -> None:
    """Show what the load balancer does.

    Of hosts and workers, the 16 busiest.
    """
    _show(as_json)


def _show(as_json: bool) -> None:
    with connect() as tree:
        totals, tables = parse(tree.text("balancer"))
    if as_json:
        show.as_json(totals | {f"by_{kind}": rows for kind, rows in tables.items()})
        return
    lines = []
    for name, value in totals.items():
        if isinstance(value, dict):
            lines += [(f"{name} {what}", str(count)) for what, count in value.items()]
        else:
            lines.append((name, " ".join(value) if isinstance(value, list) else str(value)))
    for name, value in lines:
        click.echo(f"{name:{max(len(name) for name, _ in lines)}}  {value}")
    for kind, rows in tables.items():
        if rows:
            click.echo()
            header = [*rows[0]]
            if kind == "host":  # an address may be long
                header.append(header.pop(0))
            show.table(header, [[str(row[name]) for name in header] for row in rows])


def parse(text: str) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Totals by name, where what counts several things is a dictionary; and for each of
    `_TABLES` what is said of each."""
    totals: dict[str, Any] = {}
    tables: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _TABLES}
    for line in text.splitlines():
        name, *words = line.split()
        if name in _TABLES:
            what, *pairs = words
            numbers = map(show.number, pairs[1::2])
            tables[name].append({name: what, **dict(zip(pairs[::2], numbers, strict=True))})
        elif name == "strategies":
            totals[name] = words
        elif len(words) == 2:
            totals.setdefault(name, {})[words[0]] = show.number(words[1])
        else:
            totals[name] = show.number(" ".join(words))
    return totals, tables
