"""What a shell's completion offers of the live tree: workers, node types, models, strategies,
paths.

Each is a click `shell_complete` callback.  Who completes wants no errors and no waiting:
where no cluster answers, there is nothing to offer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import click
import yaml
from py9p.constants import DMDIR

from .failure import Failure
from .options import glance
from .tree import Tree

_Names = Callable[[Tree], Iterable[str]]
_Callback = Callable[[click.Context, click.Parameter, str], list[str]]


def _offering(names: _Names) -> _Callback:
    def callback(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        given = ctx.params.get(param.name or "") if param.nargs == -1 else None
        with contextlib.suppress(Failure), glance(ctx) as tree:
            return [
                name
                for name in names(tree)
                if name.startswith(incomplete) and name not in (given or ())
            ]
        return []

    return callback


def _names_in(directory: str) -> _Names:
    return lambda tree: [entry.name for entry in tree.entries(directory)]


def _types(tree: Tree) -> list[str]:
    said = yaml.safe_load(tree.text("config"))
    return [*said["cluster"]["nodes"]]


def _strategies(tree: Tree) -> list[str]:
    for line in tree.text("balancer").splitlines():
        name, *words = line.split()
        if name == "strategies":
            return words
    return []


workers = _offering(_names_in("nodes"))
types = _offering(_types)
models = _offering(_names_in("models"))
strategies = _offering(_strategies)


def paths(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    with contextlib.suppress(Failure), glance(ctx) as tree:
        found = list(_below(tree, incomplete))
        if len(found) == 1 and found[0].endswith("/"):
            # with one candidate only, the shell would begin the next word
            found += _below(tree, found[0])
        return found
    return []


def _below(tree: Tree, begun: str) -> Iterator[str]:
    """The paths that begin so, in the directory that it names; directories end with a /."""
    directory, slash, name = begun.rpartition("/")
    for entry in tree.entries(directory):
        if entry.name.startswith(name):
            yield f"{directory}{slash}{entry.name}{'/' if entry.mode & DMDIR else ''}"
