"""Reads and writes of a ServerConn, as transcripts: counts, directories, streams that
block, and replies that are too large or cannot be packed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from llambo9p import errors
from llambo9p.p9 import messages as m
from llambo9p.p9.dialects import P9_2000
from llambo9p.p9.node import Node, Walk
from llambo9p.p9.server import Limits, ServerConn
from llambo9p.p9.text import parse
from llambo9p.p9.wire import Dir, Qid, pack_dir, unpack_dirs

from .transcript import HELLO, Player, play, playing


def test_read_from_an_offset_to_the_end_and_beyond() -> None:
    play("""
        ! open 1 hello 0
        -> Tread tag 1 fid 1 offset 0 count 5
        -> Tread tag 2 fid 1 offset 7 count 100
        -> Tread tag 3 fid 1 offset 13 count 100
        -> Tread tag 4 fid 1 offset 18446744073709551615 count 100
        <- Rread tag 1 data "hello"
        <- Rread tag 2 data "world\\n"
        <- Rread tag 3 data ""
        <- Rread tag 4 data ""
    """)


def test_19_a_count_of_0_is_answered_at_once_and_asks_nothing_of_the_file() -> None:
    play("""
        ! open 1 gate 0
        ! open 2 out 0
        -> Tread tag 1 fid 1 offset 0 count 0
        -> Tread tag 2 fid 2 offset 0 count 0
        <- Rread tag 1 data ""
        <- Rread tag 2 data ""
    """)


def test_19_a_count_beyond_msize_is_clamped_to_what_a_reply_holds() -> None:
    with playing() as player:
        player.play(HELLO + "! open 1 out 0")
        player.world.out.stream.append(bytes(range(256)) * 64)
        player.play("""
            -> Tversion tag NOTAG msize 256 version "9P2000"
            <- Rversion tag NOTAG msize 256 version "9P2000"
            -> Tattach tag 0 fid 0 afid NOFID uname "glenda" aname ""
            <- Rattach tag 0 qid (d 0 1)
            ! open 1 out 0
        """)
        for count in (245, 246, 8192, 0xFFFF_FFFF):
            player.send(m.Tread(1, 1, 0, count).pack())
            (reply,) = player.replies()
            assert parse(reply) == m.Rread(1, bytes(range(245)))


def test_5_a_blocking_read_gives_what_is_there_and_loses_nothing() -> None:
    play("""
        ! open 1 out 0
        -> Tread tag 1 fid 1 offset 0 count 4
        ! feed out "abcdefghij"
        <- Rread tag 1 data "abcd"
        -> Tread tag 1 fid 1 offset 4 count 4
        <- Rread tag 1 data "efgh"
        -> Tread tag 1 fid 1 offset 8 count 4
        <- Rread tag 1 data "ij"
        -> Tread tag 1 fid 1 offset 10 count 4
        ! silent
        ! feed out "k"
        <- Rread tag 1 data "k"
        -> Tread tag 1 fid 1 offset 2 count 2
        <- Rread tag 1 data "cd"
    """)


def test_6_every_blocked_reader_is_woken() -> None:
    play("""
        ! open 1 out 0
        ! open 2 out 0
        -> Tread tag 1 fid 1 offset 0 count 9
        -> Tread tag 2 fid 2 offset 0 count 9
        -> Tread tag 3 fid 2 offset 0 count 1
        ! idle
        ! feed out "ab"
        <- Rread tag 1 data "ab"
        <- Rread tag 2 data "ab"
        <- Rread tag 3 data "a"
    """)


def test_7_a_read_after_the_end_is_eof_and_a_late_reader_gets_everything() -> None:
    play("""
        ! open 1 out 0
        -> Tread tag 1 fid 1 offset 0 count 9
        ! feed out "all"
        ! end out
        <- Rread tag 1 data "all"
        -> Tread tag 1 fid 1 offset 3 count 9
        -> Tread tag 2 fid 1 offset 3 count 9
        <- Rread tag 1 data ""
        <- Rread tag 2 data ""
        ! open 2 out 0
        -> Tread tag 1 fid 2 offset 0 count 9
        <- Rread tag 1 data "all"
    """)


def test_21_a_failure_is_an_error_of_the_blocked_read_after_all_bytes() -> None:
    play("""
        ! open 1 out 0
        ! feed out "half"
        -> Tread tag 1 fid 1 offset 4 count 9
        ! idle
        ! break out "the engine stopped"
        <- Rerror tag 1 ename "the engine stopped"
        -> Tread tag 2 fid 1 offset 0 count 9
        -> Tread tag 3 fid 1 offset 4 count 9
        <- Rread tag 2 data "half"
        <- Rerror tag 3 ename "the engine stopped"
    """)


def test_2_bytes_are_bytes_wherever_a_character_is_cut() -> None:
    play("""
        ! open 1 note 2
        ! open 2 out 0
        ! feed out "café"
        -> Tread tag 1 fid 2 offset 0 count 4
        -> Tread tag 2 fid 2 offset 4 count 4
        <- Rread tag 1 data "caf\\xc3"
        <- Rread tag 2 data "\\xa9"
    """)


def test_9_a_read_that_waits_holds_back_nobody() -> None:
    play("""
        ! open 1 out 0
        ! open 2 hello 0
        -> Tread tag 1 fid 1 offset 0 count 9
        -> Tread tag 2 fid 2 offset 0 count 5
        -> Twalk tag 3 fid 1 newfid 3 wname []
        <- Rread tag 2 data "hello"
        <- Rwalk tag 3 wqid []
    """)


def test_18_a_bad_ctl_write_fails_and_nothing_of_it_is_done() -> None:
    with playing() as player:
        player.play(HELLO + """
            ! open 1 ctl 1
            -> Twrite tag 1 fid 1 offset 0 data "set a\\nstet b\\n"
            -> Twrite tag 2 fid 1 offset 0 data "set a\\nset\\n"
            -> Twrite tag 3 fid 1 offset 0 data "set caf\\xc3"
            <- Rerror tag 1 ename "unknown verb stet; verbs are set"
            <- Rerror tag 2 ename "usage: set WORD"
            <- Rerror tag 3 ename "not UTF-8: byte 0xc3 at 7"
        """)
        assert player.world.settings == []
        player.play("""
            -> Twrite tag 1 fid 1 offset 999 data "set a\\nset 'b c'\\n"
            <- Rwrite tag 1 count 16
        """)
        assert player.world.settings == ["a", "b c"]


# -- directories -----------------------------------------------------------------


def read_dir(player: Player, fid: int, offset: int, count: int) -> bytes:
    player.send(m.Tread(1, fid, offset, count).pack())
    (line,) = player.replies()
    reply = parse(line)
    if isinstance(reply, m.Rerror):
        raise errors.from_ename(reply.ename)
    assert isinstance(reply, m.Rread) and len(reply.data) <= count
    return reply.data


def read_all(player: Player, fid: int, count: int) -> list[str]:
    """The names of a directory, read as a client does; every read is whole entries."""
    names: list[str] = []
    offset = 0
    while data := read_dir(player, fid, offset, count):
        names += [entry.name for entry in unpack_dirs(data)]
        offset += len(data)
    return names


ENTRY = len(pack_dir(Dir("a", Qid(0, 0, 7), 0o444, uid="glenda", gid="glenda", muid="glenda")))


@pytest.mark.parametrize("count", [ENTRY + 2, 2 * ENTRY + 1, 2 * ENTRY + 2, 8000, 0xFFFF_FFFF])
def test_14_entries_are_never_split(count: int) -> None:
    with playing() as player:
        player.play(HELLO + "! open 1 dir 0")
        assert read_all(player, 1, count) == ["a", "sub"]


def test_14_a_read_too_small_for_an_entry_says_so_and_moves_nothing() -> None:
    with playing() as player:
        player.play(HELLO + "! open 1 dir 0")
        with pytest.raises(errors.Error, match=f"read of 10 bytes is too small .* {ENTRY}"):
            read_dir(player, 1, 0, 10)
        first = read_dir(player, 1, 0, ENTRY)
        with pytest.raises(errors.Error, match="too small"):
            read_dir(player, 1, len(first), ENTRY)
        assert [d.name for d in unpack_dirs(read_dir(player, 1, ENTRY, ENTRY + 2))] == ["sub"]


def test_14_linux_is_told_that_nothing_fits_into_the_rest_of_its_count() -> None:
    """Its 9P2000 and .u read on until a read's count is full or a reply is empty: an error
    would end the listing."""
    with playing() as player:
        player.play(HELLO + "! open 1 dir 0")
        count = ENTRY + 5
        first = read_dir(player, 1, 0, count)
        assert read_dir(player, 1, len(first), 5) == b""
        assert [d.name for d in unpack_dirs(read_dir(player, 1, len(first), count))] == ["sub"]


def test_14_a_directory_is_read_again_from_0_and_from_nowhere_else() -> None:
    with playing() as player:
        player.play(HELLO + "! open 1 dir 0")
        with pytest.raises(errors.Error, match="bad offset"):
            read_dir(player, 1, ENTRY, 8000)
        assert read_all(player, 1, ENTRY + 2) == ["a", "sub"]
        assert read_all(player, 1, 8000) == ["a", "sub"]
        for offset in (1, ENTRY, 1 << 63):
            with pytest.raises(errors.Error, match="bad offset"):
                read_dir(player, 1, offset, 8000)


def test_14_more_than_a_thousand_entries() -> None:
    with playing() as player:
        names = [f"entry-{i:04}" for i in range(2500)]
        player.play(HELLO + "\n".join(f"! add {name}" for name in names) + "\n! open 1 dir 0")
        assert read_all(player, 1, 8181) == ["a", "sub", *names]


def test_14_a_directory_that_changes_is_read_as_it_was_at_offset_0() -> None:
    with playing() as player:
        player.play(HELLO + "! open 1 dir 0")
        first = read_dir(player, 1, 0, ENTRY)
        player.play("""
            ! discard a
            ! discard sub
            ! add new
        """)
        rest = read_dir(player, 1, len(first), 8000)
        assert [d.name for d in unpack_dirs(first + rest)] == ["a", "sub"]
        assert read_dir(player, 1, len(first + rest), 8000) == b""
        assert read_all(player, 1, 8000) == ["new"]


def test_14_two_fids_read_one_directory_each_for_itself() -> None:
    with playing() as player:
        player.play(HELLO + """
            ! open 1 dir 0
            ! open 2 dir 0
        """)
        first = read_dir(player, 1, 0, ENTRY)
        assert read_all(player, 2, ENTRY + 2) == ["a", "sub"]
        assert unpack_dirs(read_dir(player, 1, len(first), 8000))[0].name == "sub"


def test_a_directory_read_that_waits_holds_back_the_next_ones() -> None:
    leaf = len(pack_dir(Dir("leaf", Qid(0, 0, 15), 0, uid="glenda", gid="glenda", muid="glenda")))
    with playing() as player:
        player.play(HELLO + f"""
            ! open 1 slow 0
            -> Tread tag 1 fid 1 offset 0 count 8000
            -> Tread tag 2 fid 1 offset {leaf} count 8000
            -> Tclunk tag 3 fid 1
            ! silent
        """)
        player.happens("let", "readdir", "slow")
        listing, end, clunked = player.replies()
        reply = parse(listing)
        assert isinstance(reply, m.Rread) and unpack_dirs(reply.data)[0].name == "leaf"
        assert [end, clunked] == ['Rread tag 2 data ""', "Rclunk tag 3"]


# -- what cannot be sent ------------------------------------------------------------


class Oddity:
    """A file whose answers break the contract, one way or another."""

    qid = Qid(0, 0, 1)

    def __init__(self, result: object) -> None:
        self.result = result

    def stat(self) -> object:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def walk(self, names: Sequence[str]) -> Walk:
        """Every name exists, but the last cannot be reached."""
        return Walk([self.qid for _ in names], None, errors.WorkerLost())

    def opened(self) -> None:
        pass

    def release(self, was_open: bool) -> None:
        pass


def stat_of(result: object) -> m.Message:
    return ask(Oddity(result), "Tstat tag 1 fid 0")


def ask(file: Oddity, question: str, msize: int = 300) -> m.Message:
    conn = ServerConn(lambda uname, aname: file)  # type: ignore[arg-type, return-value]
    for line in [
        f'Tversion tag NOTAG msize {msize} version "9P2000"',
        'Tattach tag 0 fid 0 afid NOFID uname "" aname ""',
        question,
    ]:
        conn.receive(parse(line).pack())
    frame = conn.data_to_send()[-1]
    assert len(frame) <= msize
    reply = P9_2000.unpack(frame)
    assert reply.tag == 1
    return reply


def test_a_walk_that_found_every_name_but_no_file_is_an_error_not_a_success() -> None:
    for names in ("[]", '["a"]', '["a" "b"]'):
        reply = ask(Oddity(None), f"Twalk tag 1 fid 0 newfid 1 wname {names}")
        assert reply == m.Rerror(1, "worker is lost")


@pytest.mark.parametrize("name", ["", "a/b", "/", "../../etc"])
def test_29_no_file_is_asked_for_a_path(name: str) -> None:
    reply = ask(Oddity(None), f'Twalk tag 1 fid 0 newfid 1 wname ["a" "{name}"]')
    assert reply == m.Rerror(1, "file does not exist")


@pytest.mark.parametrize(
    ("ename", "sent"),
    [
        ("no\0good", "no\N{REPLACEMENT CHARACTER}good"),
        ("half \udcff", "half ?"),
        ("é" * 300, "é" * 145),
        ("x" * 100_000, "x" * 291),
    ],
    ids=["NUL", "surrogate", "long", "longer than any 9P string"],
)
def test_an_ename_is_made_into_what_9P_can_say(ename: str, sent: str) -> None:
    assert stat_of(errors.InvalidArgument(ename)) == m.Rerror(1, sent)


def test_an_ename_is_no_longer_than_a_string_can_be() -> None:
    odd = Oddity(errors.InvalidArgument("x" * 100_000))
    assert ask(odd, "Tstat tag 1 fid 0", msize=131_072) == m.Rerror(1, "x" * 65_535)


def test_a_late_result_that_is_no_file_is_an_error_and_leaves_no_fid(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def attach(uname: str, aname: str) -> Node:
        raise NotImplementedError

    conn = ServerConn(attach)
    conn.receive(m.Tversion(0xFFFF, 8192, "9P2000").pack())
    conn.receive(m.Tattach(1, 0, 0xFFFF_FFFF, "glenda", "").pack())
    (request,) = conn.take_started()
    conn.complete(request, "not a file")
    request.awaitable.close()  # type: ignore[union-attr]
    reply = P9_2000.unpack(conn.data_to_send()[-1])
    assert isinstance(reply, m.Rerror) and "AttributeError" in reply.ename
    assert not conn.fids and not conn.requests


def test_a_reply_that_does_not_fit_msize_is_an_error() -> None:
    reply = stat_of(Dir("n" * 300, Qid(0, 0, 1), 0))
    assert reply == m.Rerror(1, "a reply of 358 bytes does not fit msize 300")


@pytest.mark.parametrize("mtime", [-1, 1 << 32])
def test_a_stat_that_cannot_be_packed_is_an_error_and_logged(
    mtime: int, caplog: pytest.LogCaptureFixture
) -> None:
    reply = stat_of(Dir("name", Qid(0, 0, 1), 0, mtime=mtime))
    assert isinstance(reply, m.Rerror) and reply.ename.startswith("internal error")
    assert "bug: " in caplog.text


def test_an_exception_of_a_file_is_an_error_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert stat_of(KeyError("x")) == m.Rerror(1, "internal error: KeyError: 'x'")
    assert re.search(r"bug: Tstat\(.*Traceback.*KeyError", caplog.text, re.DOTALL)


def test_30_messages_wait_while_their_replies_are_not_taken() -> None:
    with playing(limits=Limits(unsent=2_000)) as player:
        player.play(HELLO + "! open 1 out 0")
        player.world.out.stream.append(b"x" * 1000)
        conn, read = player.conn, m.Tread(1, 1, 0, 1000).pack()
        conn.receive(read * 10)
        assert conn.stalled
        taken = []
        while True:
            replies = conn.data_to_send()
            assert sum(map(len, replies)) < 2_000 + 1_011
            taken += replies
            if not conn.stalled:
                break
            conn.resume()
        assert taken == [m.Rread(1, b"x" * 1000).pack()] * 10


def test_an_error_that_was_told_holds_nothing_of_the_calls_that_it_came_through() -> None:
    """A stream keeps the error for whoever reads next."""
    with playing() as player:
        player.play(HELLO)
        player.play("""
            ! open 1 out 0
            ! break out "the engine stopped"
            -> Tread tag 1 fid 1 offset 0 count 9
            <- Rerror tag 1 ename "the engine stopped"
        """)
        error = player.world.out.stream.error
        assert error is not None and error.__traceback__ is None
