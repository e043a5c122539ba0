"""The index of prefixes, against comparing with everybody."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.engine.radix import RadixTree, common_prefix

few = st.lists(st.integers(0, 2), max_size=12)


def plain(a, b):
    shared = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        shared += 1
    return shared


@given(few, few, few)
def test_common_prefix(head, a, b):
    assert common_prefix(head + a, head + b) == plain(head + a, head + b)


@given(st.lists(st.tuples(few, st.booleans()), max_size=20), few)
def test_a_lookup_finds_what_comparing_with_everybody_finds(entries, asked):
    tree = RadixTree()
    held = {}
    for holder, (tokens, stays) in enumerate(entries):
        held[holder] = tokens
        tree.insert(tokens, holder)
        if not stays:
            gone = min(held)
            tree.remove(held.pop(gone), gone)
    assert len(tree) == len(held)
    found = {}
    lengths = []
    for length, holders in tree.match(asked):
        lengths.append(length)
        for holder in holders:
            found.setdefault(holder, length)
    assert lengths == sorted(lengths, reverse=True)
    assert found == {h: n for h, t in held.items() if (n := plain(t, asked))}


@given(st.lists(few, max_size=20))
def test_nothing_is_left_of_those_that_went(entries):
    tree = RadixTree()
    for holder, tokens in enumerate(entries):
        tree.insert(tokens, holder)

    def check(node):
        for first, child in node.children.items():
            ending = len(child.holders) - sum(len(c.holders) for c in child.children.values())
            assert ending > 0 or len(child.children) > 1
            assert child.edge[0] == first
            check(child)

    for holder, tokens in enumerate(entries):
        check(tree._root)
        tree.remove(tokens, holder)
    assert not tree._root.children and not len(tree)
