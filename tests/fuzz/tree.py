"""A tree that keeps books: which files and opens the server holds, and which calls wait.

Its names are those of the transcripts' tree, so that recorded conversations find their
way.  Nothing here runs by itself: a call that waits is a `Waiting`, which the fuzzer
settles.  What breaks the contract of `llambo9p.fs.file` is an AssertionError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any

from llambo9p import errors
from llambo9p.fs.file import File, OpenFile
from llambo9p.fs.tree import Directory, SyntheticFile, Tree
from llambo9p.p9 import constants as c
from llambo9p.p9.node import Handle, Maybe, Walk
from llambo9p.p9.wire import Dir, Qid


class Waiting:
    """An awaitable of what `make` gives when it is settled."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __await__(self) -> Generator[Waiting, None, Any]:
        yield self
        made = self.make()
        return (yield from made.__await__()) if isinstance(made, Awaitable) else made


class Books:
    """What the server was given and has not given back."""

    def __init__(self) -> None:
        self.held: dict[File, int] = {}
        """fids that point at each file"""
        self.opens: set[Opened] = set()
        self.open_fids: dict[File, int] = {}
        """those that the server has said are open"""

    def retain(self, file: File) -> None:
        self.held[file] = self.held.get(file, 0) + 1

    def release(self, file: File) -> None:
        assert file in self.held, f"{file} was released once too often"
        self.held[file] -= 1
        if not self.held[file]:
            del self.held[file]


class Opened(OpenFile):
    """An open of a file: it ends once, and nothing is asked after that."""

    def __init__(self, file: Node) -> None:
        self.file = file
        file.books.opens.add(self)

    def _check(self) -> None:
        assert self in self.file.books.opens, f"{self.file} was used after its end"

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        self._check()
        assert offset >= 0 and count > 0
        data = b"hello, world\n"[offset : offset + count]
        return self.file.answer("read", lambda: data)

    def readdir(self) -> Maybe[Sequence[Dir]]:
        self._check()
        return self.file.answer("readdir", self.file.entries)

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        self._check()
        return self.file.answer("write", lambda: len(data))

    def sync(self) -> Maybe[None]:
        self._check()
        return self.file.answer("sync", lambda: None)

    def clunk(self) -> Maybe[None]:
        self._end()
        return self.file.answer("clunk", lambda: None)

    def drop(self) -> None:
        self._end()

    def _end(self) -> None:
        self._check()
        self.file.books.opens.remove(self)


class Node(SyntheticFile):
    """A file whose calls in `slow` wait and whose calls in `bad` fail at once."""

    def __init__(
        self, tree: Tree, books: Books, name: str, perm: int = 0o666, slow: str = "", bad: str = ""
    ) -> None:
        super().__init__(tree, name, perm)
        self.books = books
        self._slow = slow.split()
        self._bad = bad.split()

    def answer(self, call: str, make: Callable[[], Any]) -> Any:
        if call in self._bad:
            raise errors.Error(f"{call} of {self.name} fails")
        return Waiting(make) if call in self._slow else make()

    def retain(self) -> None:
        self.books.retain(self)

    def opened(self) -> None:
        self.books.open_fids[self] = self.books.open_fids.get(self, 0) + 1

    def release(self, was_open: bool) -> None:
        if was_open:
            assert self in self.books.open_fids, f"{self} was closed once too often"
            self.books.open_fids[self] -= 1
            if not self.books.open_fids[self]:
                del self.books.open_fids[self]
        self.books.release(self)

    def entries(self) -> Sequence[Dir]:
        raise errors.NotDirectory

    def walk(self, names: Sequence[str]) -> Maybe[Walk]:
        if names:
            return Walk([], None, errors.NotDirectory())
        return self.answer("walk", self.given)

    def given(self) -> Walk:
        """The walk that ends here."""
        self.retain()
        return Walk([], self)

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise errors.PermissionDenied
        return self.answer("open", lambda: Opened(self))

    def stat(self) -> Maybe[Dir]:
        return self.answer("stat", super().stat)

    def wstat(self, stat: Dir, handle: Handle | None) -> Maybe[None]:
        assert handle is None or handle in self.books.opens
        return self.answer("wstat", lambda: None)

    def remove(self) -> Maybe[None]:
        return self.answer("remove", lambda: None)


class Folder(Node, Directory):
    """A directory; `more` are entries that are listed and not there."""

    def __init__(
        self, tree: Tree, books: Books, name: str, slow: str = "", more: Sequence[Dir] = ()
    ) -> None:
        Directory.__init__(self, tree, name, 0o777)
        self.books = books
        self._slow = slow.split()
        self._bad: list[str] = []
        self._more = more

    def entries(self) -> Sequence[Dir]:
        return [*Directory.entries(self), *self._more]

    def walk(self, names: Sequence[str]) -> Maybe[Walk]:
        return self.answer("walk", lambda: self.follow(names))

    def follow(self, names: Sequence[str]) -> Maybe[Walk]:
        """As `Directory.walk`, which needs a loop when a file at the end waits."""
        qids: list[Qid] = []
        here: File = self
        for name in names:
            if not isinstance(here, Folder):
                return Walk(qids, None, errors.NotDirectory())
            child = here.parent if name == ".." else here.find(name)
            if child is None:
                return Walk(qids, None, errors.NotFound())
            qids.append(child.qid)
            here = child
        last = here.given() if isinstance(here, Folder) else here.walk(())
        return Walk(qids, last.file) if isinstance(last, Walk) else self._after(qids, last)

    async def _after(self, qids: Sequence[Qid], last: Awaitable[Walk]) -> Walk:
        return Walk(qids, (await last).file)

    def create(self, name: str, perm: int, mode: int) -> Maybe[tuple[File, OpenFile]]:
        return self.answer("create", lambda: self._made(name))

    def _made(self, name: str) -> tuple[File, OpenFile]:
        made = Node(self.tree, self.books, name)
        made.retain()
        return made, Opened(made)


class Site:
    """The tree: made once, as it does not change."""

    def __init__(self) -> None:
        self.books = books = Books()
        tree = Tree(owner="glenda")
        self.root = root = Folder(tree, books, "/")

        def add(name: str, slow: str = "", bad: str = "", perm: int = 0o666) -> None:
            root.add(Node(tree, books, name, perm, slow, bad))

        def add_folder(name: str, slow: str = "", more: Sequence[Dir] = ()) -> Folder:
            return root.add(Folder(tree, books, name, slow, more))

        add("hello", perm=0o444)
        add("out", "read")
        add("ctl")
        add("note")
        directory = add_folder("dir")
        directory.add(Node(tree, books, "a"))
        directory.add(Folder(tree, books, "sub")).add(Node(tree, books, "leaf"))
        add("gate", "read write stat wstat remove")
        add("vault", "open clunk")
        self.slow = add_folder("slow", "walk readdir create")
        self.slow.add(Node(tree, books, "leaf", slow="remove"))
        add("late", "walk open read")
        add("bad", bad="open")
        add("worse", bad="read write stat wstat clunk remove")
        add("n" * 200)
        many = [
            Dir("n" * size, Qid(c.QTFILE, 0, 1000 + size), 0o444, uid="glenda")
            for size in range(1, 40)
        ]
        add_folder("many", more=many)

    def attach(self, uname: str, aname: str) -> Maybe[File]:
        if aname == "":
            self.root.retain()
            return self.root
        if aname == "refused":
            raise errors.PermissionDenied
        if aname == "slow":
            return Waiting(lambda: self._held(self.slow))  # type: ignore[return-value]
        return self._end_of(aname.split("/"))

    def _held(self, file: File) -> File:
        file.retain()
        return file

    async def _end_of(self, names: Sequence[str]) -> File:
        walking = self.root.follow(names)
        walk = walking if isinstance(walking, Walk) else await walking
        if walk.file is None:
            raise walk.error or errors.NotFound()
        assert isinstance(walk.file, File)
        return walk.file
