"""`! PROGRAM ARGUMENTS`: programs of this machine as commands of the shell."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from typing import IO

from ..failure import Failure
from .connections import Interrupted, Job
from .streams import Sink, Source

_PIECE = 1 << 16


def run(words: Sequence[str], job: Job, source: Source, sink: Sink) -> None:
    """Until it has ended and all it said is in the sink.  Raises Failure if it failed,
    and Interrupted."""
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE if source.fd is None else source.fd,
            stdout=subprocess.PIPE if sink.fd is None else sink.fd,
            bufsize=0,
        )
    except (OSError, ValueError) as e:  # a NUL in a word is a ValueError
        raise Failure(f"! {words[0]}: {getattr(e, 'strerror', None) or e}") from None
    feeder = None
    with process, job.running(process):
        try:
            if process.stdin is not None:
                feeder = _Feeder(source, process.stdin)
                feeder.start()
            if process.stdout is not None:
                while data := os.read(process.stdout.fileno(), _PIECE):
                    sink.write(data)
            code = process.wait()
        except BaseException:
            process.terminate()
            raise
        finally:
            if feeder is not None:
                source.stop()
                feeder.join()
    job.check()
    if code == -signal.SIGINT:
        raise Interrupted  # ^C, of which it heard first
    if feeder is not None and feeder.failure is not None:
        raise feeder.failure
    if code:
        raise Failure(f"! {words[0]}: {_why(code)}")


class _Feeder(threading.Thread):
    """Writes what a source gives to a pipe, and closes that."""

    def __init__(self, source: Source, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._pipe = pipe
        self.failure: Failure | None = None

    def run(self) -> None:
        try:
            for data in self._source.chunks():
                while data:
                    data = data[os.write(self._pipe.fileno(), data) :]
        except BrokenPipeError:
            pass  # it wants no more
        except Failure as e:
            self.failure = None if self._source.stopped else e
        finally:
            self._pipe.close()


def _why(code: int) -> str:
    if code > 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"
