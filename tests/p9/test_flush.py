"""Bug 10: Tflush.  It is answered when the flushed request is over; after Rflush the
old tag is never answered; what completed in spite of it is answered before it.
"""

from __future__ import annotations

import pytest

from llambo9p.p9 import messages as m

from .transcript import HELLO, play, playing


def test_flush_of_a_tag_that_is_not_in_use() -> None:
    play("""
        -> Tflush tag 1 oldtag 7
        -> Tflush tag 2 oldtag 2
        -> Tflush tag 3 oldtag NOTAG
        <- Rflush tag 1
        <- Rflush tag 2
        <- Rflush tag 3
    """)


def test_flush_after_the_reply_leaves_the_reply() -> None:
    play("""
        ! open 1 hello 0
        -> Tread tag 1 fid 1 offset 0 count 5
        -> Tflush tag 2 oldtag 1
        <- Rread tag 1 data "hello"
        <- Rflush tag 2
    """)


def test_10_flush_of_a_parked_read_is_answered_and_the_read_is_not() -> None:
    play("""
        ! open 1 out 0
        -> Tread tag 1 fid 1 offset 0 count 9
        ! idle
        -> Tflush tag 2 oldtag 1
        <- Rflush tag 2
        ! feed out "stale"
        ! silent
        -> Tread tag 1 fid 1 offset 0 count 9
        <- Rread tag 1 data "stale"
    """)


@pytest.mark.parametrize("name", ["gate", "bare"])
def test_10_flush_in_the_segment_of_the_read(name: str) -> None:
    play(f"""
        ! open 1 {name} 0
        -> Tread tag 1 fid 1 offset 0 count 9
        -> Tflush tag 2 oldtag 1
        -> Tread tag 1 fid 1 offset 1 count 9
        <- Rflush tag 2
        ! let read {name}
        <- Rread tag 1 data "something"
    """)


def test_several_flushes_of_one_tag_are_all_answered_in_order() -> None:
    play("""
        ! open 1 gate 0
        -> Tread tag 1 fid 1 offset 0 count 9
        ! idle
        -> Tflush tag 2 oldtag 1
        -> Tflush tag 3 oldtag 1
        -> Tflush tag 4 oldtag 1
        <- Rflush tag 2
        <- Rflush tag 3
        <- Rflush tag 4
        ** read gate 0 9
        ** cancelled read gate
    """)


def test_a_flush_of_a_flush_is_answered_after_it() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["deaf"]
        -> Topen tag 2 fid 1 mode 0
        ! idle
        -> Tflush tag 3 oldtag 2
        -> Tflush tag 4 oldtag 3
        -> Tflush tag 5 oldtag 4
        <- Rwalk tag 1 wqid [(- 0 12)]
        ! let open deaf
        <- Ropen tag 2 qid (- 0 12) iounit 8168
        <- Rflush tag 3
        <- Rflush tag 4
        <- Rflush tag 5
    """)


def test_a_long_chain_of_flushes_is_answered_whole() -> None:
    with playing() as player:
        player.play(HELLO + """
            ! open 1 out 0
            -> Tread tag 0 fid 1 offset 0 count 9
            ! idle
        """)
        chain = range(1, 3000)
        player.send(b"".join(m.Tflush(tag, tag - 1).pack() for tag in chain))
        assert player.replies() == [f"Rflush tag {tag}" for tag in chain]


def test_a_reply_that_came_in_spite_of_the_flush_goes_out_before_it_and_stands() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["deaf"]
        -> Topen tag 2 fid 1 mode 0
        ! idle
        -> Tflush tag 3 oldtag 2
        <- Rwalk tag 1 wqid [(- 0 12)]
        ! let open deaf
        <- Ropen tag 2 qid (- 0 12) iounit 8168
        <- Rflush tag 3
        -> Tread tag 2 fid 1 offset 0 count 9
        ! idle
        -> Tflush tag 3 oldtag 2
        ! silent
        ! let read deaf
        <- Rread tag 2 data "something"
        <- Rflush tag 3
    """)


def test_a_flushed_request_that_fails_in_its_own_way_is_not_answered() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["deaf"]
        -> Topen tag 2 fid 1 mode 0
        ! idle
        -> Tflush tag 3 oldtag 2
        ! refuse open deaf "no"
        <- Rwalk tag 1 wqid [(- 0 12)]
        <- Rflush tag 3
    """)


def test_a_flushed_walk_leaves_no_newfid() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["slow"]
        <- Rwalk tag 1 wqid [(d 0 14)]
        -> Twalk tag 2 fid 1 newfid 2 wname ["leaf"]
        -> Tflush tag 3 oldtag 2
        <- Rflush tag 3
        -> Twalk tag 2 fid 1 newfid 2 wname ["leaf"]
        ! idle
        -> Tflush tag 3 oldtag 2
        <- Rflush tag 3
        -> Tstat tag 4 fid 2
        <- Rerror tag 4 ename "fid unknown or out of range"
    """)


