"""Open, read, write, stat changes and the end of fids: what a client can do to a file.

Each check runs over every tree in every dialect (see `checks`).
"""

from __future__ import annotations

import asyncio

from llambo9p import errors
from llambo9p.p9 import constants as c
from llambo9p.p9 import dialects as d
from llambo9p.p9 import messages as m

from .checks import everywhere, in_dialects
from .speaker import MSIZE, Speaker, refused
from .subjects import Subject


@everywhere
async def test_open_checks_permission_once(subject: Subject, speaker: Speaker) -> None:
    fid, _ = await speaker.walk(subject.roles.text)
    for mode in (c.OWRITE, c.ORDWR, c.OREAD | c.OTRUNC):
        with refused(errors.PermissionDenied):
            await speaker.open(fid, mode)
    qid, iounit = await speaker.open(fid)
    assert qid == (await speaker.stat(fid)).qid
    assert 0 < iounit <= MSIZE - c.IOHDRSZ
    with refused(errno=errors.InUse.errno):
        await speaker.open(fid)
    with refused(errno=errors.PermissionDenied.errno):
        await speaker.write(fid, b"x")
    stream, _ = await speaker.walk(subject.roles.stream)
    with refused(errors.PermissionDenied):
        await speaker.open(stream, c.OWRITE)


@in_dialects(c.VERSION_9P2000, c.VERSION_9P2000_U)
async def test_unknown_modes_are_refused(subject: Subject, speaker: Speaker) -> None:
    """9P2000.L has Linux's flags, and those that mean nothing here are ignored."""
    fid, _ = await speaker.walk(subject.roles.ctl)
    with refused(errno=errors.InvalidArgument.errno):
        await speaker.open(fid, 0x20)
    with refused(errors.PermissionDenied):
        await speaker.open(fid, c.OREAD | c.ORCLOSE)
    await speaker.open(fid)


@everywhere
async def test_a_fid_is_read_and_written_only_when_open_for_it(
    subject: Subject, speaker: Speaker
) -> None:
    fid, _ = await speaker.walk(subject.roles.system)
    with refused(errno=errors.PermissionDenied.errno):
        await speaker.read(fid)
    with refused(errno=errors.PermissionDenied.errno):
        await speaker.write(fid, b"x")
    await speaker.open(fid, c.OWRITE)
    with refused(errno=errors.PermissionDenied.errno):
        await speaker.read(fid)


@everywhere
async def test_reads_from_any_offset_to_the_end_and_beyond(
    subject: Subject, speaker: Speaker
) -> None:
    fid = await speaker.opened(subject.roles.text)
    text = await speaker.read_all(fid)
    assert text
    for count in (1, 2, 7, MSIZE, 0xFFFF_FFFF):
        assert await speaker.read_all(fid, count) == text
    assert await speaker.read(fid, 1, 2) == text[1:3]
    assert await speaker.read(fid, 0, 0) == b""
    for offset in (len(text), len(text) + 1, 1 << 40, (1 << 63) - 1):
        assert await speaker.read(fid, offset) == b""


@everywhere
async def test_two_fids_of_a_file_do_not_know_each_other(
    subject: Subject, speaker: Speaker
) -> None:
    one, two = [await speaker.opened(subject.roles.text) for _ in range(2)]
    text = await speaker.read_all(one)
    await speaker.clunk(one)
    assert await speaker.read_all(two) == text


@everywhere
async def test_a_small_msize_carries_the_same_text(subject: Subject, speaker: Speaker) -> None:
    text = await speaker.contents(subject.roles.text)
    await speaker.begin(c.MIN_MSIZE)
    speaker.root, _ = await speaker.attach(subject.aname)
    fid, _ = await speaker.walk(subject.roles.text)
    _, iounit = await speaker.open(fid)
    assert 0 < iounit <= c.MIN_MSIZE - c.IOHDRSZ
    assert await speaker.read_all(fid) == text


@everywhere
async def test_what_is_written_is_there_after_the_clunk(
    subject: Subject, speaker: Speaker
) -> None:
    path = subject.roles.system
    for mode in (c.OWRITE, c.OWRITE | c.OTRUNC, c.ORDWR):
        fid = await speaker.opened(path, mode)
        await speaker.write(fid, b"be brief")
        await speaker.clunk(fid)
        assert (await speaker.contents(path)).rstrip() == b"be brief"


@everywhere
async def test_a_truncate_empties_a_text(subject: Subject, speaker: Speaker) -> None:
    path = subject.roles.system
    for how in ("open", "stat of a walked fid", "stat of an open fid"):
        fid = await speaker.opened(path, c.OWRITE)
        await speaker.write(fid, b"be brief")
        await speaker.clunk(fid)
        fid, _ = await speaker.walk(path)
        if how != "stat of a walked fid":
            await speaker.open(fid, c.OWRITE | (c.OTRUNC if how == "open" else 0))
        if how != "open":
            await speaker.change(fid, length=0)
        await speaker.clunk(fid)
        assert await speaker.contents(path) == b"", how


