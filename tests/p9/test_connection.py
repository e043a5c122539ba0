"""ServerConn, told as transcripts: version, attach, walk, open, stat and clunk.
Reads, flush and limits have their own files.  The tree is `transcript.World`.
"""

from __future__ import annotations

import pytest

from llambo9p.p9.server import Limits

from .transcript import HELLO, play, playing

# -- version -------------------------------------------------------------------


def test_version_of_a_dialect_is_answered_with_what_we_speak() -> None:
    play("""
        -> Tversion tag NOTAG msize 8192 version "9P2000.u"
        <- Rversion tag NOTAG msize 8192 version "9P2000"
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
        one.play(HELLO)
        other.play("""
            -> Tversion tag NOTAG msize 8192 version "9P2000"
            <- Rversion tag NOTAG msize 8192 version "9P2000"
            -> Tstat tag 1 fid 0
            <- Rerror tag 1 ename "fid unknown or out of range"
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


# -- walk ----------------------------------------------------------------------


def test_walk_of_no_names_clones() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname []
        <- Rwalk tag 1 wqid []
        -> Twalk tag 2 fid 1 newfid 2 wname ["hello"]
        <- Rwalk tag 2 wqid [(- 0 2)]
    """)


def test_walk_of_sixteen_names_and_of_seventeen() -> None:
    there_and_back = '"dir" ".." ' * 8
    qids = "(d 0 6) (d 0 1) " * 8
    with playing() as player:
        player.play(HELLO)
        player.play(f"""
            -> Twalk tag 1 fid 0 newfid 1 wname [{there_and_back}]
            <- Rwalk tag 1 wqid [{qids}]
        """)
        body = bytes(4) + b"\x02\0\0\0" + b"\x11\0" + b"\x01\0x" * 17
        player.send((7 + len(body)).to_bytes(4, "little") + b"\x6e\x02\0" + body)
        player.play("""
            <- Rerror tag 2 ename "bad Twalk: 17 names in a walk, the limit is 16"
            -> Tstat tag 3 fid 2
            <- Rerror tag 3 ename "fid unknown or out of range"
        """)


def test_walk_whose_first_name_is_missing_is_an_error() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["nope" "hello"]
        <- Rerror tag 1 ename "file does not exist"
        -> Twalk tag 2 fid 0 newfid 1 wname ["hello" ".."]
        <- Rwalk tag 2 wqid [(- 0 2)]
    """)


def test_13_partial_walk_leaves_newfid_unused() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["dir" "sub" "nope" "leaf"]
        <- Rwalk tag 1 wqid [(d 0 6) (d 0 8)]
        -> Tstat tag 2 fid 1
        <- Rerror tag 2 ename "fid unknown or out of range"
        -> Twalk tag 3 fid 0 newfid 1 wname ["dir" "sub" "leaf"]
        <- Rwalk tag 3 wqid [(d 0 6) (d 0 8) (- 0 9)]
    """)


def test_13_partial_walk_in_place_leaves_the_fid_where_it_was() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["dir"]
        <- Rwalk tag 1 wqid [(d 0 6)]
        -> Twalk tag 2 fid 1 newfid 1 wname ["sub" "nope"]
        <- Rwalk tag 2 wqid [(d 0 8)]
        -> Twalk tag 3 fid 1 newfid 1 wname ["a"]
        <- Rwalk tag 3 wqid [(- 0 7)]
    """)


def test_13_a_walk_that_waits_may_also_be_partial() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["slow"]
        <- Rwalk tag 1 wqid [(d 0 14)]
        -> Twalk tag 2 fid 1 newfid 2 wname ["leaf" "nope"]
        ! let walk slow
        <- Rwalk tag 2 wqid [(- 0 15)]
        -> Twalk tag 3 fid 1 newfid 2 wname ["nope"]
        ! let walk slow
        <- Rerror tag 3 ename "file does not exist"
        -> Twalk tag 4 fid 1 newfid 2 wname ["leaf"]
        ! let walk slow
        <- Rwalk tag 4 wqid [(- 0 15)]
    """)


def test_dotdot_stops_at_the_root() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname [".." ".." "dir" "sub" ".." ".." ".." "hello"]
        <- Rwalk tag 1 wqid [(d 0 1) (d 0 1) (d 0 6) (d 0 8) (d 0 6) (d 0 1) (d 0 1) (- 0 2)]
    """)


