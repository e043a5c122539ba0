"""ServerConn, told as transcripts: version, attach, stat, duplicate tags and limits.
Walk, open and clunk, read and flush have their own files.  The tree is
`transcript.World`.
"""

from __future__ import annotations

import pytest

from llambo9p.fs.tree import Directory, Tree
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.dialects import P9_2000
from llambo9p.p9.framing import ProtocolError
from llambo9p.p9.server import Limits, ServerConn

from .transcript import HELLO, play, playing

# -- version -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("9P2000.u", "9P2000.u"),
        ("9P2000.L", "9P2000.L"),
        ("9P2000.l", "9P2000"),
        ("9P2000.e", "9P2000"),
        ("9P2000.", "9P2000"),
        ("9P2000.L.Google.7", "9P2000.L"),
        ("9P2000.L.Z", "9P2000.L"),
        ("9P2000.u.x", "9P2000.u"),
        ("9P2000.x.L", "9P2000"),
        ("9P2000.L.", "9P2000.L"),
    ],
)
def test_version_is_answered_with_the_nearest_that_we_speak(asked: str, answered: str) -> None:
    play(f"""
        -> Tversion tag NOTAG msize 8192 version "{asked}"
        <- Rversion tag NOTAG msize 8192 version "{answered}"
    """)


def test_unknown_version_is_answered_unknown_and_nothing_can_be_attached() -> None:
    with playing() as player:
        player.play("""
            -> Tversion tag NOTAG msize 8192 version "9P1848"
            <- Rversion tag NOTAG msize 8192 version "unknown"
            -> Tattach tag 1 fid 0 afid NOFID uname "glenda" aname ""
            <- Rerror tag 1 ename "Tversion must come before Tattach"
        """)
        player.play(HELLO)


@pytest.mark.parametrize("msize", [0, 10, 255])
def test_19_msize_too_small_for_any_reply_is_refused(msize: int) -> None:
    with playing() as player:
        player.play(f"""
            -> Tversion tag NOTAG msize {msize} version "9P2000"
            <- Rerror tag NOTAG ename "msize {msize} is below 256"
            -> Tattach tag 1 fid 0 afid NOFID uname "glenda" aname ""
            <- Rerror tag 1 ename "Tversion must come before Tattach"
        """)


def test_19_msize_of_4_GB_is_lowered_to_ours() -> None:
    play("""
        -> Tversion tag NOTAG msize 4294967295 version "9P2000"
        <- Rversion tag NOTAG msize 131072 version "9P2000"
        -> Tattach tag 0 fid 0 afid NOFID uname "glenda" aname ""
        <- Rattach tag 0 qid (d 0 1)
        -> Twalk tag 1 fid 0 newfid 1 wname ["hello"]
        -> Topen tag 2 fid 1 mode 0
        <- Rwalk tag 1 wqid [(- 0 2)]
        <- Ropen tag 2 qid (- 0 2) iounit 131048
    """)


def test_version_drops_every_fid_and_every_request() -> None:
    play("""
        ! open 1 note 0
        ! open 2 gate 0
        ! open 3 out 0
        -> Twalk tag 1 fid 0 newfid 4 wname ["gate"]
        <- Rwalk tag 1 wqid [(- 0 10)]
        -> Tread tag 2 fid 2 offset 0 count 5
        -> Tread tag 3 fid 3 offset 0 count 5
        ** walk gate
        ** read gate 0 5
        -> Tversion tag NOTAG msize 512 version "9P2000"
        <- Rversion tag NOTAG msize 512 version "9P2000"
        ** drop note
        ** release note
        ** drop gate
        ** release gate
        ** release gate
        ** cancelled read gate
        ! feed out "too late"
        ! silent
        -> Tstat tag 2 fid 0
        <- Rerror tag 2 ename "fid unknown or out of range"
        -> Tattach tag 3 fid 1 afid NOFID uname "glenda" aname ""
        <- Rattach tag 3 qid (d 0 1)
    """)


