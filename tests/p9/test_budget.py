"""A connection that handles its messages in pieces: nothing is reordered, lost or done twice.

The clock is one that moves by one at each look, so `until` counts messages.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.framing import ProtocolError
from llambo9p.p9.server import Limits, ServerConn

from .transcript import HELLO, Journal, World, playing

NAMES = ("hello", "dir", "out", "nowhere")


def sequence(draw: st.DrawFn) -> list[m.Message]:
    """Messages on a few fids, all of which can be answered at once."""
    tag = itertools.count(1)
    made: list[m.Message] = []
    for _ in range(draw(st.integers(1, 25))):
        fid, other = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        kind = draw(st.sampled_from(["walk", "open", "read", "clunk", "stat", "version"]))
        made.append(
            {
                "walk": m.Twalk(next(tag), fid, other, (draw(st.sampled_from(NAMES)),)),
                "open": m.Topen(next(tag), fid, c.OREAD),
                "read": m.Tread(next(tag), fid, draw(st.integers(0, 9)), 5),
                "clunk": m.Tclunk(next(tag), fid),
                "stat": m.Tstat(next(tag), fid),
                "version": m.Tversion(c.NOTAG, 8192, "9P2000"),
            }[kind]
        )
        if kind == "version":
            made.append(m.Tattach(next(tag), 0, c.NOFID, "glenda", ""))
    return made


sequences = st.composite(sequence)()


def answers(frames: bytes, steps: list[int] | None) -> list[bytes]:
    """The replies, where the messages are handled in steps of so many, or all at once."""
    world = World()
    world.journal = Journal()
    world.out.stream.append(b"0123456789")
    ticks = itertools.count()
    conn = ServerConn(world.attach, clock=lambda: next(ticks))
    conn.feed(frames)
    if steps is None:
        conn.resume()
    else:
        for step in itertools.cycle(steps):
            before = next(ticks)
            conn.resume(before + step)
            assert next(ticks) <= before + step + 2, "it handled more than it was given time for"
            if not conn.stalled:
                break
    replies = conn.data_to_send()
    conn.lost()
    return replies


@given(sequences, st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_in_pieces_the_replies_are_those_of_all_at_once(
    msgs: list[m.Message], steps: list[int]
) -> None:
    hello = [m.Tversion(c.NOTAG, 8192, "9P2000"), m.Tattach(0, 0, c.NOFID, "glenda", "")]
    frames = b"".join(msg.pack() for msg in (*hello, *msgs))
    assert answers(frames, steps) == answers(frames, None)


def test_what_waited_for_a_fid_is_handled_in_pieces_before_what_came_later() -> None:
    with playing(limits=Limits(unsent=100)) as player:
        player.play(HELLO + """
            -> Twalk tag 1 fid 0 newfid 9 wname ["slow"]
            <- Rwalk tag 1 wqid [(d 0 14)]
            -> Twalk tag 1 fid 9 newfid 1 wname ["leaf"]
        """)
        reads = b"".join(m.Tstat(tag, 1).pack() for tag in range(2, 12))
        player.send(reads + m.Tstat(12, 0).pack())
        assert [line.split()[2] for line in player.replies()] == ["12"], "fid 0 does not wait"
        player.send(m.Tstat(13, 1).pack())
        taken: list[int] = []
        take = player.conn.data_to_send

        def noting() -> list[bytes]:
            replies = take()
            taken.append(sum(map(len, replies)))
            return replies

        player.conn.data_to_send = noting  # type: ignore[method-assign]
        player.world.journal.oldest("walk slow").set_result(None)
        assert [int(line.split()[2]) for line in player.replies()] == [1, *range(2, 12), 13]
        assert max(taken) < 100 + 100, "the bound on replies holds here too"


@pytest.mark.parametrize("how", ["lost", "Tversion"])
def test_the_files_of_a_connection_that_ends_are_ended_in_pieces(how: str) -> None:
    world = World()
    ticks = itertools.count()
    conn = ServerConn(world.attach, clock=lambda: next(ticks))
    conn.receive(m.Tversion(c.NOTAG, 8192, "9P2000").pack())
    conn.receive(m.Tattach(0, 0, c.NOFID, "glenda", "").pack())
    for fid in range(1, 101):
        conn.receive(m.Twalk(1, 0, fid, ("note",)).pack() + m.Topen(1, fid, c.OREAD).pack())
    world.journal.lines.clear()
    if how == "lost":
        conn.lost(next(ticks) + 10)
    else:
        conn.feed(m.Tversion(c.NOTAG, 8192, "9P2000").pack() + m.Tstat(1, 7).pack())
        conn.resume(next(ticks) + 10)
    assert not conn.fids and not conn.requests, "no fid is left at once"
    pieces = 1
    while conn.stalled:
        ended = len(world.journal.lines)
        conn.resume(next(ticks) + 10)
        assert len(world.journal.lines) - ended <= 2 * 11
        pieces += 1
    assert pieces > 5
    assert world.journal.lines == ["drop note", "release note"] * 100
    if how == "Tversion":
        last = conn.dialect.unpack(conn.data_to_send()[-1])
        assert last == m.Rerror(1, "fid unknown or out of range")


def test_a_file_for_whose_fid_messages_are_due_is_ended_once() -> None:
    """Its walk has ended and the replies are full, so what waited for it is not handled yet."""
    with playing(limits=Limits(unsent=1)) as player:
        player.play(HELLO + """
            -> Twalk tag 1 fid 0 newfid 9 wname ["slow"]
            <- Rwalk tag 1 wqid [(d 0 14)]
            -> Twalk tag 1 fid 9 newfid 1 wname ["leaf"]
            -> Tstat tag 2 fid 1
            -> Tstat tag 3 fid 1
        """)
        conn, journal = player.conn, player.world.journal
        player._pump = lambda: None  # type: ignore[method-assign]
        player.happens("let", "walk", "slow")
        player.loop.run_to_idle()
        assert conn.stalled and conn.fids[1].waiting, "two messages are due"
        journal.lines.clear()
        conn.lost()
        assert journal.lines == ["release slow", "release leaf"]


def test_a_broken_stream_is_told_when_what_came_before_was_handled() -> None:
    ticks = itertools.count()
    conn = ServerConn(World().attach, clock=lambda: next(ticks))
    hello = [m.Tversion(c.NOTAG, 8192, "9P2000"), m.Tattach(0, 0, c.NOFID, "glenda", "")]
    stats = [m.Tstat(tag, 0) for tag in range(1, 6)]
    conn.feed(b"".join(msg.pack() for msg in (*hello, *stats)) + b"\3\0\0\0garbage")
    for _ in range(6):
        conn.resume(0)
    assert len(conn.data_to_send()) == 6
    with pytest.raises(ProtocolError):
        conn.resume(0)
    assert len(conn.data_to_send()) == 1
