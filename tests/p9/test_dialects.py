"""9P2000.u and 9P2000.L over the same files: what Linux and diod's tools send, told as
transcripts.  The tree is `transcript.World`.
"""

from __future__ import annotations

import errno

import pytest

from llambo9p import errors
from llambo9p.p9 import constants as c
from llambo9p.p9 import dialects as d
from llambo9p.p9 import messages as m
from llambo9p.p9.server import ServerConn
from llambo9p.p9.text import parse

from .manners import DIRECTORY, Books, Node, Running
from .transcript import playing

HELLO_U = """
    -> Tversion tag NOTAG msize 8192 version "9P2000.u"
    <- Rversion tag NOTAG msize 8192 version "9P2000.u"
    -> Tattach tag 0 fid 0 afid NOFID uname "glenda" aname "" n_uname 1000
    <- Rattach tag 0 qid (d 0 1)
"""
HELLO_L = HELLO_U.replace("2000.u", "2000.L")
LENGTH_0 = (
    'name "" qid (dalAtm21 4294967295 18446744073709551615) mode 4294967295 type 65535 '
    "dev 4294967295 atime 4294967295 mtime 1700000000 length 0"
)


def play_u(transcript: str) -> None:
    with playing() as player:
        player.play(HELLO_U)
        player.play(transcript)


def play_l(transcript: str) -> None:
    with playing() as player:
        player.play(HELLO_L)
        player.play(transcript)


# -- 9P2000.u --------------------------------------------------------------------------


def test_u_an_error_has_its_string_and_its_errno() -> None:
    play_u("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["nope"]
        <- Rerror tag 1 ename "file does not exist" errno 2
        -> Tauth tag 2 afid 5 uname "glenda" aname "" n_uname NONUNAME
        <- Rerror tag 2 ename "authentication not required" errno 2
    """)


def test_u_stats_have_numbers_and_an_empty_extension() -> None:
    play_u("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["hello"]
        <- Rwalk tag 1 wqid [(- 0 2)]
        -> Tstat tag 2 fid 1
        <- Rstat tag 2 stat {name "hello" qid (- 0 2) mode 0o444 uid "glenda" gid "glenda" muid "glenda" n_uid 65534 n_gid 65534 n_muid 65534}
    """)  # noqa: E501


def test_u_directory_reads_have_entries_of_the_dialect() -> None:
    with playing() as player:
        player.play(HELLO_U)
        player.play("""
            -> Twalk tag 1 fid 0 newfid 1 wname ["dir" "sub"]
            -> Topen tag 2 fid 1 mode 0
            <- Rwalk tag 1 wqid [(d 0 6) (d 0 8)]
            <- Ropen tag 2 qid (d 0 8) iounit 8168
        """)
        player.send(m.Tread(3, 1, 0, 4096).pack())
        [reply] = player.replies()
        assert reply.startswith("Rread tag 3 data")
        cursor = player.conn.fids[1].cursor
        assert cursor is not None
        # size[2], 39 bytes, "leaf" and three times "glenda"; extension and 3 numbers
        assert cursor.offset == 2 + 39 + (2 + 4) + 3 * (2 + 6) + 2 + 12


def test_u_a_shell_s_redirection_as_linux_sends_it() -> None:
    """Topen with OTRUNC, a Twstat of length 0, Twrite, Tclunk."""
    play_u(f"""
        -> Twalk tag 1 fid 0 newfid 1 wname ["note"]
        -> Topen tag 2 fid 1 mode 0o21
        -> Twstat tag 3 fid 1 stat {{{LENGTH_0}}}
        -> Twrite tag 4 fid 1 offset 0 data "x\\n"
        -> Tclunk tag 5 fid 1
        <- Rwalk tag 1 wqid [(- 0 5)]
        <- Ropen tag 2 qid (- 0 5) iounit 8168
        <- Rwstat tag 3
        <- Rwrite tag 4 count 2
        <- Rclunk tag 5
    """)


