"""Node numbers: one for each file that the kernel remembers, never used again."""

from __future__ import annotations

import pytest

from llambo9p.errors import Stale
from llambo9p.mount.fuse import ROOT_ID
from llambo9p.mount.nodes import Nodes
from llambo9p.p9.wire import Qid


@pytest.fixture
def nodes() -> Nodes:
    return Nodes(Qid(0x80, 0, 1))


def test_a_file_has_one_number_until_it_is_forgotten(nodes):
    first = nodes.looked_up(("out",), Qid(0, 0, 5))
    assert nodes.looked_up(("out",), Qid(0, 7, 5)) is first
    nodes.forget(first.nodeid, 1)
    assert nodes[first.nodeid] is first
    nodes.forget(first.nodeid, 1)
    with pytest.raises(Stale):
        nodes[first.nodeid]
    assert nodes.looked_up(("out",), Qid(0, 0, 5)).nodeid > first.nodeid
    assert len(nodes) == 2


def test_another_file_at_the_same_place_has_another_number(nodes):
    old = nodes.looked_up(("0",), Qid(0x80, 0, 5))
    new = nodes.looked_up(("0",), Qid(0x80, 0, 6))
    assert old.nodeid != new.nodeid
    nodes.forget(old.nodeid, 1)
    assert nodes.looked_up(("0",), Qid(0x80, 0, 6)) is new


def test_the_root_is_never_forgotten(nodes):
    nodes.forget(ROOT_ID, 1)
    nodes.forget(12345, 1)
    assert nodes[ROOT_ID].path == ()
