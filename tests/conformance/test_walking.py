"""Attach, walk, stat and directories: what a client can know of a tree.

Each check runs over every tree in every dialect (see `checks`).
"""

from __future__ import annotations

import pytest

from llambo9p import errors
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.wire import Qid

from .checks import everywhere
from .speaker import Entry, Refused, Speaker, refused, speaking
from .subjects import Subject


async def whole_tree(speaker: Speaker) -> dict[str, Qid]:
    """Every file below the root, by its path."""
    found: dict[str, Qid] = {}
    directories = [""]
    while directories:
        directory = directories.pop()
        for entry in await speaker.ls(directory):
            path = f"{directory}/{entry.name}"
            found[path] = entry.qid
            if entry.qid.type & c.QTDIR:
                directories.append(path)
    return found


@everywhere
async def test_attach_gives_the_root(subject: Subject, speaker: Speaker) -> None:
    of = await speaker.stat(speaker.root)
    assert of.directory and of.qid == speaker.root_qid
    assert of.qid.type == c.QTDIR
    again, qid = await speaker.attach(subject.aname, uname="nobody")
    assert qid == speaker.root_qid, "uname changes nothing"
    with refused(errno=errors.NotFound.errno):
        await speaker.attach("no such tree")
    with refused(errno=errors.InUse.errno):
        await speaker.send(m.Tattach(0, again, c.NOFID, "glenda", subject.aname))
    with refused():
        await speaker.send(m.Tauth(0, speaker.new_fid(), "glenda", ""))


@everywhere
async def test_walk_of_no_names_clones(subject: Subject, speaker: Speaker) -> None:
    for path in ("", subject.roles.text, subject.roles.directory):
        fid, _ = await speaker.walk(path)
        clone, qids = await speaker.walk("", fid)
        assert qids == []
        assert await speaker.stat(clone) == await speaker.stat(fid)
        await speaker.clunk(fid)
        await speaker.open(clone)


@everywhere
async def test_an_open_fid_is_cloned_but_not_walked_in_place(
    subject: Subject, speaker: Speaker
) -> None:
    fid = await speaker.opened(subject.roles.directory)
    clone, _ = await speaker.walk("", fid)
    await speaker.open(clone)
    with refused(errno=errors.InUse.errno):
        await speaker.send(m.Twalk(0, fid, fid, ("..",)))


@everywhere
async def test_walk_in_place_moves_the_fid(subject: Subject, speaker: Speaker) -> None:
    fid, _ = await speaker.walk("")
    for names in (tuple(subject.roles.leaf.split("/")), ()):
        await speaker.send(m.Twalk(0, fid, fid, names))
    _, qids = await speaker.walk(subject.roles.leaf)
    assert (await speaker.stat(fid)).qid == qids[-1]
    await speaker.open(fid)
    assert await speaker.read_all(fid)


@everywhere
async def test_a_newfid_in_use_is_refused(subject: Subject, speaker: Speaker) -> None:
    fid, _ = await speaker.walk(subject.roles.text)
    with refused(errno=errors.InUse.errno):
        await speaker.send(m.Twalk(0, speaker.root, fid, ()))
    assert (await speaker.stat(fid)).qid != speaker.root_qid


@everywhere
async def test_the_root_is_its_own_parent(subject: Subject, speaker: Speaker) -> None:
    directory = subject.roles.directory
    _, qids = await speaker.walk(f"../../{directory}/../{directory}/../..")
    root = speaker.root_qid
    assert qids == [root, root, qids[2], root, qids[2], root, root]
    _, up = await speaker.walk("..", (await speaker.walk(directory))[0])
    assert up == [root]


@everywhere
async def test_a_partial_walk_leaves_newfid_unused(subject: Subject, speaker: Speaker) -> None:
    directory, leaf = subject.roles.leaf.split("/")
    _, whole = await speaker.walk(subject.roles.leaf)
    newfid = speaker.new_fid()
    for names, found in (
        ((directory, "nope"), 1),
        ((directory, "nope", leaf), 1),
        ((directory, leaf, "nope"), 2),
        ((directory, leaf, ".."), 2),
    ):
        reply = await speaker.send(m.Twalk(0, speaker.root, newfid, names))
        assert list(reply.wqid) == whole[:found]
        with refused(errors.UnknownFid):
            await speaker.stat(newfid)
    await speaker.send(m.Twalk(0, speaker.root, newfid, (directory, leaf)))


@everywhere
async def test_a_first_name_that_fails_is_an_error(subject: Subject, speaker: Speaker) -> None:
    newfid = speaker.new_fid()
    for name in ("nope", "", ".", "../etc", "a/b", "n" * 300, "\N{SNOWMAN}"):
        with refused(errors.NotFound):
            await speaker.send(m.Twalk(0, speaker.root, newfid, (name,)))
    file, _ = await speaker.walk(subject.roles.text)
    with refused(errors.NotDirectory):
        await speaker.send(m.Twalk(0, file, newfid, ("x",)))
    with refused(errors.UnknownFid):
        await speaker.send(m.Twalk(0, newfid, speaker.new_fid(), ()))