# -- 9P2000.L ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ('Twalk tag 1 fid 0 newfid 9 wname ["nope"]', "ENOENT"),
        ("Tclunk tag 1 fid 77", "EBADF"),
        ('Tauth tag 1 afid 5 uname "" aname "" n_uname 0', "ENOENT"),
        ('Txattrwalk tag 1 fid 0 newfid 9 name "security.capability"', "EOPNOTSUPP"),
        ('Txattrcreate tag 1 fid 0 name "user.a" attr_size 1 flags 0', "EOPNOTSUPP"),
        ("Treadlink tag 1 fid 0", "EINVAL"),
        ('Tsymlink tag 1 dfid 0 name "a" symtgt "b" gid 0', "EPERM"),
        ('Tlink tag 1 dfid 0 fid 0 name "a"', "EPERM"),
        ('Tmknod tag 1 dfid 0 name "a" mode 0o644 major 1 minor 1 gid 0', "EPERM"),
        ('Trename tag 1 fid 0 dfid 0 name "a"', "EPERM"),
        ('Trenameat tag 1 olddirfid 0 oldname "a" newdirfid 0 newname "b"', "EPERM"),
        ('Tmkdir tag 1 dfid 0 name "new" mode 0o755 gid 0', "EACCES"),
        ('Tmkdir tag 1 dfid 0 name "a/b" mode 0o755 gid 0', "EINVAL"),
        ('Tunlinkat tag 1 dirfd 0 name "nope" flags 0', "ENOENT"),
        ('Tunlinkat tag 1 dirfd 0 name "hello" flags 0', "EACCES"),
        ('Tunlinkat tag 1 dirfd 0 name ".." flags 0', "EINVAL"),
        ('Tlcreate tag 1 fid 0 name "new" flags 577 mode 0o644 gid 0', "EACCES"),
        ("Tlopen tag 1 fid 0 flags 1", "EISDIR"),
        ("Tfsync tag 1 fid 0 datasync 0", "EINVAL"),
        ("Treaddir tag 1 fid 0 offset 0 count 100", "EINVAL"),
        ('Tlock tag 1 fid 0 type 0 flags 0 start 0 length 0 proc_id 1 client_id ""', "EOPNOTSUPP"),
        ("Tsetattr tag 1 fid 0 valid 2 mode 0o0 uid 5 gid 0 size 0 "
         "atime_sec 0 atime_nsec 0 mtime_sec 0 mtime_nsec 0", "EPERM"),
    ],
)  # fmt: skip
def test_l_an_error_is_the_errno_that_linux_expects(message: str, name: str) -> None:
    play_l(f"""
        -> {message}
        ! idle
        <- Rlerror tag 1 ecode {getattr(errno, name)}
    """)


def test_l_messages_of_the_other_dialects_are_unknown() -> None:
    with playing() as player:
        player.play(HELLO_L)
        for msg in (m.Topen(3, 0, 0), m.Tstat(3, 0)):
            player.send(msg.pack())
            assert player.replies() == [f"Rlerror tag 3 ecode {errors.InvalidArgument.errno}"]


def test_l_a_directory_is_not_read_as_a_file() -> None:
    """diodcat of a directory says so, and prints no bytes of entries."""
    play_l("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["dir"]
        -> Tlopen tag 2 fid 1 flags 0
        -> Tread tag 3 fid 1 offset 0 count 100
        <- Rwalk tag 1 wqid [(d 0 6)]
        <- Rlopen tag 2 qid (d 0 6) iounit 8168
        <- Rlerror tag 3 ecode 21
    """)


def test_l_attributes_are_those_asked_for() -> None:
    play_l("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["hello"]
        <- Rwalk tag 1 wqid [(- 0 2)]
        -> Tgetattr tag 2 fid 1 request_mask 2047
        <- Rgetattr tag 2 valid 2047 qid (- 0 2) mode 0o100444 uid 65534 gid 65534 nlink 1 rdev 0 size 0 blksize 4096 blocks 0 atime_sec 0 atime_nsec 0 mtime_sec 0 mtime_nsec 0 ctime_sec 0 ctime_nsec 0 btime_sec 0 btime_nsec 0 gen 0 data_version 0
        -> Tgetattr tag 3 fid 0 request_mask 16383
        <- Rgetattr tag 3 valid 2047 qid (d 0 1) mode 0o40555 uid 65534 gid 65534 nlink 2 rdev 0 size 0 blksize 4096 blocks 0 atime_sec 0 atime_nsec 0 mtime_sec 0 mtime_nsec 0 ctime_sec 0 ctime_nsec 0 btime_sec 0 btime_nsec 0 gen 0 data_version 0
    """)  # noqa: E501


def test_l_a_shell_s_redirection_as_linux_sends_it() -> None:
    """O_CREAT on an existing file is Tlopen; then Tsetattr of size 0, Twrite, Tclunk."""
    play_l("""
        -> Twalk tag 1 fid 0 newfid 1 wname ["note"]
        -> Tlopen tag 2 fid 1 flags 32833
        -> Txattrwalk tag 3 fid 1 newfid 2 name "security.capability"
        -> Tsetattr tag 4 fid 1 valid 104 mode 0o0 uid 0 gid 0 size 0 atime_sec 0 atime_nsec 0 mtime_sec 0 mtime_nsec 0
        -> Twrite tag 5 fid 1 offset 0 data "x\\n"
        -> Tfsync tag 6 fid 1 datasync 0
        -> Tclunk tag 7 fid 1
        <- Rwalk tag 1 wqid [(- 0 5)]
        <- Rlopen tag 2 qid (- 0 5) iounit 8168
        <- Rlerror tag 3 ecode 95
        <- Rsetattr tag 4
        <- Rwrite tag 5 count 2
        <- Rfsync tag 6
        <- Rclunk tag 7
    """)  # noqa: E501


