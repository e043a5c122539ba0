"""What the tracer writes is the two streams, to the last byte, and can be played."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.p9 import messages as m
from llambo9p.p9.dialects import P9_2000, P9_2000_L, P9_2000_U, Dialect
from llambo9p.p9.text import parse_bytes
from llambo9p.p9.trace import LARGEST, Tracer

from . import strategies
from .recording import RECORDED
from .transcript import HELLO

TVERSION = m.Tversion(0xFFFF, 8192, "9P2000").pack()


def spoken(tracer: Tracer, dialect: Dialect) -> None:
    """Let the two sides agree on a dialect."""
    tracer.from_client(m.Tversion(0xFFFF, 8192, dialect.version).pack())
    tracer.from_server(m.Rversion(0xFFFF, 8192, dialect.version).pack())


def streams(lines: list[str], dialect: Dialect = P9_2000) -> dict[str, bytes]:
    """The bytes that each side sent."""
    sent = {"->": b"", "<-": b""}
    for line in lines:
        mark, _, text = line.partition(" ")
        if mark in sent:
            sent[mark] += parse_bytes(text, dialect)
    return sent


def test_a_conversation() -> None:
    tracer, lines = Tracer(), []
    for line in HELLO.split("\n")[1:-1]:
        mark, _, text = line.strip().partition(" ")
        feed = tracer.from_client if mark == "->" else tracer.from_server
        lines += feed(parse_bytes(text))
    lines += tracer.ended()
    assert lines == [*(line.strip() for line in HELLO.split("\n")[1:-1]), "! lost"]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_what_was_recorded_would_be_again(path: Path) -> None:
    tracer, lines = Tracer(), []
    for line in path.read_text().splitlines()[:-1]:
        mark, _, text = line.partition(" ")
        feed = tracer.from_client if mark == "->" else tracer.from_server
        lines += feed(parse_bytes(text, tracer.dialect))
    assert [*lines, *tracer.ended()] == path.read_text().splitlines()


def test_the_dialect_is_that_of_rversion_for_both_sides() -> None:
    tracer = Tracer()
    spoken(tracer, P9_2000_L)
    lopen = bytes.fromhex("0f0000000c0100" + "02000000" + "01800000")
    assert tracer.from_client(lopen) == ["-> Tlopen tag 1 fid 2 flags 32769"]
    assert tracer.from_server(bytes.fromhex("0b000000070100") + b"\x02\0\0\0") == [
        "<- Rlerror tag 1 ecode 2"
    ]


def test_an_unknown_version_changes_nothing() -> None:
    tracer = Tracer()
    spoken(tracer, P9_2000_U)
    tracer.from_server(m.Rversion(0xFFFF, 8192, "unknown").pack())
    assert tracer.dialect is P9_2000_U


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (b"\7\0\0\0\x63\1\0", "hex 07000000630100 # unknown message type 99"),
        (b"\7\0\0\0\x78\1\0", "hex 07000000780100 # bad Tclunk: message is too short"),
    ],
)
def test_a_frame_that_is_no_message_is_shown_in_hex(frame: bytes, line: str) -> None:
    assert Tracer().from_client(frame + TVERSION) == [
        f"-> {line}",
        '-> Tversion tag NOTAG msize 8192 version "9P2000"',
    ]


def test_what_the_text_does_not_say_is_shown_in_hex() -> None:
    """The extension of a 9P2000.u stat, which names what a special file is."""
    tracer = Tracer()
    spoken(tracer, P9_2000_U)
    record = bytes(39) + b"\1\0a" + bytes(6) + b"\4\0b 8 1"[:6] + bytes(12)
    record = len(record).to_bytes(2, "little") + record
    body = bytes(4) + len(record).to_bytes(2, "little") + record
    frame = (7 + len(body)).to_bytes(4, "little") + b"\x7e\1\0" + body
    [line] = tracer.from_client(frame)
    assert line.startswith(f"-> hex {frame.hex()} # more than the text says: Twstat tag 1 fid 0")
    assert streams([line])["->"] == frame


def test_after_a_bad_size_all_is_hex() -> None:
    tracer = Tracer()
    assert tracer.from_server(m.Rclunk(1).pack() + bytes(5)) == [
        "<- Rclunk tag 1",
        f"<- hex 0000000000 # frame of 0 bytes, must be 7 to {LARGEST} (msize)",
    ]
    assert tracer.from_server(m.Rclunk(1).pack()) == [
        "<- hex 07000000790100 # after a frame that was none"
    ]
    assert tracer.from_client(m.Tclunk(1, 2).pack()) == ["-> Tclunk tag 1 fid 2"]
    assert tracer.ended() == ["! lost"]


def test_a_frame_that_is_cut_off_is_shown_at_the_end() -> None:
    tracer = Tracer()
    assert tracer.from_client(TVERSION[:8]) == []
    assert tracer.ended() == [
        f"-> hex {TVERSION[:8].hex()} # a frame that was not finished",
        "! lost",
    ]


def test_long_data_can_be_cut_and_is_then_not_played() -> None:
    tracer = Tracer(max_data=4)
    lines = tracer.from_client(m.Twrite(1, 2, 0, b"four and more").pack())
    lines += tracer.from_server(b"\xff\0\0\0" + b"\x63" + bytes(250))
    assert lines == [
        '-> Twrite tag 1 fid 2 offset 0 data "four"... of 13 bytes',
        "<- hex ff000000... of 255 bytes # unknown message type 99",
    ]
    for line in lines:
        with pytest.raises(ValueError):
            parse_bytes(line[3:])
    assert Tracer(max_data=4).from_client(m.Twrite(1, 2, 0, b"four").pack()) == [
        '-> Twrite tag 1 fid 2 offset 0 data "four"'
    ]


@given(
    st.lists(strategies.messages.map(lambda msg: msg.pack()) | st.binary(max_size=20), max_size=5),
    st.integers(1, 30),
)
def test_the_lines_are_the_stream(parts: list[bytes], size: int) -> None:
    stream = b"".join(parts)
    tracer, lines = Tracer(), []
    for at in range(0, len(stream), size):
        lines += tracer.from_client(stream[at : at + size])
    lines += tracer.ended()
    assert all(line.isprintable() for line in lines)
    assert streams(lines) == {"->": stream, "<-": b""}
