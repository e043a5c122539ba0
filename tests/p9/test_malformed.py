"""Bug 20: whatever bytes a sound frame holds, unpacking gives a message or a
`BadMessage` with the frame's tag; there is no third way out.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.p9 import messages as m
from llambo9p.p9.dialects import P9_2000
from llambo9p.p9.wire import BadMessage

from . import strategies


def frame(type: int, body: bytes, tag: int = 0x1234) -> bytes:
    return (7 + len(body)).to_bytes(4, "little") + bytes([type]) + tag.to_bytes(2, "little") + body


def unpack_or_bad(raw: bytes) -> m.Message | BadMessage:
    try:
        msg = P9_2000.unpack(raw)
    except BadMessage as bad:
        assert bad.tag == int.from_bytes(raw[5:7], "little")
        assert bad.reason
        return bad
    assert msg.pack() == raw, "what is accepted is what the message says, nothing more"
    return msg


@given(st.integers(0, 255), st.binary(max_size=200))
def test_20_random_bodies(type: int, body: bytes) -> None:
    unpack_or_bad(frame(type, body))


@given(strategies.messages, st.data())
def test_20_mutated_messages(msg: m.Message, data: st.DataObject) -> None:
    raw = bytearray(msg.pack())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    unpack_or_bad(bytes(raw))


@given(strategies.messages, st.data())
def test_20_messages_cut_short(msg: m.Message, data: st.DataObject) -> None:
    body = msg.pack()[7:]
    cut = body[: data.draw(st.integers(0, len(body)))]
    result = unpack_or_bad(frame(msg.number, cut, msg.tag))
    assert isinstance(result, BadMessage) == (cut != body)


@given(strategies.messages, st.binary(min_size=1, max_size=9))
def test_20_messages_with_bytes_left_over(msg: m.Message, extra: bytes) -> None:
    result = unpack_or_bad(frame(msg.number, msg.pack()[7:] + extra, msg.tag))
    assert isinstance(result, BadMessage)


def string(raw: bytes, length: int | None = None) -> bytes:
    return (len(raw) if length is None else length).to_bytes(2, "little") + raw


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (frame(99, b""), "unknown message type 99"),
        (frame(106, b""), "unknown message type 106"),
        (frame(m.Tclunk.number, b""), "too short"),
        (frame(m.Tread.number, b"\0" * 15), "too short"),
        (frame(m.Tclunk.number, b"\0" * 5), "1 bytes beyond"),
        (frame(m.Rerror.number, string(b"no\0good")), "NUL"),
        (frame(m.Rerror.number, string(b"caf\xc3")), "utf-8"),
        (frame(m.Rerror.number, string(b"\xed\xa0\x80")), "utf-8"),
        (frame(m.Rerror.number, string(b"abc", 4)), "string of 4 bytes reaches beyond"),
        (frame(m.Rread.number, b"\xff\xff\xff\xff abc"), "data of 4294967295 bytes reaches"),
        (frame(m.Twalk.number, b"\0" * 8 + b"\x11\0" + string(b"a") * 17), "17 names"),
        (frame(m.Rwalk.number, b"\x11\0" + b"\0" * 13 * 17), "17 qids"),
        (frame(m.Rstat.number, b"\x31\0\xff\xff" + b"\0" * 47), "65535 bytes reaches beyond"),
        (frame(m.Rstat.number, b"\x32\0\x2f\0" + b"\0" * 47), "does not match"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_20_each_violation_is_named(raw: bytes, reason: str) -> None:
    with pytest.raises(BadMessage, match=reason) as bad:
        P9_2000.unpack(raw)
    assert bad.value.tag == 0x1234
