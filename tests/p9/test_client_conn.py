"""ClientConn: a tag belongs to its request until its reply, or until the Rflush of
the Tflush for it; and a server that breaks the protocol is found out.
"""

from __future__ import annotations

import pytest

from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.client import ClientConn
from llambo9p.p9.dialects import P9_2000, Rerror_u, Tattach_u
from llambo9p.p9.framing import ProtocolError


def sent(conn: ClientConn) -> list[m.Message]:
    return [P9_2000.unpack(frame) for frame in conn.data_to_send()]


def test_tags_are_used_again_after_their_replies() -> None:
    conn = ClientConn()
    one, two = conn.send(m.Tclunk(0, 1), "mine"), conn.send(m.Tclunk(0, 2), "yours")
    assert one != two
    assert sent(conn) == [m.Tclunk(one, 1), m.Tclunk(two, 2)]
    assert conn.receive(m.Rclunk(one).pack()) == [("mine", m.Rclunk(one))]
    assert conn.send(m.Tclunk(0, 3)) == one


def test_version_goes_without_a_tag_and_its_msize_holds() -> None:
    conn = ClientConn(8192)
    tag = conn.send(m.Tversion(0, 8192, "9P2000"))
    assert tag == 0xFFFF
    conn.receive(m.Rversion(tag, 300, "9P2000").pack())
    assert conn.msize == 300
    read = conn.send(m.Tread(0, 1, 0, 500))
    with pytest.raises(ProtocolError, match="7 to 300"):
        conn.receive(m.Rread(read, bytes(500)).pack())


def test_10_a_flushed_tag_is_free_after_rflush_and_not_before() -> None:
    conn = ClientConn()
    read = conn.send(m.Tread(0, 1, 0, 9))
    conn.flush(read)
    _, flush = sent(conn)
    assert flush == m.Tflush(flush.tag, read)
    others = {conn.send(m.Tclunk(0, fid)) for fid in range(10)}
    assert not others & {read, flush.tag}
    assert conn.receive(m.Rflush(flush.tag).pack()) == []
    assert {conn.send(m.Tclunk(0, 1)), conn.send(m.Tclunk(0, 2))} == {read, flush.tag}


def test_10_a_reply_before_the_rflush_is_delivered_and_its_tag_still_not_free() -> None:
    conn = ClientConn()
    read = conn.send(m.Tread(0, 1, 0, 9), "mine")
    conn.flush(read, "mine")
    flush = sent(conn)[1].tag
    assert conn.receive(m.Rread(read, b"x").pack()) == [("mine", m.Rread(read, b"x"))]
    assert conn.send(m.Tclunk(0, 1)) not in (read, flush)
    assert conn.receive(m.Rflush(flush).pack()) == []
    assert {conn.send(m.Tclunk(0, 1)), conn.send(m.Tclunk(0, 2))} == {read, flush}


def test_a_request_is_flushed_once_and_only_while_it_is_outstanding() -> None:
    conn = ClientConn()
    read = conn.send(m.Tread(0, 1, 0, 9))
    conn.flush(read)
    conn.flush(read)
    conn.flush(4242)
    assert [type(msg) for msg in sent(conn)] == [m.Tread, m.Tflush]


def test_only_whose_request_it_is_can_flush_it() -> None:
    conn = ClientConn()
    tags = conn.send(m.Tread(0, 1, 0, 9), "mine"), conn.relay(READ, FID, "mine")
    conn.data_to_send()
    for tag in tags:
        conn.flush(tag, "yours")
        assert sent(conn) == []
        conn.flush(tag, "mine")
        assert sent(conn) == [m.Tflush(tag + 2, tag)]
    assert conn.outstanding == 2


def test_a_late_flush_leaves_who_has_the_tag_now_alone() -> None:
    conn = ClientConn()
    tag = conn.send(m.Tread(0, 1, 0, 9), "late")
    conn.receive(m.Rread(tag, b"x").pack())
    assert conn.relay(READ, FID, "mine") == tag
    conn.data_to_send()
    conn.flush(tag, "late")
    assert sent(conn) == []
    frame = m.Rread(tag, b"y").pack()
    assert conn.receive(frame) == [("mine", frame)], "it is a frame still"


def test_whose_requests_are_lost_with_the_connection() -> None:
    conn = ClientConn()
    conn.relay(READ, FID, "one")
    conn.send(m.Tread(0, 1, 0, 9), "two")
    conn.receive(m.Rclunk(conn.send(m.Tclunk(0, 1), "three")).pack())
    assert sorted(conn.lost()) == ["one", "two"]
    assert conn.lost() == []


def test_what_came_right_before_the_protocol_was_broken_is_lost_too() -> None:
    """It was neither delivered nor failed, and whoever asked waited for ever."""
    conn = ClientConn()
    tags = [conn.send(m.Tread(0, 1, 0, 9), "one"), conn.relay(READ, FID, "two")]
    conn.send(m.Tread(0, 1, 0, 9), "three")
    sound = b"".join(m.Rread(tag, b"x").pack() for tag in tags)
    with pytest.raises(ProtocolError, match="not in use"):
        conn.receive(sound + m.Rclunk(99).pack())
    assert sorted(conn.lost()) == ["one", "three", "two"]


