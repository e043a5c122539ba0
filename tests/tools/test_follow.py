"""A file that grows is followed, and read anew when what came next is gone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from llambo9p_tools import tree
from llambo9p_tools.failure import Failure
from llambo9p_tools.tree import OpenFile, Tree
from py9p.constants import OREAD
from py9p.messages import Dir


class Growing(Tree):
    """`opens` are what each open of the file reads in turn; a Failure is raised."""

    def __init__(self, *opens: list[bytes | Failure]) -> None:
        self.opens = list(opens)
        self.offsets: list[int] = []

    def open(self, path: str, mode: int = OREAD) -> OpenFile:
        return Reads(self, self.opens.pop(0))

    def stat(self, path: str) -> Dir:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Reads(OpenFile):
    def __init__(self, growing: Growing, reads: list[bytes | Failure]) -> None:
        self.growing = growing
        self.reads = reads

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        self.growing.offsets.append(offset)
        read = self.reads.pop(0)
        if isinstance(read, Failure):
            raise read
        if read:
            yield read

    def write(self, data: bytes, offset: int = 0) -> None:
        raise NotImplementedError

    def __exit__(self, *exc: object) -> None:
        """It is closed."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_FOLLOW_S", 0.0)


def test_it_is_read_on_where_it_ended_and_anew_when_it_moved_on() -> None:
    stale = Failure("logs/x: Stale file handle: the log has moved on, open it again")
    growing = Growing([b"one", b"", b"two", stale], [b"four", b"five"])
    came = list(itertools.islice(growing.follow("logs/x"), 8))
    assert came == [b"one", b"", b"", b"two", b"", b"four", b"", b"five"]
    assert growing.offsets == [0, 3, 3, 6, 0, 4]


def test_another_failure_is_one() -> None:
    growing = Growing([b"one", Failure("gone")])
    followed = growing.follow("logs/x")
    assert [next(followed), next(followed)] == [b"one", b""]
    with pytest.raises(Failure, match="gone"):
        next(followed)
