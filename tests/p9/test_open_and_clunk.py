"""ServerConn's opens, creates, removes and clunks, as transcripts: what waits, what is
interrupted, and that every file given and every open ends once.
"""

from __future__ import annotations

import pytest

from .transcript import HELLO, play, playing

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


def test_remove_of_what_is_open_for_writing_drops_what_was_written() -> None:
    """And removes nothing, not even where that would be done: an orchestrator, whose clients
    go without a Tclunk, says so by it."""
    play("""
        ! open 1 gate 1
        -> Tremove tag 1 fid 1
        -> Tstat tag 2 fid 1
        ** drop gate
        ** release gate
        <- Rerror tag 1 ename "file is in use: it is open for writing"
        <- Rerror tag 2 ename "fid unknown or out of range"
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
