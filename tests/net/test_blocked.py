"""What waits for its reply is paid for by its user: blocked reads, data that waits, listings."""

from __future__ import annotations

import asyncio

import pytest

from llambo9p.errors import Busy
from llambo9p.fs import sleepers, stream
from llambo9p.fs.sleepers import Sleepers
from llambo9p.fs.stream import Stream
from llambo9p.fs.tree import Directory, TextFile, Tree
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.dialects import Tlopen, Treaddir
from llambo9p.p9.fid import FREE_REQUESTS, REQUEST_BYTES, FidShare
from llambo9p.p9.server import Limits, ServerConn
from tests.files import story
from tests.p9.transcript import StepLoop, World


def connection(share: FidShare | None = None, limits: Limits | None = None) -> ServerConn:
    """To a `World`, with fid 1 open on `out`, which has nothing yet."""
    conn = ServerConn(World().attach, limits=limits)
    conn.fids.share = share
    conn.receive(m.Tversion(c.NOTAG, 1 << 17, "9P2000").pack())
    conn.receive(m.Tattach(1, 0, c.NOFID, "glenda", "").pack())
    conn.receive(m.Twalk(1, 0, 1, ("out",)).pack() + m.Topen(1, 1, c.OREAD).pack())
    conn.data_to_send()
    return conn


def refused(conn: ServerConn) -> list[str]:
    """Why, for each message that was."""
    replies = map(conn.dialect.unpack, conn.data_to_send())
    return [reply.ename for reply in replies if isinstance(reply, m.Rerror)]


def blocked(conn: ServerConn, count: int) -> None:
    """So many reads of fid 1, with tags from 10 on."""
    conn.receive(b"".join(m.Tread(tag, 1, 0, 5).pack() for tag in range(10, 10 + count)))


def test_blocked_reads_of_all_connections_of_a_user_are_bounded_in_bytes() -> None:
    share = FidShare(1024, "alice")
    conns = []
    while True:
        conn = connection(share)
        conns.append(conn)
        blocked(conn, 200)
        why = refused(conn)
        if why:
            break
    assert "more than 1024 fids on all connections of alice" in why[0]
    waiting = sum(len(conn.requests) - FREE_REQUESTS for conn in conns)
    assert waiting * REQUEST_BYTES <= 1024 * 1024 < (waiting + 200) * REQUEST_BYTES
    other = connection(FidShare(1024, "bob"))
    blocked(other, 200)
    assert not refused(other), "others are not concerned"
    for each in (*conns, other):
        each.lost()
    assert share.used == 0


def test_what_makes_room_is_taken_where_there_is_none() -> None:
    conn = connection(FidShare(130, "alice"))
    blocked(conn, 200)
    count = len(conn.requests)
    assert refused(conn)
    conn.receive(m.Tflush(5, 10).pack())
    conn.receive(m.Tclunk(6, 1).pack())
    tags = [reply[5] for reply in conn.data_to_send()]
    assert {5, 6} <= set(tags) and not conn.requests and count > 50


def test_data_that_waits_for_a_busy_fid_is_counted_and_given_back() -> None:
    loop = StepLoop()
    asyncio._set_running_loop(loop)
    try:
        conn = connection(limits=Limits(fids=1024))
        conn.receive(m.Twalk(2, 0, 2, ("vault",)).pack() + m.Topen(3, 2, c.ORDWR).pack())
        before = conn.fids._weight
        for tag in range(10, 30):
            conn.receive(m.Twrite(tag, 2, 0, bytes(100_000)).pack())
        assert "more than 1024 fids on one connection" in refused(conn)[0]
        weight = conn.fids._weight - before
        assert 800 < weight <= 1024, "the data of those that wait"
        for tag in range(10, 30):
            conn.receive(m.Tflush(tag + 100, tag).pack())
        assert conn.fids._weight == before
        conn.lost()
    finally:
        asyncio._set_running_loop(None)
        loop.close()


@pytest.mark.parametrize("version", [c.VERSION_9P2000, c.VERSION_9P2000_L])
def test_a_listing_that_is_open_is_counted_and_given_back(version: str) -> None:
    tree = Tree("me")
    root = Directory(tree, "/")
    for number in range(2000):
        root.add(TextFile(tree, f"file-{number}", lambda: ""))
    conn = ServerConn(lambda uname, aname: root)
    conn.receive(m.Tversion(c.NOTAG, 1 << 17, version).pack())
    attach = conn.dialect.of(m.Tattach(1, 0, c.NOFID, "me", ""))
    conn.receive(attach.pack() + m.Twalk(1, 0, 1, ()).pack())
    if version == c.VERSION_9P2000:
        conn.receive(m.Topen(1, 1, c.OREAD).pack() + m.Tread(1, 1, 0, 8000).pack() * 2)
    else:
        conn.receive(Tlopen(1, 1, 0).pack() + Treaddir(1, 1, 0, 8000).pack() * 2)
    assert not refused(conn)
    assert 60 < conn.fids._weight < 400
    conn.receive(m.Tclunk(1, 1).pack())
    assert conn.fids._weight == 0


@story
async def test_many_who_wait_are_told_in_several_turns_and_in_their_order() -> None:
    told: list[int] = []
    text = Stream()
    count = 3 * stream.AT_ONCE + 10
    for number in range(count):
        read = text.read(0, 1)
        assert not isinstance(read, bytes)
        read.listen(lambda data, error, number=number: told.append(number))  # type: ignore[attr-defined, misc]
    text.append(b"x")
    assert len(told) == stream.AT_ONCE
    text.append(b"y")
    assert len(told) == stream.AT_ONCE
    turns = 0
    while len(told) < count:
        await asyncio.sleep(0)
        turns += 1
    assert told == list(range(count)) and turns >= 3


@story
async def test_many_who_sleep_wake_in_several_turns_and_nobody_sleeps_on() -> None:
    many = Sleepers()
    count = 2 * sleepers.AT_ONCE + 10
    woken: list[int] = []

    async def sleep(number: int) -> None:
        await many.sleep()
        woken.append(number)

    tasks = [asyncio.create_task(sleep(number)) for number in range(count)]
    await asyncio.sleep(0)
    tasks[5].cancel()
    await asyncio.sleep(0)
    many.wake()
    await asyncio.sleep(0)
    assert 0 < len(woken) <= 2 * sleepers.AT_ONCE
    tasks[-1].cancel()  # while it is about to be woken
    late = asyncio.create_task(sleep(count))
    await asyncio.sleep(0)
    many.wake()
    await asyncio.gather(*tasks, late, return_exceptions=True)
    assert sorted(woken) == sorted({*range(count), count} - {5, count - 1})
    many.wake()


def test_busy_is_an_error_of_the_read_that_is_one_too_many() -> None:
    conn = connection(limits=Limits(requests=20))
    blocked(conn, 25)
    assert refused(conn) == ["more than 20 requests on one connection"] * 5
    with pytest.raises(Busy):
        conn.fids.hold(1 << 40)
    conn.lost()