@everywhere
async def test_sixteen_names_and_not_seventeen(subject: Subject, speaker: Speaker) -> None:
    there_and_back = (subject.roles.directory, "..") * 8
    await speaker.send(m.Twalk(0, speaker.root, speaker.new_fid(), there_and_back))
    with refused(errno=errors.InvalidArgument.errno):
        await speaker.send(
            m.Twalk(0, speaker.root, speaker.new_fid(), (*there_and_back, ".."))
        )


@everywhere
async def test_walk_stat_and_listing_agree(subject: Subject, speaker: Speaker) -> None:
    for directory in ("", subject.roles.directory):
        entries = await speaker.ls(directory)
        assert entries and len({name for name, _ in entries}) == len(entries)
        for name, qid in entries:
            fid, qids = await speaker.walk(f"{directory}/{name}")
            of = await speaker.stat(fid)
            assert of.qid == qids[-1] == qid
            assert of.directory == bool(qid.type & c.QTDIR)
            assert of.length == 0
            assert of.directory or qid.vers == 0, "a directory may count its changes"
            await speaker.clunk(fid)


@everywhere
async def test_a_file_has_one_qid_and_no_other_file_has_it(
    subject: Subject, speaker: Speaker
) -> None:
    first = await whole_tree(speaker)
    paths = [speaker.root_qid.path, *(qid.path for qid in first.values())]
    assert len(set(paths)) == len(paths)
    async with speaking(subject.address, speaker.version, subject.aname) as other:
        assert other.root_qid == speaker.root_qid
        assert await whole_tree(other) == first


@everywhere
async def test_a_directory_is_read_in_any_pieces(subject: Subject, speaker: Speaker) -> None:
    fid = await speaker.opened("")
    whole = await speaker.entries(fid)
    assert await speaker.entries(fid) == whole, "it is rewound"
    for count in (150, 200, 333):
        assert await speaker.entries(fid, count) == whole
    with refused(errno=errors.InvalidArgument.errno):
        await speaker.entries(fid, 10)
    assert await speaker.entries(fid) == whole
    again, _ = await speaker.walk("", fid)
    await speaker.open(again)
    assert await speaker.entries(again) == whole


@everywhere
async def test_a_directory_that_grows_is_read_as_it_was(
    subject: Subject, speaker: Speaker
) -> None:
    fid = await speaker.opened("")
    before = await speaker.entries(fid)
    assert await speaker.entries(fid, 150, meanwhile=subject.grow) == before
    after = await speaker.entries(fid)
    assert len(after) == len(before) + 1 and set(before) < set(after)


@everywhere
async def test_a_listing_fits_a_small_msize(subject: Subject, speaker: Speaker) -> None:
    whole = await speaker.ls()
    await speaker.begin(c.MIN_MSIZE)
    speaker.root, qid = await speaker.attach(subject.aname)
    assert qid == speaker.root_qid
    assert await speaker.ls() == whole
    _, [qid] = await speaker.walk(subject.roles.text)
    assert Entry(subject.roles.text, qid) in whole


@everywhere
async def test_directories_are_opened_for_reading_only(
    subject: Subject, speaker: Speaker
) -> None:
    for path in ("", subject.roles.directory):
        fid, _ = await speaker.walk(path)
        for mode in (c.OWRITE, c.ORDWR, c.OREAD | c.OTRUNC):
            with refused(errors.IsDirectory):
                await speaker.open(fid, mode)
        await speaker.open(fid)
        with refused():
            await speaker.write(fid, b"x")


@everywhere
async def test_nothing_is_created_or_removed(subject: Subject, speaker: Speaker) -> None:
    before = await speaker.ls()
    fid, _ = await speaker.walk("")
    with refused(errors.PermissionDenied):
        await speaker.create(fid, "new")
    with refused(errors.PermissionDenied):
        await speaker.make_directory(fid, "new")
    assert (await speaker.stat(fid)).qid == speaker.root_qid, "it is where it was"
    for path in (subject.roles.text, subject.roles.directory, subject.roles.ctl):
        fid, _ = await speaker.walk(path)
        with refused(errors.PermissionDenied):
            await speaker.remove(fid)
        with refused(errors.UnknownFid):
            await speaker.stat(fid)
    assert await speaker.ls() == before


def test_a_refusal_can_be_told_from_another() -> None:
    """The suite can fail: `refused` looks at what was said."""
    said = [Refused("file does not exist", None), Refused(None, 2), Refused("x", 2)]
    for refusal in said[:2]:
        with refused(errors.NotFound):
            raise refusal
    for refusal in (said[2], Refused(None, 13)):
        with pytest.raises(AssertionError), refused(errors.NotFound):
            raise refusal
    with pytest.raises(AssertionError), refused(errno=13):
        raise said[1]