@everywhere
async def test_a_stat_change_is_a_sync_or_a_truncate_or_refused(
    subject: Subject, speaker: Speaker
) -> None:
    for path in (subject.roles.text, subject.roles.ctl, subject.roles.directory):
        fid, _ = await speaker.walk(path)
        before = await speaker.stat(fid)
        await speaker.change(fid)
        with refused(errno=errors.PermissionDenied.errno):
            await speaker.change(fid, length=5)
        with refused(errors.PermissionDenied):
            await speaker.change(fid, mode=0o777)
        with refused(
            errors.NotPermitted if speaker.dialect is d.P9_2000_L else errors.PermissionDenied
        ):
            await speaker.rename(fid, "new")
        if before.directory:
            with refused(errors.IsDirectory):
                await speaker.change(fid, length=0)
        else:
            await speaker.change(fid, length=0)
        assert await speaker.stat(fid) == before


@everywhere
async def test_a_ctl_write_is_all_or_nothing_at_any_offset(
    subject: Subject, speaker: Speaker
) -> None:
    path = subject.roles.ctl
    before = await speaker.contents(path)
    assert b"max_tokens 256\n" in before
    fid = await speaker.opened(path, c.ORDWR | c.OTRUNC)
    for bad in (b"max_tokens 7\nno_such_verb\n", b"max_tokens\n", b"max_tokens 7\n\xff"):
        with refused(errno=errors.InvalidArgument.errno):
            await speaker.write(fid, bad)
    assert await speaker.contents(path) == before
    await speaker.write(fid, b"max_tokens 7\n", 1 << 33)
    after = before.replace(b"max_tokens 256\n", b"max_tokens 7\n")
    assert await speaker.contents(path) == after, "before the clunk"
    assert await speaker.read(fid) == before, "a read shows what was at the open"
    await speaker.clunk(fid)
    assert await speaker.contents(path) == after, "and no second time"


@everywhere
async def test_clunk_and_remove_free_the_fid(subject: Subject, speaker: Speaker) -> None:
    fid = await speaker.opened(subject.roles.text)
    await speaker.clunk(fid)
    for use in (speaker.clunk, speaker.remove, speaker.stat, speaker.read):
        with refused(errors.UnknownFid):
            await use(fid)
    clunks = []
    for path in (subject.roles.text, subject.roles.leaf, subject.roles.ctl):
        names = tuple(path.split("/"))
        replies = [  # the number again, though no Rclunk for it has come
            speaker.send(m.Twalk(0, speaker.root, fid, names)),
            speaker.send(speaker.opening(fid, c.OREAD)),
            speaker.send(m.Tread(0, fid, 0, MSIZE)),
        ]
        assert (await asyncio.gather(*replies))[2].data
        clunks.append(speaker.send(m.Tclunk(0, fid)))
    await asyncio.gather(*clunks)


@in_dialects(c.VERSION_9P2000_L)
async def test_linux_asks_what_no_synthetic_file_has(
    subject: Subject, speaker: Speaker
) -> None:
    fid, _ = await speaker.walk(subject.roles.ctl)
    assert (await speaker.send(d.Tstatfs(0, fid))).type == 0x0102_1997
    newfid = speaker.new_fid()
    with refused(errors.NotSupported):
        await speaker.send(d.Txattrwalk(0, fid, newfid, "security.capability"))
    with refused(errors.UnknownFid):
        await speaker.stat(newfid)
    with refused(errors.NotSupported):
        await speaker.send(d.Tlock(0, fid, 0, 0, 0, 0, 1, "client"))
    with refused(errors.InvalidArgument):
        await speaker.send(d.Treadlink(0, fid))
    root = speaker.root
    for msg in (
        d.Tsymlink(0, root, "new", "ctl", 0),
        d.Tmknod(0, root, "new", 0o644, 0, 0, 0),
        d.Tlink(0, root, fid, "new"),
        d.Trenameat(0, root, "ctl", root, "new"),
    ):
        with refused(errors.NotPermitted):
            await speaker.send(msg)
    with refused(errors.PermissionDenied):
        await speaker.send(d.Tunlinkat(0, root, subject.roles.text, 0))
    with refused(errors.NotFound):
        await speaker.send(d.Tunlinkat(0, root, "nope", 0))
    await speaker.open(fid, c.OWRITE)
    await speaker.send(d.Tfsync(0, fid, 0))
