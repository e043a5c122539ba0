"""The options that commands share, and the cluster that they mean."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click

from llambo9p.cluster import environment

from .explain import Explained
from .remote import Remote
from .tree import Tree
from .which_cluster import Cluster, find, is_named

_Command = Callable[..., Any]

_GLANCE_S = 1.0
"""for each answer"""


@dataclass(slots=True)
class _Chosen:
    """By options that stand anywhere on the command line."""

    addr: str | None = None
    tell: Callable[[str], None] | None = None
    """with --explain, what the lines are given to"""


def _chosen() -> _Chosen:
    chosen: _Chosen = click.get_current_context().find_root().ensure_object(_Chosen)
    return chosen


def _remember_address(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value:
        ctx.find_root().ensure_object(_Chosen).addr = value


def _remember_server(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """In the environment, from where the programs that a command starts have it, too."""
    if value:
        ctx.find_root().with_resource(_added(environment.SERVED_BY, value))


@contextlib.contextmanager
def _added(name: str, word: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = f"{before},{word}" if before else word
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def addr_option(command: _Command) -> _Command:
    """`--addr` and `--served-by`, which go before the command's name or after it."""
    served_by = click.option(
        "--served-by",
        metavar="USER",
        expose_value=False,
        callback=_remember_server,
        help="Trust a unix socket that USER serves, too  [default: yours and root's, and those of "
        "$LLAMBO_SERVED_BY]",
    )
    return served_by(_addr(command))


def _addr(command: _Command) -> _Command:
    return click.option(
        "--addr",
        metavar="ADDR",
        expose_value=False,
        callback=_remember_address,
        help="The cluster, as tcp!HOST!PORT, tls!HOST!PORT or unix!PATH  [default: $LLAMBO_ADDR, "
        "or what the state file says]",
    )(command)


def _explain(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """What the command itself would print, it has read from nowhere: it is not shown."""
    if not value or ctx.resilient_parsing:
        return
    out = sys.stdout

    def tell(line: str) -> None:
        click.echo(line.encode("utf-8", "surrogateescape"), file=out)

    ctx.ensure_object(_Chosen).tell = tell
    ctx.with_resource(_silence())


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with (
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield


explain_option = click.option(
    "--explain",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_explain,
    help="Do nothing; print as lines of sh what the command does to a mounted tree.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def cluster() -> Cluster:
    """The cluster of the command that runs.  Raises Failure."""
    return find(_chosen().addr)


def cluster_is_named() -> bool:
    """Whether the user said which cluster he means."""
    return is_named(_chosen().addr)


def explaining() -> bool:
    return _chosen().tell is not None


def connect() -> Tree:
    """The tree of the command that runs.  Raises Failure."""
    tell = _chosen().tell
    return Remote(cluster().address) if tell is None else Explained(tell)


def connecting() -> Callable[[], Tree]:
    """`connect`, for other threads: they know nothing of the command that runs."""
    context = click.get_current_context()

    def connect_there() -> Tree:
        with context.scope(cleanup=False):
            return connect()

    return connect_there


def glance(ctx: click.Context) -> Tree:
    """The tree of a command line that is being written, for who would rather have no answer
    than wait for one.  Raises Failure."""
    chosen = ctx.find_root().ensure_object(_Chosen)
    return Remote(find(chosen.addr).address, _GLANCE_S)


def beyond_files(what: str) -> Callable[[_Command], _Command]:
    """For a command that is not made of file operations: `what` says of what it is."""

    def decorate(command: _Command) -> _Command:
        @functools.wraps(command)
        def explained(*args: Any, **kwargs: Any) -> Any:
            tell = _chosen().tell
            if tell is not None:
                tell(f"# {what}")
                return None
            return command(*args, **kwargs)

        return explained

    return decorate
