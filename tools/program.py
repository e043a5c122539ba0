"""How a tool runs: its exit code, and what is said when it fails.

Data goes to stdout, everything else to stderr.  A failure is one line there, which begins
with the program's name, and exit code 1; a wrong command line is 2, and ^C is 130.
Colours are for terminals that can show them, and for those who have not set $NO_COLOR
(no-color.org).  What a terminal's encoding has not is shown as `?`.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import NoReturn

import click

from llambo9p import standard_streams

from .failure import Failure


def run(command: click.Command, name: str) -> NoReturn:
    """The body of a console script."""
    standard_streams.fill(needs_output=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # in UTF-8, what is no text goes out as it came in
            is_utf8 = stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if is_utf8 else "replace")
    interrupted = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        color = None if wants_colours() else False
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
            case OSError():  # a file cannot be read, or what is printed not be written
                where = e.filename or "standard output"
                standard_streams.discard(1)  # or what is left would fail again at the end
                click.echo(f"{name}: {where}: {e.strerror or e}", err=True)
                sys.exit(1)
        raise


def wants_colours() -> bool:
    """Of what is shown on a terminal."""
    return not os.environ.get("NO_COLOR") and not is_dumb_terminal()


def is_dumb_terminal() -> bool:
    """Whether the terminal, if there is one, knows no escape sequences."""
    return os.environ.get("TERM") in ("dumb", "unknown")
