"""Blocking reads, Tflush, tags, Tversion and lost connections: when replies come.

Each check runs over every tree in every dialect (see `checks`).
"""

from __future__ import annotations

import asyncio

from llambo9p import errors
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m

from .checks import everywhere
from .speaker import MSIZE, Speaker, refused, speaking
from .subjects import ANSWER, Subject


async def asked(subject: Subject, speaker: Speaker) -> int:
    """A fid open on an answer to come."""
    await subject.ask()
    return await speaker.opened(subject.roles.stream)


def reading(
    speaker: Speaker, fid: int, offset: int = 0, tag: int | None = None
) -> asyncio.Future[m.Rread]:
    return speaker.send(m.Tread(0, fid, offset, MSIZE), tag)


@everywhere
async def test_a_read_waits_for_more_and_holds_back_nobody(
    subject: Subject, speaker: Speaker
) -> None:
    fid = await asked(subject, speaker)
    for at in range(3):
        waiting = reading(speaker, fid, at)
        assert await speaker.contents(subject.roles.text)
        assert not waiting.done()
        subject.feed()
        assert (await waiting).data == ANSWER[at : at + 1]
    assert await speaker.read(fid, 1, 1) == ANSWER[1:2], "what was read stays readable"
    subject.end()
    assert await speaker.read_all(fid) == ANSWER
    assert await speaker.read(fid, len(ANSWER)) == b"", "the end stays the end"
    late = await speaker.opened(subject.roles.stream)
    assert await speaker.read_all(late, 5) == ANSWER


@everywhere
async def test_every_waiting_reader_is_woken(subject: Subject, speaker: Speaker) -> None:
    async with speaking(subject.address, speaker.version, subject.aname) as other:
        fid = await asked(subject, speaker)
        waiting = [reading(speaker, fid), reading(speaker, fid)]
        waiting += [reading(speaker, await speaker.opened(subject.roles.stream))]
        waiting += [reading(other, await other.opened(subject.roles.stream))]
        subject.feed()
        for each in waiting:
            assert (await each).data == ANSWER[:1]
    subject.end()
    assert await speaker.read_all(fid) == ANSWER, "though the other client has gone"


@everywhere
async def test_a_flushed_read_is_not_answered_and_its_tag_is_free(
    subject: Subject, speaker: Speaker
) -> None:
    fid = await asked(subject, speaker)
    tag = 5000
    for _ in range(2):
        waiting = reading(speaker, fid, tag=tag)
        await speaker.contents(subject.roles.text)
        await speaker.flush(tag)
        assert waiting.cancelled()
        assert not (await speaker.send(m.Tread(0, fid, 0, 0), tag)).data
    again = reading(speaker, fid, tag=tag)
    subject.end()
    assert ANSWER.startswith((await again).data)
    assert await speaker.read_all(fid) == ANSWER, "the flush lost nothing"


@everywhere
async def test_flushes_are_all_answered_in_order(subject: Subject, speaker: Speaker) -> None:
    fid = await asked(subject, speaker)
    reading(speaker, fid, tag=5000)
    came: list[int] = []
    flushes = []
    for tag, oldtag in ((1, 5000), (2, 5000), (3, 1), (4, 777), (5, 5)):
        flush = speaker.send(m.Tflush(0, oldtag), 6000 + tag)
        flush.add_done_callback(lambda _, tag=tag: came.append(tag))
        flushes.append(flush)
    await asyncio.gather(*flushes)
    assert sorted(came) == [1, 2, 3, 4, 5]
    assert came.index(1) < came.index(2)
    speaker.waiting.pop(5000).cancel()
    subject.end()
    assert await speaker.read_all(fid) == ANSWER


@everywhere
async def test_a_clunk_interrupts_the_read_on_its_fid_and_no_other(
    subject: Subject, speaker: Speaker
) -> None:
    fid = await asked(subject, speaker)
    other = await speaker.opened(subject.roles.stream)
    waiting, left = reading(speaker, fid), reading(speaker, other)
    await speaker.clunk(fid)
    with refused(errors.Interrupted):
        await waiting
    with refused(errors.UnknownFid):
        await speaker.read(fid)
    assert not left.done()
    subject.end()
    assert ANSWER.startswith((await left).data)


@everywhere
async def test_a_tag_in_use_is_refused_and_its_request_left_alone(
    subject: Subject, speaker: Speaker
) -> None:
    fid = await asked(subject, speaker)
    waiting = reading(speaker, fid, tag=5000)
    with refused(errno=errors.InUse.errno):
        await speaker.send(m.Tclunk(0, fid), 5000)
    speaker.waiting[5000] = waiting
    subject.end()
    assert ANSWER.startswith((await waiting).data)


@everywhere
async def test_version_drops_every_fid_and_every_request(
    subject: Subject, speaker: Speaker
) -> None:
    fid = await asked(subject, speaker)
    waiting = reading(speaker, fid)
    await speaker.begin()
    speaker.waiting.clear()
    for number in (speaker.root, fid):
        with refused(errors.UnknownFid):
            await speaker.clunk(number)
    subject.end()
    speaker.root, _ = await speaker.attach(subject.aname)
    assert await speaker.contents(subject.roles.stream) == ANSWER, "it went on"
    assert not waiting.done()


@everywhere
async def test_version_below_the_least_msize_is_refused(
    subject: Subject, speaker: Speaker
) -> None:
    for msize in (0, 10, c.MIN_MSIZE - 1):
        with refused(errno=errors.InvalidArgument.errno):
            await speaker.begin(msize)
    assert await speaker.contents(subject.roles.text), "nothing was reset"
    assert (await speaker.begin(0xFFFF_FFFF)).msize == c.DEFAULT_MSIZE


@everywhere
async def test_version_of_another_protocol_is_unknown(
    subject: Subject, speaker: Speaker
) -> None:
    reply = await speaker.send(m.Tversion(0, MSIZE, "8P1999"), c.NOTAG)
    assert reply.version == "unknown"
    with refused(errno=errors.InvalidArgument.errno):
        await speaker.attach(subject.aname)


@everywhere
async def test_a_bad_message_is_answered_and_the_connection_goes_on(
    subject: Subject, speaker: Speaker
) -> None:
    for frame in (b"\x07\0\0\0\xc8\x99\x99", b"\x08\0\0\0\x78\x99\x99\0"):
        speaker.waiting[0x9999] = reply = asyncio.get_running_loop().create_future()
        speaker._writer.write(frame)
        with refused(errno=errors.InvalidArgument.errno):
            await reply
    assert await speaker.contents(subject.roles.text)
