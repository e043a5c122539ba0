"""The codec against its oracle, plan9port's C codec as `py9p` carries it: for every
message our bytes are its bytes, and each reads what the other wrote.

The oracle's offsets and lengths are signed, so values from 2**63 on (a wstat's
"don't touch" is one) are only checked against ourselves.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import py9p
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llambo9p.p9 import messages as m
from llambo9p.p9.dialects import DIALECTS, P9_2000, P9_2000_L, P9_2000_U, Dialect
from llambo9p.p9.text import format, parse
from llambo9p.p9.wire import Dir, Qid, pack_dir, unpack_dirs

from . import strategies

CLASSES = list(P9_2000.by_name.values())
SIGNED = 1 << 63


def theirs(value: Any) -> Any:
    """Our message, Dir or Qid as the oracle's."""
    match value:
        case Qid():
            return py9p.Qid(*value)
        case tuple():
            return tuple(theirs(v) for v in value)
        case m.Message() | Dir():
            cls = getattr(py9p, type(value).__name__)
            names = [f.name for f in dataclasses.fields(value) if not f.name.startswith("n_")]
            return cls(**{name: theirs(getattr(value, name)) for name in names})
    return value


def oracle_can_hold(msg: Any) -> bool:
    stat = getattr(msg, "stat", None)
    return getattr(msg, "offset", 0) < SIGNED and (stat is None or stat.length < SIGNED)


def test_the_table_is_the_oracles() -> None:
    their_types = {cls.__name__: int(t) for t, cls in py9p.messages.MESSAGE_CLASSES.items()}
    assert {cls.__name__: cls.number for cls in CLASSES} == their_types


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_every_message_is_the_same_to_us_and_to_the_oracle(
    cls: type[m.Message], data: st.DataObject
) -> None:
    msg = data.draw(strategies.of_class(cls))
    frame = msg.pack()
    assert P9_2000.unpack(frame) == msg
    assume(oracle_can_hold(msg))
    assert py9p.decode_message(frame) == theirs(msg)
    assert theirs(msg).to_bytes() == frame


@given(strategies.dirs)
def test_a_directory_entry_is_the_same_to_us_and_to_the_oracle(entry: Dir) -> None:
    raw = pack_dir(entry)
    assert unpack_dirs(raw) == [entry]
    assume(entry.length < SIGNED)
    assert theirs(entry).to_bytes() == raw
    assert py9p.Dir.from_bytes(raw) == theirs(entry)


@given(st.lists(strategies.dirs, max_size=5))
def test_a_directory_read_is_its_entries_one_after_the_other(entries: list[Dir]) -> None:
    assert unpack_dirs(b"".join(map(pack_dir, entries))) == entries


@given(strategies.dirs, st.data())
def test_a_broken_directory_entry_is_a_value_error(entry: Dir, data: st.DataObject) -> None:
    raw = pack_dir(entry)
    cut = data.draw(st.integers(1, len(raw) - 1))
    with pytest.raises(ValueError, match="malformed directory entry"):
        unpack_dirs(raw[:cut])


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=str)
@given(data=st.data())
def test_the_text_form_says_everything(dialect: Dialect, data: st.DataObject) -> None:
    msg = data.draw(strategies.of_dialect(dialect))
    line = format(msg)
    assert line.isprintable()
    assert parse(line, dialect) == msg


@pytest.mark.parametrize("dialect", [P9_2000_U, P9_2000_L], ids=str)
@given(data=st.data())
def test_a_message_of_another_dialect_is_read_as_it_was_written(
    dialect: Dialect, data: st.DataObject
) -> None:
    msg = data.draw(strategies.of_dialect(dialect))
    assert dialect.unpack(msg.pack()) == msg


# what Linux 6.1 sends: written by hand from net/9p/client.c, p9pdu_writef's formats
@pytest.mark.parametrize(
    ("dialect", "line", "frame"),
    [
        (P9_2000_U, 'Tattach tag 1 fid 0 afid NOFID uname "nobody" aname "" n_uname NONUNAME',
         "1d000000 68 0100 00000000 ffffffff 0600 6e6f626f6479 0000 ffffffff"),
        (P9_2000_U, 'Rerror tag 2 ename "no" errno 2', "0f000000 6b 0200 0200 6e6f 02000000"),
        (P9_2000_L, "Rlerror tag 2 ecode 2", "0b000000 07 0200 02000000"),
        (P9_2000_L, "Tgetattr tag 3 fid 1 request_mask 2047",
         "13000000 18 0300 01000000 ff07000000000000"),
        (P9_2000_L, "Treaddir tag 4 fid 1 offset 2 count 512",
         "17000000 28 0400 01000000 0200000000000000 00020000"),
        (P9_2000_L, 'Tlcreate tag 5 fid 1 name "a" flags 577 mode 0o644 gid 0',
         "1a000000 0e 0500 01000000 0100 61 41020000 a4010000 00000000"),
        (P9_2000_L, 'Tunlinkat tag 6 dirfd 1 name "a" flags 0',
         "12000000 4c 0600 01000000 0100 61 00000000"),
        (P9_2000_L, "Tfsync tag 7 fid 1 datasync 0", "0f000000 32 0700 01000000 00000000"),
        (P9_2000_L, 'Txattrwalk tag 8 fid 1 newfid 2 name "user.a"',
         "17000000 1e 0800 01000000 02000000 0600 757365722e61"),
    ],
)  # fmt: skip
def test_known_frames(dialect: Dialect, line: str, frame: str) -> None:
    raw = bytes.fromhex(frame)
    assert parse(line, dialect).pack() == raw
    assert format(dialect.unpack(raw)) == line


def test_the_text_form_reads_as_documented() -> None:
    for line in [
        "Tread tag 3 fid 1 offset 0 count 512",
        'Twalk tag 1 fid 0 newfid 2 wname ["worker-0000" "out"]',
        r'Rread tag 3 data "half a caf\xc3"',
        "Ropen tag 4 qid (d 0 17) iounit 8168",
        'Tversion tag NOTAG msize 8192 version "9P2000"',
        'Tattach tag 0 fid 0 afid NOFID uname "glenda" aname ""',
        'Rstat tag 1 stat {name "out" qid (- 0 7) mode 0o444 uid "glenda"}',
    ]:
        assert format(parse(line)) == line


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Tnone tag 1",
        "Tclunk tag 1",
        "Tclunk tag 1 fid",
        "Tclunk tag x fid 1",
        "Tclunk tag 1 fid 1 fid 2",
        "Tclunk fid 1 tag 1",
        'Rerror tag 1 ename "open',
        "Rread tag 1 data abc",
        "Rattach tag 1 qid (z 0 1)",
        "Rattach tag 1 qid (d 0 1",
        'Rstat tag 1 stat {name "a"}',
        "Rstat tag 1 stat {colour 3",
        'Twalk tag 1 fid 0 newfid 1 wname ["a"',
    ],
)
def test_a_line_that_is_no_message_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError):
        parse(line)
