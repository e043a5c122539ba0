"""Paths, the table of binds and mounts, and patterns."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llambo9p_tools.dish.namespace import Namespace, Place, clean, glob
from llambo9p_tools.failure import Failure
from llambo9p_tools.tree import Tree
from py9p.constants import DMDIR
from py9p.messages import Dir

from llambo9p.net.address import parse as address

HERE = address("tcp!127.0.0.1!1")
THERE = address("tcp!127.0.0.1!2")
paths = st.lists(st.sampled_from(["a", "b", "c", "..", ".", ""]), max_size=6).map("/".join)


@given(paths, paths)
def test_a_clean_path_is_absolute_and_stays_what_it_is(path, directory):
    found = clean(path, clean(directory))
    assert found.startswith("/") and not {"..", ".", ""} & set(found.split("/")[1:-1])
    assert clean(found) == found


@pytest.mark.parametrize(
    ("path", "directory", "absolute"),
    [
        ("out", "/worker-0000", "/worker-0000/out"),
        ("../status", "/worker-0000", "/status"),
        ("../../..", "/a", "/"),
        ("//status", "/a", "/status"),
        ("", "/a", "/a"),
    ],
)
def test_relative_paths(path, directory, absolute):
    assert clean(path, directory) == absolute


def test_the_longest_name_decides():
    ns = Namespace(HERE)
    ns.add("/n/other", Place(THERE, "/"), "mount")
    ns.add("/n/other/w", Place(HERE, "/worker-0001"), "bind")
    assert ns.find("/status") == Place(HERE, "/status")
    assert ns.find("/n/others") == Place(HERE, "/n/others")
    assert ns.find("/n/other") == Place(THERE, "/")
    assert ns.find("/n/other/x/y") == Place(THERE, "/x/y")
    assert ns.find("/n/other/w/out") == Place(HERE, "/worker-0001/out")
    assert ns.below("/") == ["n"] and ns.below("/n") == ["other"]
    assert ns.below("/n/other") == ["w"] and ns.below("/n/oth") == []
    ns.remove("/n/other/w")
    assert ns.find("/n/other/w/out") == Place(THERE, "/w/out")
    for wrong in (lambda: ns.add("/", Place(THERE, "/"), ""), lambda: ns.remove("/n")):
        with pytest.raises(Failure):
            wrong()


class Names(Tree):
    """Directories by their entries; what is no key is a file."""

    def __init__(self, directories: dict[str, list[str]]) -> None:
        self.directories = directories

    def open(self, path, mode=0):
        raise NotImplementedError

    def stat(self, path):
        parent, _, name = path.rpartition("/")
        if path not in self.directories and name not in self.directories.get(parent or "/", ()):
            raise Failure(f"{path}: file does not exist")
        return Dir(name=name, mode=DMDIR if path in self.directories else 0)

    def entries(self, path):
        if path not in self.directories:
            raise Failure(f"{path}: file does not exist")
        inside = path.rstrip("/") + "/"
        return [
            Dir(name=name, mode=DMDIR if inside + name in self.directories else 0)
            for name in self.directories[path]
        ]

    def close(self):
        pass


TREE = Names(
    {
        "/": ["status", "w-1", "w-0", "w-a", "odd*name"],
        "/w-0": ["out", "ctl"],
        "/w-1": ["out", "ctl"],
        "/w-a": ["out"],
    }
)


@pytest.mark.parametrize(
    ("directory", "pieces", "found"),
    [
        ("/", [("w-*", True)], ["w-0", "w-1", "w-a"]),
        ("/", [("w-[0-9]", True)], ["w-0", "w-1"]),
        ("/", [("w-?/ctl", True)], ["w-0/ctl", "w-1/ctl"]),
        ("/", [("*/*t", True)], ["w-0/out", "w-1/out", "w-a/out"]),
        ("/w-0", [("*", True)], ["ctl", "out"]),
        ("/w-0", [("/w-1/*", True)], ["/w-1/ctl", "/w-1/out"]),
        ("/w-0", [("../s*", True)], ["../status"]),
        ("/", [("odd*", False), ("n*", True)], ["odd*name"]),
        ("/", [("w-", True), ("*", False)], []),
        ("/", [("nothing/*", True)], []),
    ],
)
def test_patterns(directory, pieces, found):
    assert glob(TREE, directory, pieces) == found


@given(st.text("ab*?[]-!", min_size=1, max_size=5), st.lists(st.text("ab*?[]-!", min_size=1)))
def test_inside_one_directory_a_pattern_is_fnmatch_s(pattern, names):
    if not any(ch in pattern for ch in "*?["):
        return
    tree = Names({"/": sorted(set(names))})
    expected = [name for name in sorted(set(names)) if fnmatch.fnmatchcase(name, pattern)]
    assert glob(tree, "/", [(pattern, True)]) == expected
