"""`llamboctl checkpoint`: what is saved of a cluster, so that another can be like it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from llambo9p.cluster import checkpoints, state, state_file
from llambo9p.errors import Error
from llambo9p.fs.ctl import quote

from .. import show
from ..failure import Failure
from ..options import addr_option, beyond_files, connect, json_option
from ..which_cluster import state_path


@click.command()
@click.option("--save", "what", flag_value="save", help="Write what the cluster is to FILE.")
@click.option("--restore", "what", flag_value="restore",
              help="Bring back what FILE has and the cluster has not.")  # fmt: skip
@click.option("--show", "what", flag_value="show", help="Show what FILE has.")
@click.argument("file", metavar="[FILE]", required=False)
@json_option
@addr_option
def checkpoint(what: str | None, file: str | None, as_json: bool) -> None:
    """Save what the cluster is, and restore it.

    That is its hosts and workers, the strategy, and the settings of users. FILE is on the
    cluster's machine: a name, for a file beside the cluster's state file (in
    STATE.checkpoints/), or a path, which has a "/" and is for the cluster's owner only. Without
    FILE it is the state file that the cluster keeps by itself. Nothing that runs is stopped by a
    restore.
    """
    if what is None:
        raise click.UsageError("say which: --save, --restore or --show")
    if what == "show":
        _show(file, as_json)
        return
    words = [what]
    if file is not None:
        words.append(quote(str(Path(file).absolute()) if "/" in file else file))
    with connect() as tree:
        tree.write("ctl", (" ".join(words) + "\n").encode())


@beyond_files("reads a file that is not in the tree")
def _show(file: str | None, as_json: bool) -> None:
    path = state_path()
    if file is not None:
        path = Path(file) if "/" in file else checkpoints.directory(path) / file
    try:
        data = state_file.read(path)
        if data is None:
            raise Failure(
                f"{path} does not exist: `llamboctl checkpoint --save {file or path}` makes it"
            )
        saved = state.parse(data, str(path))
    except Error as e:
        raise Failure(str(e)) from None
    if as_json:
        show.as_json(json.loads(state.dump(saved)))
        return
    click.echo(f"address   {saved.address}")
    click.echo(f"pid       {saved.pid}")
    click.echo(f"strategy  {saved.strategy or 'that of the configuration'}")
    click.echo(f"settings  {' '.join(saved.settings) or 'none'}")
    if saved.hosts:
        click.echo()
        show.table(
            ("type", "model", "slots", "host", "workers"),
            [
                (
                    " ".join(host.types) or "-",
                    host.model.rpartition("/")[2] or "-",
                    str(host.slots),
                    host.address,
                    " ".join(host.workers.values()),
                )
                for host in saved.hosts
            ],
        )
