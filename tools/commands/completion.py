"""`llamboctl completion`: the script by which a shell completes llamboctl's command lines.

What it offers of the live tree is `complete`'s.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ..options import beyond_files


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@beyond_files("prints a script for your shell")
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script by which a shell completes llamboctl's words.

    Completed are commands, workers, node types, models, strategies and paths of the tree.

    For bash: eval "$(llamboctl completion bash)" in ~/.bashrc.
    """
    made = get_completion_class(shell)
    assert made is not None
    root = ctx.find_root()
    name = root.info_name or "llamboctl"
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    click.echo(made(root.command, {}, name, variable).source())