def test_l_statfs_says_9p() -> None:
    play_l("""
        -> Tstatfs tag 1 fid 0
        <- Rstatfs tag 1 type 16914839 bsize 4096 blocks 0 bfree 0 bavail 0 files 0 ffree 0 fsid 0 namelen 255
    """)  # noqa: E501


def entries(reply: str) -> list[tuple[int, str]]:
    """(offset, name) of each entry of an Rreaddir."""
    msg = parse(reply, d.P9_2000_L)
    assert isinstance(msg, d.Rreaddir)
    found, at, data = [], 0, msg.data
    while at < len(data):
        offset = int.from_bytes(data[at + 13 : at + 21], "little")
        size = int.from_bytes(data[at + 22 : at + 24], "little")
        found.append((offset, data[at + 24 : at + 24 + size].decode()))
        at += 24 + size
    assert at == len(data), "whole entries only"
    return found


def test_14_l_a_listing_has_stable_offsets_while_the_directory_changes() -> None:
    with playing() as player:
        player.play(HELLO_L)
        player.play("""
            -> Twalk tag 1 fid 0 newfid 1 wname ["dir"]
            -> Tlopen tag 2 fid 1 flags 98304
            <- Rwalk tag 1 wqid [(d 0 6)]
            <- Rlopen tag 2 qid (d 0 6) iounit 8168
        """)

        def readdir(offset: int, count: int) -> list[tuple[int, str]]:
            player.send(d.Treaddir(3, 1, offset, count).pack())
            [reply] = player.replies()
            return entries(reply)

        assert readdir(0, 8000) == [(1, "a"), (2, "sub")]
        assert readdir(0, 30) == [(1, "a")], "an entry that does not fit waits"
        player.happens("discard", "a")
        player.happens("add", "late")
        assert readdir(1, 8000) == [(2, "sub")]
        assert readdir(1, 8000) == [(2, "sub")], "the same place, the same entries"
        assert readdir(2, 8000) == []
        assert readdir(99, 8000) == []
        assert readdir(0, 8000) == [(1, "sub"), (2, "late")], "rewound: as it is now"
        player.play("""
            -> Treaddir tag 4 fid 1 offset 0 count 20
            <- Rlerror tag 4 ecode 22
        """)


def test_10_l_a_flush_while_a_listing_is_awaited() -> None:
    with playing() as player:
        player.play(HELLO_L)
        player.play("""
            -> Tattach tag 1 fid 1 afid NOFID uname "" aname "slow" n_uname 0
            ! let attach slow
            <- Rattach tag 1 qid (d 0 14)
            -> Tlopen tag 2 fid 1 flags 0
            <- Rlopen tag 2 qid (d 0 14) iounit 8168
            -> Treaddir tag 3 fid 1 offset 0 count 4096
            -> Tflush tag 4 oldtag 3
            <- Rflush tag 4
        """)


def test_l_a_file_is_made_where_the_tree_allows_it() -> None:
    with playing() as player:
        player.play(HELLO_L)
        player.play("""
            -> Tattach tag 1 fid 1 afid NOFID uname "" aname "slow" n_uname 0
            ! let attach slow
            <- Rattach tag 1 qid (d 0 14)
            -> Tlcreate tag 2 fid 1 name "new" flags 577 mode 0o644 gid 0
            ! let create slow
            <- Rlcreate tag 2 qid (- 0 17) iounit 8168
            -> Twrite tag 3 fid 1 offset 0 data "x"
            <- Rwrite tag 3 count 1
        """)


def test_25_l_a_directory_made_after_the_connection_is_given_back() -> None:
    books = Books()
    conn = ServerConn(lambda uname, aname: books.give(Node(books, DIRECTORY)))
    conn.receive(m.Tversion(c.NOTAG, 8192, c.VERSION_9P2000_L).pack())
    conn.receive(d.Tattach_u(1, 0, c.NOFID, "glenda", "").pack())
    books.manner = "deaf"
    conn.receive(d.Tmkdir(2, 0, "new", 0o755, 0).pack())
    [request] = conn.take_started()
    making = Running(request)
    making.begin()
    conn.lost()
    with pytest.raises(StopIteration) as made:
        making.go_on(well=True)
    conn.complete(request, made.value.value)
    assert [opened.ends for opened in books.opens] == [1]
    assert (books.given, books.released) == (2, 2)


def test_a_second_version_may_change_the_dialect() -> None:
    with playing() as player:
        player.play(HELLO_L)
        player.play(HELLO_U)
        player.play("""
            -> Tclunk tag 1 fid 5
            <- Rerror tag 1 ename "fid unknown or out of range" errno 9
        """)
