"""Any file of the tree: `ls`, `cat` and `write`."""

from __future__ import annotations

import sys
from typing import Any

import click
from py9p.constants import DMDIR, OTRUNC, OWRITE
from py9p.messages import Dir

from .. import complete, show
from ..failure import Failure
from ..options import addr_option, connect, json_option


@click.command()
@click.argument("path", default="/", shell_complete=complete.paths)
@click.option("-l", "--long", "long", is_flag=True, help="With mode, owner, length and time.")
@json_option
@addr_option
def ls(path: str, long: bool, as_json: bool) -> None:
    """List a directory (the root without PATH)."""
    with connect() as tree:
        entries = tree.entries(path)
    if as_json:
        show.as_json([_as_dict(entry) for entry in entries])
        return
    for entry in entries:
        name = entry.name
        if entry.mode & DMDIR:
            name = click.style(name, fg="blue", bold=True)
        if long:
            name = show.details(entry) + name
        click.echo(name)


def _as_dict(entry: Dir) -> dict[str, Any]:
    return {
        "name": entry.name,
        "type": "directory" if entry.mode & DMDIR else "file",
        "mode": f"{entry.mode & 0o777:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "length": entry.length,
        "mtime": entry.mtime,
        "qid": {"type": entry.qid.type, "vers": entry.qid.vers, "path": entry.qid.path},
    }


@click.command()
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, shell_complete=complete.paths
)
@addr_option
def cat(paths: tuple[str, ...]) -> None:
    """Print files as they come; a file that waits for more is waited for."""
    with connect() as tree:
        for path in paths:
            with tree.open(path) as f:
                if f.is_directory:
                    raise Failure(f"{path}: is a directory; `llamboctl ls {path}` lists it")
                show.file(f.chunks())


@click.command()
@click.argument("path", shell_complete=complete.paths)
@click.argument("text", required=False)
@addr_option
def write(path: str, text: str | None) -> None:
    """Write TEXT, exactly, or standard input to a file.

    What a file does with it happens when it is closed: a `prompt` is submitted.
    """
    with connect() as tree, tree.open(path, OWRITE | OTRUNC) as f:
        if text is not None:
            f.write(text.encode("utf-8", "surrogateescape"))
            return
        offset = 0
        while data := sys.stdin.buffer.read(f.iounit):
            f.write(data, offset)
            offset += len(data)
