"""What operators look at: files of the root, as they are or as JSON."""

from __future__ import annotations

import click

from .. import show
from ..options import addr_option, connect, json_option


@click.command()
@json_option
@addr_option
def status(as_json: bool) -> None:
    """Show the cluster's state."""
    with connect() as tree:
        text = tree.text("status")
    if as_json:
        show.as_json(show.attributes(text))
    else:
        click.echo(text, nl=not text.endswith("\n"))
