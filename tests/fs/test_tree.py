"""The tree: numbers that are never used twice, listings, walks, and counting fids."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.errors import Error, Exists, NotDirectory, NotFound, PermissionDenied
from llambo9p.fs.file import OpenFile
from llambo9p.fs.pending import Pending
from llambo9p.fs.tree import Directory, OpenDirectory, SyntheticFile, TextFile, Tree, Uses
from llambo9p.p9 import constants as c
from llambo9p.p9.node import Maybe, Walk
from llambo9p.p9.wire import Dir
from tests.files import story


def text(tree: Tree, name: str) -> TextFile:
    return TextFile(tree, name, lambda: name)


def walked(result: Maybe[Walk]) -> Walk:
    assert isinstance(result, Walk)
    return result


def listed(directory: Directory) -> list[str]:
    entries = directory.entries()
    assert isinstance(entries, Sequence)
    return [entry.name for entry in entries]


@given(st.lists(st.booleans(), max_size=30))
def test_15_16_no_two_files_of_a_tree_ever_share_a_qid_path(adds: list[bool]) -> None:
    tree = Tree("me")
    root = Directory(tree, "/")
    paths = [root.qid.path]
    for add in adds:
        if add or not listed(root):
            paths.append(root.add(text(tree, f"file-{len(paths)}")).qid.path)
        else:
            root.discard(listed(root)[0])
    assert len(set(paths)) == len(paths)


def test_a_directory_says_so_in_its_qid_and_its_mode_and_a_file_does_not() -> None:
    tree = Tree("me")
    directory, file = Directory(tree, "d"), text(tree, "f")
    assert directory.qid.type == c.QTDIR and directory.mode & c.DMDIR
    assert file.qid.type == c.QTFILE and not file.mode & c.DMDIR
    for stat in (directory.stat(), file.stat()):
        assert isinstance(stat, Dir)
        assert (stat.length, stat.qid.vers, stat.uid, stat.gid) == (0, 0, "me", "me")


def test_a_listing_is_in_order_and_is_each_childs_stat() -> None:
    tree = Tree("me")
    root = Directory(tree, "/")
    children = [root.add(text(tree, name)) for name in ("b", "a", "c")]
    assert root.entries() == [child.stat() for child in children]
    root.discard("a")
    root.discard("a")
    assert listed(root) == ["b", "c"]
    with pytest.raises(Exists, match="b already exists"):
        root.add(text(tree, "b"))
    root.add(text(tree, "a"))
    assert listed(root) == ["b", "c", "a"]


def test_a_listing_is_a_snapshot() -> None:
    tree = Tree("me")
    root = Directory(tree, "/")
    root.add(text(tree, "a"))
    opened = root.open(c.OREAD)
    assert isinstance(opened, OpenDirectory)
    before = opened.readdir()
    root.add(text(tree, "b"))
    assert isinstance(before, Sequence) and len(before) == 1


class TestWalk:
    tree = Tree("me")
    root = Directory(tree, "/")
    sub = root.add(Directory(tree, "sub"))
    leaf = sub.add(TextFile(tree, "leaf", lambda: "text"))

    def test_down_and_up(self) -> None:
        walk = walked(self.root.walk(["sub", "leaf"]))
        assert walk == Walk([self.sub.qid, self.leaf.qid], self.leaf)
        assert walked(self.sub.walk([".."])).file is self.root
        assert walked(self.root.walk([".."])).file is self.root

    def test_no_names_is_the_file_itself(self) -> None:
        assert walked(self.root.walk([])) == Walk([], self.root)
        assert walked(self.leaf.walk([])) == Walk([], self.leaf)

    def test_it_says_how_far_it_came_and_why_no_further(self) -> None:
        missing = walked(self.root.walk(["sub", "nope", "leaf"]))
        assert (missing.qids, missing.file) == ([self.sub.qid], None)
        assert isinstance(missing.error, NotFound)
        through_a_file = walked(self.root.walk(["sub", "leaf", "x"]))
        assert (through_a_file.qids, through_a_file.file) == (
            [self.sub.qid, self.leaf.qid],
            None,
        )
        assert isinstance(through_a_file.error, NotDirectory)

    def test_dot_and_odd_names_are_ordinary_names_that_do_not_exist(self) -> None:
        for name in (".", "", "sub/leaf", "SUB"):
            assert walked(self.root.walk([name])).file is None

    def test_a_file_that_waits_makes_the_whole_walk_wait(self) -> None:
        class Remote(SyntheticFile):
            def walk(self, names: Sequence[str]) -> Maybe[Walk]:
                return self._walk(names)

            async def _walk(self, names: Sequence[str]) -> Walk:
                return Walk([self.qid] * len(names), None if names else self, Error("far"))

        remote = self.sub.add(Remote(self.tree, "remote", 0o444))

        async def walk(*names: str) -> Walk:
            result = self.root.walk(names)
            assert not isinstance(result, Walk)
            return await result

        here, there = asyncio.run(walk("sub", "remote")), asyncio.run(walk("sub", "remote", "x"))
        assert (here.qids, here.file) == ([self.sub.qid, remote.qid], remote)
        assert (there.qids, there.file) == ([self.sub.qid, remote.qid, remote.qid], None)
        self.sub.discard("remote")


def test_a_discarded_file_stays_with_those_who_have_it() -> None:
    tree = Tree("me")
    root = Directory(tree, "/")
    file = root.add(text(tree, "a"))
    root.discard("a")
    assert walked(file.walk([])).file is file
    assert isinstance(file.open(c.OREAD), OpenFile)


def test_a_text_is_made_at_open() -> None:
    count = iter(range(10))
    file = TextFile(Tree("me"), "n", lambda: f"open number {next(count)}")
    first, second = file.open(c.OREAD), file.open(c.OREAD)
    assert isinstance(first, OpenFile) and isinstance(second, OpenFile)
    assert second.read(0, 99) == b"open number 1"
    assert first.read(0, 99) == b"open number 0"
    assert first.read(5, 6) == b"number"
    assert first.read(99, 6) == b""


@pytest.mark.parametrize("mode", [c.OWRITE, c.ORDWR, c.OEXEC, c.OREAD | c.OTRUNC])
def test_a_text_is_only_read(mode: int) -> None:
    with pytest.raises(PermissionDenied):
        text(Tree("me"), "a").open(mode)


def test_the_last_open_file_of_a_group_is_noticed_once() -> None:
    unused: list[str] = []
    tree = Tree("me")
    root = Directory(tree, "/")
    group = Directory(tree, "7")
    group.opens = Uses(lambda: unused.append("7"))
    group.add(text(tree, "ctl"))
    root.add(group)
    one = walked(root.walk(["7", "ctl"])).file
    two = walked(root.walk(["7"])).file
    three = walked(group.walk(["ctl", "nope"])).file
    assert one is not None and two is not None and three is None
    one.opened()
    two.opened()
    walked(group.walk(["ctl"]))
    one.release(was_open=True)
    two.release(was_open=False)
    assert unused == []
    two.release(was_open=True)
    assert unused == ["7"]


def test_mount_prefixes_do_not_meet_each_other_or_our_own_numbers() -> None:
    tree = Tree("me")
    prefixes = {tree.mount_prefix(48) for _ in range(100)}
    assert len(prefixes) == 100
    assert all(prefix >= 1 << 48 and prefix % (1 << 48) == 0 for prefix in prefixes)


class Far(SyntheticFile):
    """A walk from or to it is asked of somebody else."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree, "far", 0o444)
        self.asked: list[Pending[Walk]] = []
        self.cancelled = 0

    def walk(self, names: Sequence[str]) -> Maybe[Walk]:
        self.asked.append(Pending(self.cancel))
        return self.asked[-1]

    def cancel(self) -> None:
        self.cancelled += 1
        self.asked[-1].fail(asyncio.CancelledError())


@story
async def test_a_walk_that_goes_on_elsewhere_is_cancelled_there_before_it_is_awaited() -> None:
    tree = Tree("me")
    root, far = Directory(tree, "/"), Far(tree)
    root.add(far)
    for names in (["far"], ["far", "leaf"]):
        far.cancelled = 0
        walk = root.walk(names)
        assert isinstance(walk, Pending)
        walk.cancel()
        assert far.cancelled == 1 and walk.over
        walk = root.walk(names)
        assert isinstance(walk, Pending)
        far.asked[-1].succeed(Walk([far.qid], far))
        assert (await walk).qids == [far.qid, far.qid]