def test_29_dotdot_cannot_leave_the_tree_of_the_attach() -> None:
    play("""
        -> Tattach tag 1 fid 1 afid NOFID uname "glenda" aname "dir"
        <- Rattach tag 1 qid (d 0 6)
        -> Twalk tag 2 fid 1 newfid 2 wname [".." "hello"]
        <- Rwalk tag 2 wqid [(d 0 6)]
        -> Twalk tag 3 fid 1 newfid 2 wname [".."]
        <- Rwalk tag 3 wqid [(d 0 6)]
        -> Twalk tag 4 fid 2 newfid 3 wname ["sub" ".." ".." "hello"]
        <- Rwalk tag 4 wqid [(d 0 8) (d 0 6) (d 0 6)]
        -> Twalk tag 5 fid 1 newfid 3 wname ["sub"]
        <- Rwalk tag 5 wqid [(d 0 8)]
        -> Twalk tag 6 fid 3 newfid 4 wname [".." ".." "a"]
        <- Rwalk tag 6 wqid [(d 0 6) (d 0 6) (- 0 7)]
    """)


def test_29_paths_are_not_names() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["../../etc"]
        <- Rerror tag 1 ename "file does not exist"
        -> Twalk tag 2 fid 0 newfid 1 wname [""]
        <- Rerror tag 2 ename "file does not exist"
        -> Twalk tag 3 fid 0 newfid 1 wname ["."]
        <- Rerror tag 3 ename "file does not exist"
        -> Twalk tag 4 fid 0 newfid 1 wname ["dir/a"]
        <- Rerror tag 4 ename "file does not exist"
    """)


def test_walk_in_place_moves_the_fid_and_leaves_each_file_once() -> None:
    play("""
        -> Tattach tag 1 fid 1 afid NOFID uname "glenda" aname "note"
        -> Twalk tag 2 fid 1 newfid 1 wname []
        -> Tclunk tag 3 fid 1
        <- Rattach tag 1 qid (- 0 5)
        <- Rwalk tag 2 wqid []
        <- Rclunk tag 3
        ** walk note
        ** walk note
        ** release note
        ** release note
    """)


def test_walk_to_a_taken_newfid_or_from_an_open_fid_in_place() -> None:
    play("""
        ! open 1 dir 0
        -> Twalk tag 1 fid 0 newfid 1 wname ["dir"]
        <- Rerror tag 1 ename "fid 1 is in use"
        -> Twalk tag 2 fid 1 newfid 1 wname ["a"]
        <- Rerror tag 2 ename "an open fid cannot be walked in place"
        -> Twalk tag 3 fid 0 newfid NOFID wname ["dir"]
        <- Rerror tag 3 ename "fid unknown or out of range"
    """)


def test_an_open_fid_can_be_cloned_as_linux_does() -> None:
    play("""
        ! open 1 note 0
        -> Twalk tag 1 fid 1 newfid 2 wname []
        -> Tread tag 2 fid 2 offset 0 count 9
        -> Topen tag 3 fid 2 mode 0
        <- Rwalk tag 1 wqid []
        <- Rerror tag 2 ename "fid is not open for reading"
        <- Ropen tag 3 qid (- 0 5) iounit 8168
    """)


def test_15_a_file_has_the_same_qid_at_each_walk() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["dir" "a"]
        -> Twalk tag 2 fid 0 newfid 2 wname ["dir" ".." "dir" "a"]
        <- Rwalk tag 1 wqid [(d 0 6) (- 0 7)]
        <- Rwalk tag 2 wqid [(d 0 6) (d 0 1) (d 0 6) (- 0 7)]
    """)


# -- open ----------------------------------------------------------------------


