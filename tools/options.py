"""The options that several commands of llamboctl take, and the cluster that they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .which_cluster import Cluster, find

_Command = Callable[..., Any]


def _remember_address(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value:
        ctx.find_root().obj = value


def addr_option(command: _Command) -> _Command:
    """`--addr`, which goes before the command's name or after it."""
    return click.option(
        "--addr",
        metavar="ADDR",
        expose_value=False,
        callback=_remember_address,
        help="The cluster, as tcp!HOST!PORT, tls!HOST!PORT or unix!PATH  [default: $LLAMBO_ADDR, "
        "or what the state file says]",
    )(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def cluster() -> Cluster:
    """The cluster of the command that runs.  Raises Failure."""
    return find(click.get_current_context().find_root().obj)