def test_version_is_heard_even_on_a_tag_that_is_in_use() -> None:
    play("""
        ! open 1 out 0
        -> Tread tag NOTAG fid 1 offset 0 count 5
        -> Tversion tag NOTAG msize 8192 version "9P2000"
        <- Rversion tag NOTAG msize 8192 version "9P2000"
    """)


def test_12_fids_belong_to_one_connection() -> None:
    with playing() as one, playing() as other:
        other.play("""
            -> Tversion tag NOTAG msize 8192 version "9P2000"
            <- Rversion tag NOTAG msize 8192 version "9P2000"
        """)
        one.play(HELLO)
        other.play("""
            -> Tstat tag 1 fid 0
            <- Rerror tag 1 ename "fid unknown or out of range"
            -> Tattach tag 1 fid 0 afid NOFID uname "glenda" aname "hello"
            <- Rattach tag 1 qid (- 0 2)
        """)
        one.play("""
            -> Twalk tag 1 fid 0 newfid 1 wname ["dir"]
            <- Rwalk tag 1 wqid [(d 0 6)]
        """)


# -- auth and attach -------------------------------------------------------------


def test_auth_is_not_required() -> None:
    play("""
        -> Tauth tag 1 afid 7 uname "glenda" aname ""
        <- Rerror tag 1 ename "authentication not required"
        -> Tattach tag 2 fid 8 afid 7 uname "glenda" aname ""
        <- Rerror tag 2 ename "authentication not required: afid must be NOFID"
    """)


def test_attach_to_a_sub_tree_a_taken_fid_and_nowhere() -> None:
    play("""
        -> Tattach tag 1 fid 1 afid NOFID uname "glenda" aname "dir/sub"
        <- Rattach tag 1 qid (d 0 8)
        -> Tattach tag 2 fid 1 afid NOFID uname "glenda" aname ""
        <- Rerror tag 2 ename "fid 1 is in use"
        -> Tattach tag 3 fid 2 afid NOFID uname "glenda" aname "nowhere"
        <- Rerror tag 3 ename "file does not exist"
        -> Tattach tag 4 fid NOFID afid NOFID uname "glenda" aname ""
        <- Rerror tag 4 ename "fid unknown or out of range"
        -> Tattach tag 5 fid 2 afid NOFID uname "glenda" aname ""
        <- Rattach tag 5 qid (d 0 1)
    """)


def test_attach_that_waits_holds_back_what_is_sent_for_its_fid() -> None:
    play("""
        -> Tattach tag 1 fid 1 afid NOFID uname "glenda" aname "slow"
        -> Tstat tag 2 fid 1
        -> Tclunk tag 3 fid 1
        ! silent
        ! let attach slow
        <- Rattach tag 1 qid (d 0 14)
        <- Rstat tag 2 stat {name "slow" qid (d 0 14) mode 0o20000000777 uid "glenda" gid "glenda" muid "glenda"}
        <- Rclunk tag 3
        ** release slow
    """)  # noqa: E501


def test_attach_that_fails_late_leaves_no_fid() -> None:
    play("""
        -> Tattach tag 1 fid 1 afid NOFID uname "glenda" aname "slow"
        -> Tstat tag 2 fid 1
        ! refuse attach slow "no such user"
        <- Rerror tag 1 ename "no such user"
        <- Rerror tag 2 ename "fid unknown or out of range"
    """)


# -- stat and wstat ----------------------------------------------------------------


