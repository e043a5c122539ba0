"""What fuzzing begins with: the recorded conversations, and for each dialect two as no real
client has them, which ask everything of every file, and which leave before the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llambo9p.p9 import constants as c
from llambo9p.p9 import dialects as d
from llambo9p.p9 import messages as m
from llambo9p.p9.text import parse, parse_bytes
from llambo9p.p9.wire import Dir, Qid
from tests.p9.recording import RECORDED

from .script import Op, Script, Step
from .tree import Site

ROOT, FID = 0, 1


def recorded(path: Path) -> Script:
    """What the client of a recorded conversation sent."""
    steps: list[Step] = []
    dialect = d.P9_2000
    last = ""
    for line in path.read_text().splitlines():
        mark, _, text = line.partition(" ")
        if mark == "->":
            frame = parse_bytes(text, dialect)
            if last == mark:
                frame = steps.pop().data + frame
            steps.append(Step(Op.SEND, frame))
            if text.startswith("Tversion"):
                asked = parse(text)
                assert isinstance(asked, m.Tversion)
                dialect = d.negotiated(asked.version) or dialect
        elif line == "! lost":
            steps.append(Step(Op.LOST))
        last = mark
    return Script(0, tuple(steps))


def everything(dialect: d.Dialect) -> Script:
    """Each call that waits is settled before the next message, but for a Tflush."""
    msgs = _hello(dialect)
    for file in Site().root.children:
        msgs += _all_of(file.name, dialect)
    steps: list[Step] = []
    for msg in msgs:
        send = Step(Op.SEND, msg.pack())
        if isinstance(msg, m.Tflush):
            steps[-1:] = [send, Step(Op.TURN)]
        else:
            steps += [send, Step(Op.SETTLE)]
    return Script(0, tuple(steps))


def _all_of(name: str, dialect: d.Dialect) -> Iterator[m.Message]:
    """The life of a fid, and messages of the dialect that change the file."""
    unix = dialect is d.P9_2000_L
    same = c.DONT_TOUCH_32
    touch = Dir("", Qid(0xFF, same, c.DONT_TOUCH_64), same, length=0)
    yield m.Twalk(1, ROOT, FID, (name,))
    if unix:
        yield d.Tgetattr(2, FID, 0x7FF)
        yield d.Tsetattr(3, FID, 0x68, 0, 0, 0, 0, 0, 0, 0, 0)
    else:
        yield m.Tstat(2, FID)
        yield dialect.of(m.Twstat(3, FID, touch))
    for mode in (c.ORDWR, c.OREAD):  # a directory refuses the first
        yield d.Tlopen(4, FID, mode) if unix else m.Topen(4, FID, mode)
    for count in (10, 4096):  # no entry of a directory is as small as the first
        yield d.Treaddir(5, FID, 0, count) if unix else m.Tread(5, FID, 0, count)
    if unix:
        yield d.Tfsync(5, FID, 0)
    yield m.Tread(6, FID, 5, 10)
    yield m.Tflush(7, 6)
    yield m.Twrite(8, FID, 0, b"text")
    yield m.Tclunk(9, FID)
    yield m.Twalk(1, ROOT, FID, (name,))
    if unix:
        yield d.Tlcreate(2, FID, "new", 0, 0o600, 0)
        yield d.Tunlinkat(3, FID, "leaf", 0)
        yield d.Tmkdir(4, FID, "new", 0o700, 0)
    else:
        yield dialect.of(m.Tcreate(2, FID, "new", 0o600, c.ORDWR))
    yield m.Twalk(5, FID, FID, ("..", "leaf"))
    yield m.Tremove(6, FID)


def late(dialect: d.Dialect) -> Script:
    """Each call that makes something ends only when the connection was reset."""
    unix = dialect is d.P9_2000_L
    walks = [m.Twalk(2, ROOT, FID, (name,)) for name in ("vault", "late", "slow")]
    create = (
        d.Tlcreate(3, FID, "new", c.ORDWR, 0o600, 0)
        if unix
        else dialect.of(m.Tcreate(3, FID, "new", 0o600, c.ORDWR))
    )
    tries: list[list[m.Message]] = [
        [dialect.of(m.Tattach(2, FID, c.NOFID, "glenda", "slow"))],
        [walks[0], d.Tlopen(3, FID, c.ORDWR) if unix else m.Topen(3, FID, c.ORDWR)],
        [walks[1]],
        [walks[2], create],
        [walks[2], m.Twalk(3, FID, 2, ("leaf",))],
    ]
    steps = []
    for msgs in tries:
        for msg in [*_hello(dialect), *msgs, m.Tversion(c.NOTAG, 8192, dialect.version)]:
            steps.append(Step(Op.SEND, msg.pack()))
        steps.append(Step(Op.SETTLE))
    return Script(0, tuple(steps))


def _hello(dialect: d.Dialect) -> list[m.Message]:
    attach = dialect.of(m.Tattach(1, ROOT, c.NOFID, "glenda", ""))
    return [m.Tversion(c.NOTAG, 8192, dialect.version), attach]


SCRIPTS = {path.stem: recorded(path) for path in RECORDED}
"""by name"""
for _dialect in d.DIALECTS.values():
    SCRIPTS[f"everything-{_dialect.version}"] = everything(_dialect)
    SCRIPTS[f"late-{_dialect.version}"] = late(_dialect)
