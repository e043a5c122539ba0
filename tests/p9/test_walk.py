"""ServerConn's walks, as transcripts: partial ones, `..` that stops at the root of the
attach, and names that are none.
"""

from __future__ import annotations

from .transcript import HELLO, play, playing


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