def test_a_flushed_open_leaves_the_fid_walked() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["vault"]
        -> Topen tag 2 fid 1 mode 0
        ! idle
        -> Tflush tag 3 oldtag 2
        <- Rwalk tag 1 wqid [(- 0 13)]
        <- Rflush tag 3
        -> Topen tag 2 fid 1 mode 0
        ! idle
        ! let open vault
        <- Ropen tag 2 qid (- 0 13) iounit 8168
    """)


def test_flush_of_a_request_that_waits_for_a_busy_fid() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["vault"]
        -> Topen tag 2 fid 1 mode 0
        -> Tread tag 3 fid 1 offset 0 count 9
        -> Tclunk tag 4 fid 1
        -> Tflush tag 5 oldtag 4
        -> Tflush tag 6 oldtag 3
        <- Rwalk tag 1 wqid [(- 0 13)]
        <- Rflush tag 5
        <- Rflush tag 6
        ! let open vault
        <- Ropen tag 2 qid (- 0 13) iounit 8168
        -> Tread tag 3 fid 1 offset 0 count 9
        <- Rread tag 3 data "something"
    """)


def test_flush_of_what_a_fid_waits_for_lets_the_rest_go_on() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["vault"]
        -> Topen tag 2 fid 1 mode 0
        -> Topen tag 3 fid 1 mode 1
        -> Twrite tag 5 fid 1 offset 0 data "x"
        -> Tflush tag 4 oldtag 2
        <- Rwalk tag 1 wqid [(- 0 13)]
        <- Rflush tag 4
        ! let open vault
        <- Ropen tag 3 qid (- 0 13) iounit 8168
        <- Rwrite tag 5 count 1
    """)


@pytest.mark.parametrize(
    ("how", "reply"),
    [
        ("let clunk vault", "Rclunk tag 3"),
        ("refuse clunk vault refused", 'Rerror tag 3 ename "refused"'),
    ],
    ids=["well", "badly"],
)
def test_a_flushed_clunk_is_answered_however_it_ends_as_its_fid_is_free(
    how: str, reply: str
) -> None:
    play(f"""
        -> Twalk tag 1 fid 0 newfid 1 wname ["vault"]
        -> Topen tag 2 fid 1 mode 0
        ! idle
        ! let open vault
        <- Rwalk tag 1 wqid [(- 0 13)]
        <- Ropen tag 2 qid (- 0 13) iounit 8168
        -> Tclunk tag 3 fid 1
        -> Tflush tag 4 oldtag 3
        ! silent
        ! {how}
        <- {reply}
        <- Rflush tag 4
    """)


def test_flush_and_then_clunk_as_linux_does_at_an_interrupt() -> None:
    play("""
        ! open 1 out 0
        -> Tread tag 1 fid 1 offset 0 count 9
        ! idle
        -> Tflush tag 2 oldtag 1
        -> Tclunk tag 3 fid 1
        <- Rflush tag 2
        <- Rclunk tag 3
    """)


CLUNK = """
    -> Tclunk tag 4 fid 1
    <- Rflush tag 3
    <- Rclunk tag 4
    ** clunk deaf
    ** release deaf
"""
LOST = """
    ! lost
    ** drop deaf
    ** release deaf
"""


@pytest.mark.parametrize("end", [CLUNK, LOST], ids=["clunk", "lost"])
def test_what_was_flushed_and_cleans_up_is_not_cancelled_again(end: str) -> None:
    """Its fid is free, or the connection gone, at once, and it has its time."""
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["deaf"]
        -> Topen tag 2 fid 1 mode 0
        ! idle
        ! let open deaf
        <- Rwalk tag 1 wqid [(- 0 12)]
        <- Ropen tag 2 qid (- 0 12) iounit 8168
        -> Tread tag 2 fid 1 offset 0 count 9
        ! idle
        -> Tflush tag 3 oldtag 2
        ! silent
        ** walk deaf
        ** open deaf
        ** read deaf 0 9
        ** cancelled read deaf
    """ + end + """
        ! let read deaf
        ! silent
    """)