def test_a_directory_is_opened_for_reading_only() -> None:
    play("""
        -> Topen tag 1 fid 0 mode 1
        -> Topen tag 2 fid 0 mode 2
        -> Topen tag 3 fid 0 mode 0o20
        -> Topen tag 4 fid 0 mode 0
        <- Rerror tag 1 ename "Is a directory"
        <- Rerror tag 2 ename "Is a directory"
        <- Rerror tag 3 ename "Is a directory"
        <- Ropen tag 4 qid (d 0 1) iounit 8168
    """)


def test_open_checks_permission_once_and_the_mode() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["hello"]
        <- Rwalk tag 1 wqid [(- 0 2)]
        -> Topen tag 2 fid 1 mode 1
        -> Topen tag 3 fid 1 mode 2
        -> Topen tag 4 fid 1 mode 0o20
        -> Topen tag 5 fid 1 mode 3
        -> Topen tag 6 fid 1 mode 0o100
        -> Topen tag 7 fid 1 mode 0o10
        -> Topen tag 8 fid 1 mode 0
        -> Topen tag 9 fid 1 mode 0
        <- Rerror tag 2 ename "permission denied"
        <- Rerror tag 3 ename "permission denied"
        <- Rerror tag 4 ename "permission denied"
        <- Rerror tag 5 ename "permission denied"
        <- Rerror tag 6 ename "permission denied"
        <- Rerror tag 7 ename "open mode 0x8 is not known"
        <- Ropen tag 8 qid (- 0 2) iounit 8168
        <- Rerror tag 9 ename "fid is open already"
    """)


def test_truncate_and_append_are_accepted_as_linux_and_inferno_send_them() -> None:
    play("""
        ! open 1 ctl 0o21
        ! open 2 ctl 0o201
        -> Twrite tag 1 fid 1 offset 0 data "set a\\n"
        -> Twrite tag 2 fid 2 offset 77 data "set b\\n"
        <- Rwrite tag 1 count 6
        <- Rwrite tag 2 count 6
    """)


def test_a_fid_is_read_and_written_only_as_it_was_opened() -> None:
    play("""
        ! open 1 note 0
        ! open 2 note 1
        ! open 3 note 2
        ! open 4 note 3
        -> Twrite tag 1 fid 1 offset 0 data "x"
        -> Tread tag 2 fid 2 offset 0 count 1
        -> Twrite tag 3 fid 3 offset 0 data "x"
        -> Tread tag 4 fid 3 offset 0 count 9
        -> Twrite tag 5 fid 4 offset 0 data "x"
        -> Tread tag 6 fid 4 offset 0 count 9
        -> Tread tag 7 fid 0 offset 0 count 9
        -> Tread tag 8 fid 99 offset 0 count 9
        <- Rerror tag 1 ename "fid is not open for writing"
        <- Rerror tag 2 ename "fid is not open for reading"
        <- Rwrite tag 3 count 1
        <- Rread tag 4 data "something"
        <- Rerror tag 5 ename "fid is not open for writing"
        <- Rread tag 6 data "something"
        <- Rerror tag 7 ename "fid is not open for reading"
        <- Rerror tag 8 ename "fid unknown or out of range"
    """)


def test_a_transaction_on_a_fid_whose_walk_waits_is_answered_in_order() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["slow"]
        <- Rwalk tag 1 wqid [(d 0 14)]
        -> Twalk tag 2 fid 1 newfid 2 wname ["leaf"]
        -> Topen tag 3 fid 2 mode 2
        -> Twrite tag 4 fid 2 offset 0 data "hi"
        -> Tread tag 5 fid 2 offset 0 count 9
        -> Tclunk tag 6 fid 2
        -> Tstat tag 7 fid 2
        ! silent
        ! let walk slow
        <- Rwalk tag 2 wqid [(- 0 15)]
        <- Ropen tag 3 qid (- 0 15) iounit 8168
        <- Rwrite tag 4 count 2
        <- Rread tag 5 data "something"
        <- Rclunk tag 6
        <- Rerror tag 7 ename "fid unknown or out of range"
    """)


