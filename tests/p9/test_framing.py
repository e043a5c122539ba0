"""Bug 20: frames split or joined over TCP segments.  One list of streams, each fed
whole, byte by byte, cut anywhere, and with the start of another frame behind it.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.p9.framing import Framer, ProtocolError
from llambo9p.p9.messages import Tclunk, Tflush, Twrite

from . import strategies

MSIZE = 8192

STREAMS = {
    "nothing": [],
    "one": [Tclunk(1, 2).pack()],
    "smallest": [b"\x07\0\0\0\x7a\0\0"],
    "largest": [Twrite(1, 2, 0, bytes(MSIZE - 23)).pack()],
    "many": [Tclunk(i, i).pack() for i in range(100)],
    "mixed": [Tflush(1, 2).pack(), Twrite(3, 4, 0, b"x" * 5000).pack(), Tclunk(5, 6).pack()],
}
every_stream = pytest.mark.parametrize("frames", STREAMS.values(), ids=STREAMS)


@every_stream
def test_20_fed_whole(frames: list[bytes]) -> None:
    assert Framer(MSIZE).feed(b"".join(frames)) == frames


@every_stream
def test_20_fed_byte_by_byte(frames: list[bytes]) -> None:
    framer = Framer(MSIZE)
    stream = b"".join(frames)
    assert [f for i in range(len(stream)) for f in framer.feed(stream[i : i + 1])] == frames


@every_stream
def test_20_fed_with_trailing_data(frames: list[bytes]) -> None:
    framer = Framer(MSIZE)
    last = Tclunk(7, 8).pack()
    assert framer.feed(b"".join(frames) + last[:3]) == frames
    assert framer.feed(last[3:9]) == []
    assert framer.feed(last[9:] + last) == [last, last]


@given(st.lists(strategies.messages, max_size=5), st.data())
def test_20_cut_anywhere(msgs: list[strategies.Message], data: st.DataObject) -> None:
    frames = [msg.pack() for msg in msgs]
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    framer = Framer(MSIZE)
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [f for piece in pieces for f in framer.feed(piece)] == frames


@pytest.mark.parametrize("size", [0, 1, 6, MSIZE + 1, 0xFFFF_FFFF])
def test_20_a_size_that_no_frame_has_ends_the_connection(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"frame of {size} bytes, must be 7 to 8192"):
        Framer(MSIZE).feed(size.to_bytes(4, "little"))


def test_20_a_bad_size_is_seen_before_its_frame_is_collected() -> None:
    framer = Framer(MSIZE)
    assert framer.feed((MSIZE + 1).to_bytes(4, "little")[:3]) == []
    with pytest.raises(ProtocolError):
        framer.feed(b"\0")


def test_the_frames_before_a_bad_size_are_not_lost() -> None:
    framer = Framer(MSIZE)
    frames = STREAMS["mixed"]
    with pytest.raises(ProtocolError) as error:
        framer.feed(b"".join(frames) + bytes(9))
    assert error.value.frames == frames
    assert framer.rest == bytes(9)


def test_a_lowered_msize_holds_for_the_next_frame() -> None:
    framer = Framer(MSIZE)
    framer.msize = 256
    with pytest.raises(ProtocolError, match="7 to 256"):
        framer.feed(Twrite(1, 2, 0, bytes(300)).pack())
