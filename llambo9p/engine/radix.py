"""A radix tree over token ids: who holds the longest prefix of a prompt.

Owns the index and nothing it points at.  A holder is entered under the tokens that it
holds, or will hold; a node has all holders whose tokens pass through it, so that the
deepest node that a prompt reaches names everybody who shares that much of it.

Rules it keeps:
- Looking up, entering and taking out cost the length of the prompt and the branches on its
  way, whatever else the tree has; tokens are compared by slices, so at C speed.
- A node with one child has a holder that ends there: nothing is left of those that went.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Generic, TypeVar

H = TypeVar("H")


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class _Node(Generic[H]):
    __slots__ = ("children", "edge", "holders")

    def __init__(self, edge: list[int], holders: dict[H, None]) -> None:
        self.edge = edge
        """the tokens from the parent to here"""
        self.holders = holders
        """in the order in which they came"""
        self.children: dict[int, _Node[H]] = {}
        """by the first token of their edges"""


class RadixTree(Generic[H]):
    """See the module.  A holder is entered once at a time."""

    def __init__(self) -> None:
        self._root: _Node[H] = _Node([], {})

    def __len__(self) -> int:
        """How many holders there are."""
        return len(self._root.holders)

    def insert(self, tokens: Sequence[int], holder: H) -> None:
        node, at = self._root, 0
        node.holders[holder] = None
        while at < len(tokens):
            child = node.children.get(tokens[at])
            if child is None:
                node.children[tokens[at]] = _Node(list(tokens[at:]), {holder: None})
                return
            shared = common_prefix(child.edge, tokens[at : at + len(child.edge)])
            if shared < len(child.edge):
                child = self._split(node, child, shared)
            child.holders[holder] = None
            node, at = child, at + shared

    def remove(self, tokens: Sequence[int], holder: H) -> None:
        """Take out a holder that was entered under these tokens."""
        node, at = self._root, 0
        del node.holders[holder]
        while at < len(tokens):
            child = node.children[tokens[at]]
            del child.holders[holder]
            if not child.holders:
                del node.children[tokens[at]]
                self._join(node)
                return
            node, at = child, at + len(child.edge)
        self._join(node)

    def match(self, tokens: Sequence[int]) -> Iterator[tuple[int, Collection[H]]]:
        """(length, holders that share a prefix of at least that length with `tokens`), the
        longest first.  The tree must not change meanwhile."""
        path: list[tuple[int, Collection[H]]] = []
        node, at = self._root, 0
        while at < len(tokens):
            child = node.children.get(tokens[at])
            if child is None:
                break
            shared = common_prefix(child.edge, tokens[at : at + len(child.edge)])
            at += shared
            path.append((at, child.holders.keys()))
            if shared < len(child.edge):
                break
            node = child
        return reversed(path)

    def _split(self, parent: _Node[H], child: _Node[H], at: int) -> _Node[H]:
        """Put a node into the edge to `child`, and return it."""
        middle = _Node(child.edge[:at], dict(child.holders))
        child.edge = child.edge[at:]
        middle.children[child.edge[0]] = child
        parent.children[middle.edge[0]] = middle
        return middle

    def _join(self, node: _Node[H]) -> None:
        """Let a node that ends for nobody and does not branch be one with its child."""
        if node is self._root or len(node.children) != 1:
            return
        (child,) = node.children.values()
        if len(child.holders) == len(node.holders):
            node.edge += child.edge
            node.children = child.children