def test_many_requests_are_flushed_as_fast_as_few() -> None:
    """It took 6 seconds to flush 30,000 blocked reads, and nobody else was served."""
    conn = ClientConn()
    reads = [conn.send(m.Tread(0, 1, 0, 9)) for _ in range(32_000)]
    for read in reads:
        conn.flush(read)
    flushes = sent(conn)[len(reads):]
    replies = b"".join(m.Rread(read, b"").pack() for read in reads)
    assert len(conn.receive(replies)) == len(reads)
    assert conn.receive(b"".join(m.Rflush(flush.tag).pack() for flush in flushes)) == []
    assert conn.outstanding == 0 and not conn._expected and not conn._flushed
    assert len(conn._free) == 64_000


def test_27_all_tags_in_use() -> None:
    conn = ClientConn()
    tags = {conn.send(m.Tclunk(0, fid)) for fid in range(65_535)}
    assert len(tags) == 65_535 and 0xFFFF not in tags
    with pytest.raises(ProtocolError, match="all tags"):
        conn.send(m.Tclunk(0, 1))


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (m.Rclunk(99), "Rclunk for tag 99, which is not in use"),
        (m.Rclunk(0), "Rclunk where Rread was expected"),
        (m.Tclunk(0, 1), "Tclunk where Rread was expected"),
    ],
)
def test_a_server_that_breaks_the_protocol_is_found_out(reply: m.Message, why: str) -> None:
    conn = ClientConn()
    assert conn.send(m.Tread(0, 1, 0, 9)) == 0
    with pytest.raises(ProtocolError, match=why):
        conn.receive(reply.pack())


def test_a_malformed_reply_ends_the_connection() -> None:
    conn = ClientConn()
    conn.send(m.Tread(0, 1, 0, 9))
    with pytest.raises(ProtocolError, match="bad Rread"):
        conn.receive(b"\x08\0\0\0\x75\0\0\0")


def test_what_is_sent_has_the_form_of_the_dialect_that_was_agreed_on() -> None:
    conn = ClientConn()
    conn.send(m.Tversion(0, 8192, "9P2000.u"))
    conn.data_to_send()
    conn.receive(m.Rversion(c.NOTAG, 8192, "9P2000.u").pack())
    tag = conn.send(m.Tattach(0, 1, c.NOFID, "me", ""))
    assert conn.data_to_send() == [Tattach_u(tag, 1, c.NOFID, "me", "", c.NONUNAME).pack()]
    [(_, reply)] = conn.receive(Rerror_u(tag, "no", 13).pack())
    assert reply == Rerror_u(tag, "no", 13)


def test_a_server_that_answers_plain_9p2000_gets_plain_9p2000() -> None:
    conn = ClientConn()
    conn.send(m.Tversion(0, 8192, "9P2000.u"))
    conn.data_to_send()
    conn.receive(m.Rversion(c.NOTAG, 8192, "9P2000").pack())
    tag = conn.send(m.Tattach(0, 1, c.NOFID, "me", ""))
    assert conn.data_to_send() == [m.Tattach(tag, 1, c.NOFID, "me", "").pack()]


READ = m.Tread(77, 900, 5, 512).pack()
"""as somebody else's client sent it"""
FID = (3).to_bytes(4, "little")


def test_a_relayed_message_goes_under_our_tag_and_fid_and_its_reply_comes_as_a_frame() -> None:
    conn = ClientConn()
    conn.send(m.Tclunk(0, 1))
    tag = conn.relay(READ, FID, "mine")
    assert sent(conn)[-1] == m.Tread(tag, 3, 5, 512)
    frame = m.Rread(tag, b"payload").pack()
    assert conn.receive(frame) == [("mine", frame)]
    assert conn.send(m.Tclunk(0, 2)) == tag, "its tag is free again"


def test_an_error_to_a_relayed_message_is_taken_apart() -> None:
    conn = ClientConn()
    tag = conn.relay(READ, FID, "mine")
    assert conn.receive(m.Rerror(tag, "no").pack()) == [("mine", m.Rerror(tag, "no"))]
    tag = conn.relay(READ, FID, "mine")
    with pytest.raises(ProtocolError, match="Rwrite where Rread was expected"):
        conn.receive(m.Rwrite(tag, 5).pack())


def test_the_tag_of_a_relayed_message_that_was_flushed_is_an_ordinary_one_again() -> None:
    for answered in (True, False):
        conn = ClientConn()
        tag = conn.relay(READ, FID, "mine")
        conn.flush(tag, "mine")
        flush = sent(conn)[-1].tag
        if answered:
            assert len(conn.receive(m.Rread(tag, b"x").pack())) == 1
        assert conn.receive(m.Rflush(flush).pack()) == []
        assert conn.outstanding == 0
        again = {conn.send(m.Tread(0, 1, 0, 5)), conn.send(m.Tread(0, 1, 0, 5))}
        assert tag in again
        assert conn.receive(m.Rread(tag, b"y").pack()) == [(None, m.Rread(tag, b"y"))]
