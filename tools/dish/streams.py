"""What commands read and write: bytes, each piece as it comes.

A `Source` or `Sink` that is a file of this machine has its `fd`, which host programs get as
it is.  Pipes between commands are the kernel's: they are bounded, and their ends tell.
"""

from __future__ import annotations

import io
import os
import select
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import click

from ..program import wants_colours
from ..tree import OpenFile
from .connections import Job

_PIECE = 1 << 16


class Source(ABC):
    fd: int | None = None
    stopped = False

    @abstractmethod
    def chunks(self) -> Iterator[bytes]: ...

    def stop(self) -> None:
        """From another thread: who reads has had enough, and whatever fails then is no failure."""
        self.stopped = True


class Descriptor(Source):
    def __init__(self, fd: int, job: Job) -> None:
        self.fd: int = fd
        self._job = job

    def chunks(self) -> Iterator[bytes]:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(self._job.wake, select.POLLIN)
        while True:
            poll.poll()
            self._job.check()
            data = os.read(self.fd, _PIECE)
            if not data:
                return
            yield data


class Nothing(Source):
    def chunks(self) -> Iterator[bytes]:
        return iter(())


class Read(Source):
    """A file of the tree, open on connections of `job`."""

    def __init__(self, file: OpenFile, job: Job) -> None:
        self._file = file
        self._job = job

    def chunks(self) -> Iterator[bytes]:
        return self._file.chunks()

    def stop(self) -> None:
        self.stopped = True
        self._job.cancel()


class Sink(ABC):
    fd: int | None = None
    is_terminal = False
    has_colours = False

    @abstractmethod
    def write(self, data: bytes) -> None: ...


class Output(Sink):
    """A descriptor, which may be a terminal."""

    def __init__(self, fd: int) -> None:
        self.fd: int = fd
        self.is_terminal = os.isatty(fd)
        self.has_colours = self.is_terminal and wants_colours()
        self._ended = True

    def write(self, data: bytes) -> None:
        """Raises BrokenPipeError when nobody reads any more."""
        if not data:
            return
        self._ended = data.endswith(b"\n")
        while data:
            try:
                data = data[os.write(self.fd, data) :]
            except BrokenPipeError:
                raise
            except OSError as e:
                raise OSError(e.errno, f"standard output: {e.strerror}") from None

    def end_line(self) -> None:
        """On a terminal: what comes next begins a line."""
        if self.is_terminal and not self._ended:
            self.write(b"\n")


class Written(Sink):
    """A file of the tree, from `offset` on."""

    def __init__(self, file: OpenFile, offset: int) -> None:
        self._file = file
        self._offset = offset

    def write(self, data: bytes) -> None:
        self._file.write(data, self._offset)
        self._offset += len(data)


class Collected(Sink):
    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._pieces.append(data)

    def text(self) -> str:
        """Without the newlines at its end."""
        return b"".join(self._pieces).decode("utf-8", "surrogateescape").rstrip("\n")


class Turns:
    """What several write at once, one after the other in their order: lines that begin with
    the writer's label.  Who has the turn is shown as he writes; the others' is kept."""

    def __init__(self, sink: Sink, labels: Sequence[str]) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._turn = 0
        self._columns = [_Column(label, sink.has_colours) for label in labels]

    def sink(self, number: int) -> Sink:
        return _Turn(self, number)

    def write(self, number: int, data: bytes) -> None:
        with self._lock:
            column = self._columns[number]
            column.add(data)
            if number == self._turn:
                self._sink.write(column.take())

    def done(self, number: int) -> None:
        with self._lock:
            self._columns[number].end()
            while self._turn < len(self._columns):
                column = self._columns[self._turn]
                self._sink.write(column.take())
                if not column.ended:
                    return
                self._turn += 1


class _Turn(Sink):
    def __init__(self, turns: Turns, number: int) -> None:
        self._turns = turns
        self._number = number

    def write(self, data: bytes) -> None:
        self._turns.write(self._number, data)


class _Column:
    def __init__(self, label: str, coloured: bool) -> None:
        shown = f"{label}: "
        self._label = (click.style(shown, fg="cyan") if coloured else shown).encode(
            "utf-8", "surrogateescape"
        )
        self._pieces: list[bytes] = []
        self._in_line = False
        self.ended = False

    def add(self, data: bytes) -> None:
        for line in io.BytesIO(data):
            if not self._in_line:
                self._pieces.append(self._label)
            self._pieces.append(line)
            self._in_line = not line.endswith(b"\n")

    def end(self) -> None:
        if self._in_line:
            self._pieces.append(b"\n")
        self.ended = True

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken
