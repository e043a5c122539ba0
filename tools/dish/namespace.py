"""The shell's own name space, as in Plan 9: the cluster's tree, with others mounted on it
and parts of it bound to other names.  The cluster knows nothing of it.

`Namespace` is the table, without I/O; all paths in it are clean and absolute.  A `View` is
the tree that it makes, over the connections of one thread.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import escape

from py9p.constants import DMDIR, OREAD
from py9p.messages import Dir

from llambo9p.net.address import Address

from ..failure import Failure
from ..remote import Remote, Unreachable
from ..tree import OpenFile, Tree
from .connections import Calls


def clean(path: str, directory: str = "/") -> str:
    """Absolute, without `.`, `..` and doubled slashes; relative paths are from `directory`."""
    return "/" + posixpath.normpath(posixpath.join(directory, path)).lstrip("/")


@dataclass(frozen=True, slots=True)
class Place:
    """A file of a server."""

    address: Address
    path: str


class Namespace:
    def __init__(self, address: Address) -> None:
        self._places = {"/": Place(address, "/")}
        self._said: dict[str, str] = {}
        """for each name but the root the command that made it"""

    @property
    def lines(self) -> list[str]:
        """The commands that make it from the cluster's tree, in their order."""
        return list(self._said.values())

    def add(self, name: str, place: Place, said: str) -> None:
        """Raises Failure."""
        if name == "/":
            raise Failure("/ is the cluster and stays that; use another name")
        self._places[name] = place
        self._said.pop(name, None)
        self._said[name] = said

    def remove(self, name: str) -> None:
        """Raises Failure."""
        if name not in self._said:
            raise Failure(f"{name}: nothing is mounted or bound there; `ns` shows what is")
        del self._places[name], self._said[name]

    def find(self, path: str) -> Place:
        """By the longest name that `path` begins with."""
        name = path
        while name not in self._places:
            name = posixpath.dirname(name)
        place = self._places[name]
        return Place(place.address, posixpath.join(place.path, path[len(name) :].lstrip("/")))

    def below(self, path: str) -> list[str]:
        """The entries of a directory that the table alone makes."""
        inside = path.rstrip("/") + "/"
        found = {
            name[len(inside) :].partition("/")[0] for name in self._said if name.startswith(inside)
        }
        return sorted(found)


class View(Tree):
    """Closed with its `Calls`."""

    def __init__(self, namespace: Namespace, calls: Calls) -> None:
        self.namespace = namespace
        self._calls = calls

    def at(self, path: str) -> tuple[Remote, str]:
        _check(path)
        place = self.namespace.find(path)
        return self._calls.to(place.address), place.path

    def open(self, path: str, mode: int = OREAD) -> OpenFile:
        remote, there = self.at(path)
        return remote.open(there, mode)

    def stat(self, path: str) -> Dir:
        remote, there = self.at(path)
        try:
            return remote.stat(there)
        except Unreachable:
            raise
        except Failure:
            if self.namespace.below(path):
                return _made_up(posixpath.basename(path))
            raise

    def entries(self, path: str) -> list[Dir]:
        remote, there = self.at(path)
        below = self.namespace.below(path)
        try:
            real = remote.entries(there)
        except Unreachable:
            raise
        except Failure:
            if not below:
                raise
            real = []
        return [e for e in real if e.name not in below] + [*map(_made_up, below)]

    def close(self) -> None:
        """Its calls are closed by whoever made them."""


def _check(path: str) -> None:
    """Raises Failure for what 9P has no names for."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise Failure(f"{path}: the name of a file is UTF-8") from None
    if "\0" in path:
        raise Failure(f"{path}: no name of a file has a NUL in it")


def _made_up(name: str) -> Dir:
    """A directory of the table's."""
    return Dir(name=name, mode=DMDIR | 0o555)


def is_pattern(pieces: Iterable[tuple[str, bool]]) -> bool:
    return any(magic and any(ch in text for ch in "*?[") for text, magic in pieces)


def glob(tree: Tree, directory: str, pieces: Sequence[tuple[str, bool]]) -> list[str]:
    """The paths that a pattern matches, sorted, written as it is.  `pieces` are texts side by side
    with whether `*`, `?` and `[…]` mean anything in them; they match inside one name only."""
    steps: list[list[tuple[str, bool]]] = [[]]
    for text, magic in pieces:
        first, *more = text.split("/")
        steps[-1].append((first, magic))
        steps += [[(name, magic)] for name in more]
    found = [""]
    for i, step in enumerate(steps):
        slash = "/" if i < len(steps) - 1 else ""
        if not is_pattern(step):
            name = "".join(text for text, _ in step) + slash
            found = [path + name for path in found]
            continue
        pattern = "".join(text if magic else escape(text) for text, magic in step)
        found = [
            path + name + slash
            for path in found
            for name in _names(tree, clean(path, directory), directories=bool(slash))
            if fnmatch.fnmatchcase(name, pattern)
        ]
    return [path for path in found if _exists(tree, clean(path, directory), steps)]


def _names(tree: Tree, path: str, directories: bool) -> list[str]:
    try:
        entries = tree.entries(path)
    except Unreachable:
        raise
    except Failure:
        return []
    return sorted(e.name for e in entries if e.mode & DMDIR or not directories)


def _exists(tree: Tree, path: str, steps: Sequence[Sequence[tuple[str, bool]]]) -> bool:
    """What a pattern found was listed; names after it may not be there."""
    if is_pattern(steps[-1]):
        return True
    try:
        tree.stat(path)
    except Unreachable:
        raise
    except Failure:
        return False
    return True
