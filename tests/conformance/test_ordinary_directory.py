"""The system call half over an ordinary directory: it asks for nothing peculiar to us."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .posix import OfFiles, Place
from .subjects import ANSWER, Roles


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A FIFO is the stream: its reader waits for the writer that is held open here."""
    (tmp_path / "dir").mkdir()
    for name in ("status", "system", "dir/leaf"):
        (tmp_path / name).write_text(f"{name}\n")
    os.mkfifo(tmp_path / "out")
    left = bytearray(ANSWER)
    writers: list[int] = []

    def ask() -> None:
        # a writer that came first would wait for a reader, hence O_RDWR
        writers.append(os.open(tmp_path / "out", os.O_RDWR))

    def feed() -> None:
        os.write(writers[0], bytes([left.pop(0)]))

    def end() -> None:
        os.write(writers[0], left)
        os.close(writers.pop())

    yield Place(tmp_path, ask, feed, end, Roles())
    for writer in writers:
        os.close(writer)


class TestOrdinaryDirectory(OfFiles):
    """All of it."""