def test_a_transaction_behind_two_waits_is_answered_in_order() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["vault"]
        -> Topen tag 2 fid 1 mode 0
        -> Tread tag 3 fid 1 offset 0 count 9
        -> Tclunk tag 4 fid 1
        <- Rwalk tag 1 wqid [(- 0 13)]
        ! let open vault
        <- Ropen tag 2 qid (- 0 13) iounit 8168
        <- Rread tag 3 data "something"
        ! let clunk vault
        <- Rclunk tag 4
        ** walk vault
        ** open vault
        ** read vault 0 9
        ** clunk vault
        ** release vault
    """)


def test_an_open_that_fails_late_leaves_the_fid_walked() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["vault"]
        -> Topen tag 2 fid 1 mode 0
        ! idle
        ! refuse open vault "combination lost"
        <- Rwalk tag 1 wqid [(- 0 13)]
        <- Rerror tag 2 ename "combination lost"
        -> Topen tag 3 fid 1 mode 0
        ! idle
        ! let open vault
        <- Ropen tag 3 qid (- 0 13) iounit 8168
    """)


# -- create, remove ---------------------------------------------------------------


def test_create_where_it_is_not_allowed() -> None:
    play("""
        -> Tcreate tag 1 fid 0 name "new" perm 0o644 mode 0
        <- Rerror tag 1 ename "permission denied"
        -> Tcreate tag 2 fid 0 name ".." perm 0o644 mode 0
        <- Rerror tag 2 ename "bad file name '..'"
        -> Tcreate tag 3 fid 0 name "a/b" perm 0o644 mode 0
        <- Rerror tag 3 ename "bad file name 'a/b'"
        -> Twalk tag 4 fid 0 newfid 1 wname ["hello"]
        -> Tcreate tag 5 fid 1 name "new" perm 0o644 mode 0
        <- Rwalk tag 4 wqid [(- 0 2)]
        <- Rerror tag 5 ename "not a directory"
    """)


def test_create_moves_the_fid_to_the_new_file_and_opens_it() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["slow"]
        -> Tcreate tag 2 fid 1 name "new" perm 0o644 mode 2
        -> Twrite tag 3 fid 1 offset 0 data "abc"
        ! let create slow
        <- Rwalk tag 1 wqid [(d 0 14)]
        <- Rcreate tag 2 qid (- 0 17) iounit 8168
        <- Rwrite tag 3 count 3
        ** release slow
        ** write new 0 abc
        -> Tclunk tag 4 fid 1
        <- Rclunk tag 4
        ** clunk new
        ** release new
    """)


def test_remove_frees_the_fid_even_when_it_fails() -> None:
    play("""
        ! open 1 hello 0
        -> Tremove tag 1 fid 1
        -> Tstat tag 2 fid 1
        <- Rerror tag 1 ename "permission denied"
        <- Rerror tag 2 ename "fid unknown or out of range"
    """)


def test_remove_that_waits_ends_the_file_when_it_is_over() -> None:
    play("""
        ! open 1 gate 0
        -> Tremove tag 1 fid 1
        -> Tstat tag 2 fid 1
        <- Rerror tag 2 ename "fid unknown or out of range"
        ** remove gate
        ! refuse remove gate "too heavy"
        <- Rerror tag 1 ename "too heavy"
        ** drop gate
        ** release gate
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


# -- clunk ---------------------------------------------------------------------------


def test_28_a_fid_clunked_is_free_for_the_next_message() -> None:
    play("""
        ! open 1 note 0
        -> Tclunk tag 1 fid 1
        -> Twalk tag 2 fid 0 newfid 1 wname ["hello"]
        -> Topen tag 3 fid 1 mode 0
        -> Tread tag 4 fid 1 offset 0 count 5
        -> Tclunk tag 5 fid 1
        -> Tclunk tag 6 fid 1
        <- Rclunk tag 1
        <- Rwalk tag 2 wqid [(- 0 2)]
        <- Ropen tag 3 qid (- 0 2) iounit 8168
        <- Rread tag 4 data "hello"
        <- Rclunk tag 5
        <- Rerror tag 6 ename "fid unknown or out of range"
    """)


