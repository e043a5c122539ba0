"""`llamboctl dish`, and `dish` by itself: the shell of the namespace."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ..dish.interpreter import Exit, Failed
from ..dish.shell import Shell
from ..dish.syntax import Misread, parse
from ..encoding import script
from ..failure import Failure
from ..options import addr_option, beyond_files, cluster
from ..program import run


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "allow_interspersed_args": False}
)
@click.option("-c", "commands", metavar="COMMANDS", help="Run these, and no file.")
@click.argument("words", metavar="[FILE] [ARGUMENT]...", nargs=-1, type=click.UNPROCESSED)
@addr_option
@beyond_files("runs commands of its own; what its cat and echo do, those of a mount do, too")
def dish(commands: str | None, words: tuple[str, ...]) -> None:
    """A shell on the cluster's files: interactive, or for the commands of FILE.

    Its help lists what it can do.  Without FILE and off a terminal, the commands are standard
    input.  ARGUMENTs are $1, $2, ..., all of them $*.  Its status is 1 when a command failed, or
    what its exit says.
    """
    if commands is not None:
        _run(commands, "-c", words)
    elif words:
        _run(_text(words[0]), words[0], words[1:])
    elif not sys.stdin.isatty():
        _run(script(sys.stdin.buffer.read()), "stdin", ())
    else:
        from ..dish.console import converse  # half of what a script takes to start

        with Shell(cluster().address) as shell, _exits():
            converse(shell)


def _text(path: str) -> str:
    try:
        return script(Path(path).read_bytes())
    except OSError as e:
        raise Failure(f"{path}: {e.strerror}") from None


def _run(text: str, name: str, arguments: tuple[str, ...]) -> None:
    try:
        commands = parse(text)
        with Shell(cluster().address, arguments) as shell, _exits():
            shell.run(commands)
    except (Misread, Failed) as e:
        raise Failure(f"{name}:{e.at.line}:{e.at.column}: {e.message}") from None


@contextlib.contextmanager
def _exits() -> Iterator[None]:
    try:
        yield
    except Exit as e:
        click.get_current_context().exit(e.code)


def main() -> None:
    """The console script."""
    run(dish, "dish")


if __name__ == "__main__":
    main()
