"""A program of ours that runs for this process, and ends with it.

It holds the end of a pipe as its stdin, whose other end is ours: however this process ends, a
kill -9 included, the program is told by end of file, and stops.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from llambo9p.errors import Error, from_ename
from llambo9p.net.address import Address, parse

_STOP_S = 30.0
"""how long it may take to stop by itself"""
_TAIL_BYTES = 16 << 10


class Process:
    """`llambo-NAME`, started and listening."""

    def __init__(self, name: str, listen: Sequence[Address], words: Sequence[str]) -> None:
        """Raises Error with its own last words when it ends before it listens."""
        where = [word for address in listen for word in ("--listen", str(address))]
        with tempfile.TemporaryFile() as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"llambo9p_nodes.{name}", *where, *words,
                 "--exit-with-stdin"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,  # ^C is for us alone
            )
            try:
                self.addresses = list(itertools.islice(self._listening(), len(listen)))
                if len(self.addresses) < len(listen):
                    status = self._process.wait()
                    size = os.fstat(said.fileno()).st_size
                    said.seek(max(0, size - _TAIL_BYTES))
                    raise _reason(f"llambo-{name}", status, said.read())
            except BaseException:
                self.end()
                raise

    def _listening(self) -> Iterator[Address]:
        """Where it does, as it tells."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, _, rest = os.fsdecode(line).strip().partition(" ")
            if word == "listening":
                yield parse(rest)

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """Let it stop by itself, and end it when it does not."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _reason(program: str, status: int, said: bytes) -> Error:
    lines = said.decode(errors="replace").splitlines()
    if not lines:
        return Error(f"{program} ended with {status} and said nothing")
    return from_ename(lines[-1].removeprefix(f"{program}: "))
