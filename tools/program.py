"""How a tool runs: its exit code, and what is said when it fails.

Data goes to stdout, everything else to stderr.  A failure is one line there, which begins
with the program's name, and exit code 1; a wrong command line is 2, and ^C is 130.
Colours are for terminals, and for those who have not set $NO_COLOR (no-color.org).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import click

from .failure import Failure


def run(command: click.Command, name: str) -> NoReturn:
    """The body of a console script."""
    _open_what_is_closed()
    interrupted = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        color = False if os.environ.get("NO_COLOR") else None
        code = command.main(prog_name=name, standalone_mode=False, color=color)
        # click returns the code of --help and --version, and a command's None
        sys.exit(code if isinstance(code, int) else 0)
    except click.Abort:
        sys.exit(130)
    except Exception as e:
        if interrupted:  # ctypes, below py9p, makes an error of its own of KeyboardInterrupt
            sys.exit(130)
        match e:
            case Failure():
                click.echo(f"{name}: {e.message}", err=True)
                sys.exit(e.exit_code)
            case click.ClickException():
                e.show()
                sys.exit(e.exit_code)
            case OSError():  # standard output cannot be written, or a file not be read
                where = f"{e.filename}: " if e.filename else ""
                click.echo(f"{name}: {where}{e.strerror or e}", err=True)
                sys.exit(1)
        raise


def _open_what_is_closed() -> None:
    """Standard input that is closed ends at once, and what is written to standard output fails;
    otherwise the next connection would be they, as descriptors 0 and 1."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)