def test_28_a_fid_is_free_while_its_files_clunk_still_waits() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["vault"]
        -> Topen tag 2 fid 1 mode 0
        ! idle
        ! let open vault
        <- Rwalk tag 1 wqid [(- 0 13)]
        <- Ropen tag 2 qid (- 0 13) iounit 8168
        -> Tclunk tag 3 fid 1
        -> Twalk tag 4 fid 0 newfid 1 wname ["hello"]
        <- Rwalk tag 4 wqid [(- 0 2)]
        ! refuse clunk vault "prompt refused"
        <- Rerror tag 3 ename "prompt refused"
        -> Tstat tag 5 fid 1
        <- Rstat tag 5 stat {name "hello" qid (- 0 2) mode 0o444 uid "glenda" gid "glenda" muid "glenda"}
    """)  # noqa: E501


@pytest.mark.parametrize("name", ["gate", "bare"])
def test_11_clunk_interrupts_the_read_that_is_pending_on_the_fid(name: str) -> None:
    play(f"""
        ! open 1 {name} 0
        ! open 2 {name} 0
        -> Tread tag 1 fid 1 offset 0 count 9
        -> Tread tag 2 fid 2 offset 0 count 9
        ! idle
        -> Tclunk tag 3 fid 1
        <- Rerror tag 1 ename "Interrupted system call"
        <- Rclunk tag 3
        ! let read {name}
        <- Rread tag 2 data "something"
    """)


def test_11_clunk_interrupts_a_read_that_came_in_the_same_segment() -> None:
    play("""
        ! open 1 gate 0
        -> Tread tag 1 fid 1 offset 0 count 9
        -> Tclunk tag 2 fid 1
        <- Rerror tag 1 ename "Interrupted system call"
        <- Rclunk tag 2
        ** read gate 0 9
        ** clunk gate
        ** release gate
    """)


def test_a_file_is_released_when_its_clunk_is_over() -> None:
    play("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["vault"]
        -> Topen tag 2 fid 1 mode 0
        ! idle
        ! let open vault
        <- Rwalk tag 1 wqid [(- 0 13)]
        <- Ropen tag 2 qid (- 0 13) iounit 8168
        -> Tclunk tag 3 fid 1
        ** walk vault
        ** open vault
        ** clunk vault
        ! let clunk vault
        <- Rclunk tag 3
        ** release vault
    """)


def test_11_25_a_lost_connection_drops_every_fid_once_and_submits_nothing() -> None:
    with playing() as player:
        player.play(HELLO + """
            ! open 1 gate 0
            ! open 2 note 1
            -> Twalk tag 1 fid 0 newfid 3 wname ["note"]
            -> Tread tag 2 fid 1 offset 0 count 9
            <- Rwalk tag 1 wqid [(- 0 5)]
            ** walk note
            ** read gate 0 9
            ! lost
            ** drop gate
            ** release gate
            ** drop note
            ** release note
            ** release note
            ** cancelled read gate
            ! lost
            ! silent
        """)
        assert player.noted() == []


@pytest.mark.parametrize("style", ["vault", "deaf"])
def test_25_a_connection_lost_during_an_open_ends_the_file_once(style: str) -> None:
    """What the open gives too late is dropped, and then the file is released."""
    qid = {"vault": 13, "deaf": 12}[style]
    with playing() as player:
        player.play(HELLO + f"""
            -> Tattach tag 1 fid 1 afid NOFID uname "glenda" aname "{style}"
            -> Topen tag 2 fid 1 mode 0
            <- Rattach tag 1 qid (- 0 {qid})
            ** walk {style}
            ** open {style}
            ! lost
            ! idle
        """)
        if style == "deaf":
            player.play("! let open deaf")
        late = ["drop deaf"] if style == "deaf" else []
        assert player.noted() == [f"cancelled open {style}", *late, f"release {style}"]


def test_25_a_walk_that_ends_after_the_connection_gives_its_file_back() -> None:
    with playing() as player:
        player.play(HELLO + """
            -> Twalk tag 1 fid 0 newfid 1 wname ["late"]
            ** walk late
            ! lost
            ** cancelled walk late
            ! let walk late
            ** release late
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
