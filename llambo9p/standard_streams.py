"""The standard streams of a program, of which any may be closed when it starts.

A program whose descriptor 0, 1 or 2 is closed gets it for the first file or socket that it opens,
and then prints into that; Python has None for the stream.  `fill` must come before anything is
opened.
"""

from __future__ import annotations

import atexit
import os
import sys


def fill(needs_output: bool) -> None:
    """Let none of the three be closed.  Standard input that was ends at once; standard error
    takes what nobody sees; so does standard output, unless the program `needs_output`: then
    writing to it fails, with EBADF.  For one that does not need it, what could not be written is
    no failure at its end, either."""
    modes = (os.O_RDONLY, os.O_RDONLY if needs_output else os.O_WRONLY, os.O_WRONLY)
    for fd, mode in enumerate(modes):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # the lowest that is free, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")
    if not needs_output:
        atexit.register(_discard_the_rest)


def _discard_the_rest() -> None:
    """Python writes what is left in the buffers once more, and ends with 120 when that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            discard(stream.fileno())


def discard(fd: int) -> None:
    """What is still to be written there goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, fd)
    os.close(nowhere)
