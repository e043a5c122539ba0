"""The files that the kernel knows of: node numbers, and the paths they stand for.

A node is a path from the root and the qid that was found there.  It holds no fid, so
that what the kernel remembers keeps nothing alive on the server: a conversation ends
with its last *open* file, whatever `ls` has seen.  And a connection may be lost and made
again under it.

Rules: a number is never used again; one place and qid.path have one number for as long
as the kernel remembers it; if another file takes the place it gets another number, and
the old one is stale (`attachment` finds out).
"""

from __future__ import annotations

from ..errors import Stale
from ..p9.wire import Qid
from .fuse import ROOT_ID

Path = tuple[str, ...]


class Node:
    """One number."""

    __slots__ = ("lookups", "nodeid", "path", "qid")

    def __init__(self, nodeid: int, path: Path, qid: Qid) -> None:
        self.nodeid = nodeid
        self.path = path
        self.qid = qid
        self.lookups = 0
        """how often the kernel was told of it and has not yet forgotten"""


class Nodes:
    def __init__(self, root: Qid) -> None:
        self._next = ROOT_ID + 1
        self._root = Node(ROOT_ID, (), root)
        self._by_id = {ROOT_ID: self._root}
        self._by_path: dict[Path, Node] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __getitem__(self, nodeid: int) -> Node:
        """Raises Stale for one that was forgotten."""
        try:
            return self._by_id[nodeid]
        except KeyError:
            raise Stale from None

    def looked_up(self, path: Path, qid: Qid) -> Node:
        """The node of what was found at `path`, once more told to the kernel."""
        node = self._by_path.get(path)
        if node is None or node.qid.path != qid.path:
            node = Node(self._next, path, qid)
            self._next += 1
            self._by_id[node.nodeid] = self._by_path[path] = node
        node.lookups += 1
        return node

    def forget(self, nodeid: int, nlookup: int) -> None:
        node = self._by_id.get(nodeid)
        if node is None or node is self._root:
            return
        node.lookups -= nlookup
        if node.lookups <= 0:
            del self._by_id[nodeid]
            if self._by_path.get(node.path) is node:
                del self._by_path[node.path]
