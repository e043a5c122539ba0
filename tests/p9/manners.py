"""Files that answer at once, late, or late in spite of a cancellation, well or badly.

Owns what became of every file that was given to a fid and of every open, so that a test
can balance them.  `Running` drives what a file makes wait as asyncio would, one call at
a time, when the test says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import Any

from llambo9p import errors
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.fid import Request
from llambo9p.p9.node import Handle, Maybe, Walk
from llambo9p.p9.wire import Dir, Qid

DIRECTORY, FILE = Qid(c.QTDIR, 0, 1), Qid(c.QTFILE, 0, 2)
ENTRIES = [Dir("x" * (i % 7), FILE, 0) for i in range(20)]


class Call:
    """A call of a file that has not returned: what is sent into it is its result."""

    def __init__(self, result: Callable[[], Any], deaf: bool) -> None:
        self.result = result
        self.deaf = deaf

    def __await__(self) -> Generator[Call, Any, Any]:
        return (yield self)

    def close(self) -> None:
        """Discarded before anyone awaited it."""


class Running:
    """A request whose awaitable was begun, and stands in a call."""

    def __init__(self, request: Request) -> None:
        assert request.awaitable is not None
        self.request = request
        self._steps: Any = request.awaitable.__await__()
        self._call: Call | None = None
        self._cancelled = False
        request.cancel = self._cancel

    def begin(self) -> None:
        """Up to its first call.  Raises what it raises, StopIteration with its result."""
        self._call = next(self._steps)

    def go_on(self, well: bool) -> None:
        """Its call returns, or fails, or is cancelled: up to the next one, likewise."""
        assert self._call is not None
        if self._cancelled:
            self._cancelled = False
            self._call = self._steps.throw(asyncio.CancelledError())
        elif well:
            self._call = self._steps.send(self._call.result())
        else:
            self._call = self._steps.throw(errors.Error("it failed"))

    def _cancel(self) -> None:
        """As asyncio does it: soon, not now; a deaf call goes on."""
        assert self._call is not None
        ending = isinstance(self.request.msg, m.Tclunk | m.Tremove)
        assert not ending, "the end of a fid is never cancelled"
        self._cancelled = not self._call.deaf


class Books:
    """What became of every file given and every open."""

    def __init__(self) -> None:
        self.manner = "at once"
        self.given = 0
        self.released = 0
        self.opens: list[Open] = []

    def does(self, result: Callable[[], Any]) -> Any:
        if self.manner == "at once":
            return result()
        if self.manner == "refused at once":
            raise errors.Error("it refuses")
        return Call(result, self.manner == "deaf")

    def give(self, node: Node) -> Node:
        self.given += 1
        return node


class Open:
    held = 0

    def __init__(self, books: Books) -> None:
        self.books = books
        self.ends = 0
        books.opens.append(self)

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        return self.books.does(lambda: b"x" * count)

    def readdir(self) -> Maybe[Sequence[Dir]]:
        return self.books.does(lambda: ENTRIES)

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        return self.books.does(lambda: len(data))

    def truncate(self) -> None:
        raise AssertionError("only a file of fs asks for it")

    def sync(self) -> Maybe[None]:
        return self.books.does(lambda: None)

    def clunk(self) -> Maybe[None]:
        self.ends += 1
        return self.books.does(lambda: None)

    def drop(self) -> None:
        self.ends += 1


class Node:
    """A directory that holds files of every name but `nope`."""

    def __init__(self, books: Books, qid: Qid) -> None:
        self.books = books
        self.qid = qid

    def walk(self, names: Sequence[str]) -> Maybe[Walk]:
        def result() -> Walk:
            qids: list[Qid] = []
            for name in names:
                if name == "nope":
                    return Walk(qids, None, errors.NotFound())
                qids.append(FILE if name == "file" else DIRECTORY)
            return Walk(qids, self.books.give(Node(self.books, [self.qid, *qids][-1])))

        return self.books.does(result)

    def open(self, mode: int) -> Maybe[Open]:
        return self.books.does(lambda: Open(self.books))

    def create(self, name: str, perm: int, mode: int) -> Maybe[tuple[Node, Open]]:
        return self.books.does(
            lambda: (self.books.give(Node(self.books, FILE)), Open(self.books))
        )

    def remove(self) -> Maybe[None]:
        return self.books.does(lambda: None)

    def stat(self) -> Maybe[Dir]:
        return self.books.does(lambda: Dir("name", self.qid, 0))

    def wstat(self, stat: Dir, handle: Handle | None) -> Maybe[None]:
        return self.books.does(lambda: None)

    def opened(self) -> None:
        pass

    def release(self, was_open: bool) -> None:
        self.books.released += 1