def test_stat_of_a_synthetic_file_has_length_0_and_version_0() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["hello"]
        -> Tstat tag 2 fid 1
        <- Rwalk tag 1 wqid [(- 0 2)]
        <- Rstat tag 2 stat {name "hello" qid (- 0 2) mode 0o444 uid "glenda" gid "glenda" muid "glenda"}
    """)  # noqa: E501


SYNC = "type 65535 dev 4294967295 atime 4294967295 mtime 4294967295"
SAME = f'name "" qid (damlA1t2 4294967295 18446744073709551615) mode 0o37777777777 {SYNC}'


def test_wstat_that_touches_nothing_is_a_sync() -> None:
    play(f"""
        -> Twalk tag 1 fid 0 newfid 1 wname ["hello"]
        -> Twstat tag 2 fid 1 stat {{{SAME} length 18446744073709551615}}
        -> Twstat tag 3 fid 0 stat {{{SAME} length 18446744073709551615}}
        <- Rwalk tag 1 wqid [(- 0 2)]
        <- Rwstat tag 2
        <- Rwstat tag 3
    """)


def test_wstat_of_length_0_is_what_a_shells_redirection_sends() -> None:
    play(f"""
        -> Twalk tag 1 fid 0 newfid 1 wname ["ctl"]
        -> Twstat tag 2 fid 1 stat {{{SAME} length 0}}
        -> Twstat tag 3 fid 1 stat {{{SAME} length 0 mtime 12345}}
        -> Twstat tag 4 fid 1 stat {{{SAME} length 5}}
        -> Twstat tag 5 fid 0 stat {{{SAME} length 0}}
        <- Rwalk tag 1 wqid [(- 0 4)]
        <- Rwstat tag 2
        <- Rwstat tag 3
        <- Rerror tag 4 ename "the length of a synthetic file cannot be set"
        <- Rerror tag 5 ename "Is a directory"
    """)


def test_wstat_cannot_rename_or_change_modes() -> None:
    play(f"""
        -> Twalk tag 1 fid 0 newfid 1 wname ["ctl"]
        -> Twstat tag 2 fid 1 stat {{{SAME} length 18446744073709551615 name "new"}}
        -> Twstat tag 3 fid 1 stat {{{SAME} length 18446744073709551615 mode 0o777}}
        -> Twstat tag 4 fid 1 stat {{{SAME} length 18446744073709551615 uid "root"}}
        <- Rwalk tag 1 wqid [(- 0 4)]
        <- Rerror tag 2 ename "permission denied"
        <- Rerror tag 3 ename "permission denied"
        <- Rerror tag 4 ename "permission denied"
    """)


def test_stat_and_wstat_may_wait_without_holding_back_anything() -> None:
    play(f"""
        ! open 1 gate 2
        -> Tstat tag 1 fid 1
        -> Twstat tag 2 fid 1 stat {{{SAME} length 0}}
        -> Twrite tag 3 fid 1 offset 5 data "later"
        -> Tread tag 4 fid 1 offset 0 count 9
        ! silent
        ! let read gate
        <- Rread tag 4 data "something"
        ! let write gate
        <- Rwrite tag 3 count 5
        ! let wstat gate
        <- Rwstat tag 2
        ! refuse stat gate "lost"
        <- Rerror tag 1 ename "lost"
    """)


# -- the rest --------------------------------------------------------------------------


def test_27_a_tag_in_use_is_refused_and_its_request_left_alone() -> None:
    play("""
        ! open 1 out 0
        -> Tread tag 7 fid 1 offset 0 count 9
        -> Tclunk tag 7 fid 1
        <- Rerror tag 7 ename "duplicate tag"
        ! feed out "there"
        <- Rread tag 7 data "there"
        -> Tclunk tag 7 fid 1
        <- Rclunk tag 7
    """)


def test_r_messages_are_not_for_a_server() -> None:
    play("""
        -> Rclunk tag 1
        -> Rread tag 2 data "abc"
        -> Rversion tag 3 msize 8192 version "9P2000"
        -> Rerror tag 4 ename "no"
        <- Rerror tag 1 ename "a server does not take Rclunk"
        <- Rerror tag 2 ename "a server does not take Rread"
        <- Rerror tag 3 ename "a server does not take Rversion"
        <- Rerror tag 4 ename "a server does not take Rerror"
    """)


def test_no_more_fids_than_the_limit() -> None:
    play(
        """
        -> Twalk tag 1 fid 0 newfid 1 wname ["hello"]
        -> Twalk tag 2 fid 0 newfid 2 wname ["hello"]
        -> Tattach tag 3 fid 3 afid NOFID uname "glenda" aname ""
        -> Tclunk tag 4 fid 1
        -> Twalk tag 5 fid 0 newfid 2 wname ["hello"]
        <- Rwalk tag 1 wqid [(- 0 2)]
        <- Rerror tag 2 ename "more than 2 fids on one connection"
        <- Rerror tag 3 ename "more than 2 fids on one connection"
        <- Rclunk tag 4
        <- Rwalk tag 5 wqid [(- 0 2)]
        """,
        limits=Limits(fids=2),
    )


def test_no_more_requests_than_the_limit_but_room_can_always_be_made() -> None:
    play(
        """
        ! open 1 out 0
        -> Twalk tag 1 fid 0 newfid 2 wname ["vault"]
        -> Topen tag 2 fid 2 mode 0
        ! idle
        ! let open vault
        <- Rwalk tag 1 wqid [(- 0 13)]
        <- Ropen tag 2 qid (- 0 13) iounit 8168
        -> Tread tag 1 fid 1 offset 0 count 9
        -> Tread tag 2 fid 1 offset 0 count 9
        -> Tread tag 3 fid 1 offset 0 count 9
        -> Twrite tag 4 fid 2 offset 0 data "x"
        -> Tclunk tag 5 fid 2
        -> Tflush tag 6 oldtag 1
        <- Rerror tag 3 ename "more than 2 requests on one connection"
        <- Rerror tag 4 ename "more than 2 requests on one connection"
        <- Rflush tag 6
        ! let clunk vault
        <- Rclunk tag 5
        -> Tread tag 1 fid 1 offset 0 count 9
        ! idle
        ! feed out "go"
        <- Rread tag 2 data "go"
        <- Rread tag 1 data "go"
        """,
        limits=Limits(requests=2),
    )


def test_a_request_that_was_taken_is_not_refused_when_its_turn_comes() -> None:
    def opened(fid: int) -> str:
        return f"""
            -> Twalk tag 1 fid 0 newfid {fid} wname ["vault"]
            -> Topen tag 2 fid {fid} mode 0
            ! idle
            ! let open vault
            <- Rwalk tag 1 wqid [(- 0 13)]
            <- Ropen tag 2 qid (- 0 13) iounit 8168
        """

    play(
        opened(1)
        + opened(2)
        + """
        -> Twalk tag 1 fid 0 newfid 3 wname ["vault"]
        -> Topen tag 2 fid 3 mode 0
        -> Tread tag 3 fid 3 offset 0 count 9
        -> Tclunk tag 4 fid 1
        -> Tclunk tag 5 fid 2
        ! let open vault
        <- Rwalk tag 1 wqid [(- 0 13)]
        <- Ropen tag 2 qid (- 0 13) iounit 8168
        <- Rread tag 3 data "something"
        ! let clunk vault
        <- Rclunk tag 4
        ! let clunk vault
        <- Rclunk tag 5
        """,
        limits=Limits(requests=2),
    )


def test_20_what_came_before_a_bad_size_in_one_segment_is_answered() -> None:
    conn = ServerConn(lambda uname, aname: Directory(Tree("glenda"), "/"))
    hello = [m.Tversion(c.NOTAG, 8192, "9P2000"), m.Tattach(1, 0, c.NOFID, "", "")]
    with pytest.raises(ProtocolError, match="frame of 3 bytes"):
        conn.receive(b"".join(msg.pack() for msg in hello) + b"\3\0\0\0garbage")
    replies = [P9_2000.unpack(frame) for frame in conn.data_to_send()]
    assert [type(reply) for reply in replies] == [m.Rversion, m.Rattach]
    conn.lost()
