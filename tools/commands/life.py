"""The life of a cluster: it comes up, gets workers, and goes away."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from llambo9p.cluster.config import absolute
from llambo9p.fs.ctl import quote

from .. import complete, show, start
from ..options import addr_option, beyond_files, cluster, connect, connecting, explaining
from ..remote import Unreachable
from ..tree import Tree
from ..which_cluster import parse_address, state_path


@click.command()
@click.option("--listen", metavar="ADDR",
              help="Where to serve; port 0 is a free one.  [default: what the configuration "
              "says, and that is tcp!127.0.0.1!5640 unless you changed it]")  # fmt: skip
@click.option("--config", metavar="FILE",
              help="[default: $CLUSTER_CONFIG, cluster-config.yaml in $LLAMBO_ROOT or here, or the "
              "one installed]")  # fmt: skip
@click.option("--engine", metavar="E",
              help="What starts hosts where `spawn` does not say, local or ray.")
@click.option("--insecure", is_flag=True,
              help="Allow plain TCP beyond loopback, where everybody is the owner: to listen "
              "there, and for hosts on other machines.")  # fmt: skip
@click.option("--foreground", is_flag=True, help="Become the orchestrator; ^C stops it.")
@beyond_files("starts the program that makes the tree: llambo-orchestrator")
def init(
    listen: str | None, config: str | None, engine: str | None, insecure: bool, foreground: bool
) -> None:
    """Start an orchestrator, without any worker, and print its address."""
    address = parse_address(listen, "--listen") if listen else None
    state = state_path()
    start.refuse_if_running(state)
    path = start.config_path(config)
    command = start.command(address, path, state, engine, insecure)
    if foreground:
        start.run_in_foreground(command)
    click.echo(start.start_in_background(command, state).address)


@click.command()
@click.option("--count", metavar="N", type=click.IntRange(min=1),
              help="How many.  [default: the type's count in the configuration]")  # fmt: skip
@click.option("--type", "type_name", metavar="T",
              shell_complete=complete.types,
              help="A node type of the configuration.  [default: its first]")  # fmt: skip
@click.option("--model", metavar="M", shell_complete=complete.models,
              help="A name in models/, or a path.  [default: the type's]")
@click.option("--engine", metavar="E",
              help="What starts them, local or ray.  [default: what the configuration says]")
@addr_option
def spawn(
    count: int | None, type_name: str | None, model: str | None, engine: str | None
) -> None:
    """Start workers; returns when they answer."""
    words = ["spawn"]
    if count is not None:
        words += ["--count", str(count)]
    if type_name is not None:
        words += ["--type", quote(type_name)]
    if model is not None:
        words += ["--model", quote(absolute(model, Path.cwd()))]
    if engine is not None:
        words += ["--engine", quote(engine)]
    with connect() as tree:
        before = {entry.name for entry in tree.entries("nodes")}
        what = "starting workers" if type_name is None else f"starting {type_name} workers"
        with _loading(what):
            tree.write("ctl", (" ".join(words) + "\n").encode())
        new = [e.name for e in tree.entries("nodes") if e.name not in before]
    if sys.stderr.isatty() and new:
        names = new[0] if len(new) == 1 else f"{new[0]} to {new[-1]}"
        answer = "worker answers" if len(new) == 1 else "workers answer"
        click.echo(f"{len(new)} {answer}: {names}", err=True)


@click.command()
@click.argument("count", metavar="N", type=click.IntRange(min=0))
@click.argument("type_name", metavar="[TYPE]", required=False, shell_complete=complete.types)
@addr_option
def scale(count: int, type_name: str | None) -> None:
    """Start or end workers until there are N.

    TYPE is by default the configuration's first. Returns when all is done: those that go
    finish what was asked of them.
    """
    words = ["scale", str(count), *([quote(type_name)] if type_name is not None else ())]
    what = f"scaling to {count} {type_name or ''}".rstrip()
    with connect() as tree, _loading(what):
        tree.write("ctl", (" ".join(words) + "\n").encode())


@click.command()
@click.argument("name", shell_complete=complete.workers)
@click.argument("model", shell_complete=complete.models)
@addr_option
def load(name: str, model: str) -> None:
    """Give the worker NAME another MODEL.

    That is a name in models/, or a path. The worker finishes what was asked of it first;
    when the model cannot be loaded it stays as it is.
    """
    words = f"load {quote(name)} {quote(absolute(model, Path.cwd()))}\n"
    with connect() as tree, _loading(f"loading {model}"):
        tree.write("ctl", words.encode())


def _loading(what: str) -> contextlib.AbstractContextManager[None]:
    """A bar while models load."""
    return contextlib.nullcontext() if explaining() else show.loading_bar(what, _Loading())


class _Loading:
    """What the cluster says is loading, asked over a connection of its own: the other
    one waits for the answer to the verb."""

    def __init__(self) -> None:
        self._connect = connecting()
        self._tree: Tree | None = None

    def __call__(self) -> dict[str, float]:
        self._tree = self._tree or self._connect()
        percents = {}
        for line in self._tree.text("status").splitlines():
            words = line.split()
            if words[:1] == ["loading"] and len(words) == 3:
                with contextlib.suppress(ValueError):
                    percents[words[1]] = float(words[2])
        return percents


@click.command()
@addr_option
def shutdown() -> None:
    """Stop the cluster and wait until it is gone."""
    where = None if explaining() else cluster()
    with connect() as tree, contextlib.suppress(Unreachable):
        # it may be gone before it answers
        tree.write("ctl", b"shutdown\n")
    if where is not None:
        start.wait_until_gone(where)
