"""Changes a script so that most of it still means something: the fields of its messages,
the steps, where segments end.  Given the same seed it does the same.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.dialects import DIALECTS, P9_2000, Dialect
from llambo9p.p9.framing import Framer, ProtocolError
from llambo9p.p9.wire import BadMessage, Dir, Qid

from .script import Op, Script, Step

NAMES = [
    *("hello", "out", "ctl", "note", "dir", "a", "sub", "leaf", "gate", "vault", "slow"),
    *("late", "bad", "worse", "many", "nobody", "..", ".", "", "a/b", "\u2028", "n" * 200),
]
ANAMES = ["", "slow", "refused", "dir", "slow/leaf", "late", "nobody"]
VERSIONS = [*DIALECTS, "9P2000.x", "9P", "unknown", ""]
MSIZES = [0, 6, 7, 255, 256, 300, 512, 4096, 8192, 65536, 0xFFFF_FFFF]
LENGTHS = [0, 1, 10, 24, 60, 61, 100, 511, 512, 8181, 8192, 1 << 31, (1 << 64) - 1]
MODES = [c.OREAD, c.OWRITE, c.ORDWR, c.OEXEC, c.OTRUNC | c.OWRITE, c.ORCLOSE, c.OAPPEND, 0o1001]


def tags(rng: random.Random) -> int:
    return rng.choice([rng.randrange(6), rng.randrange(6), rng.randrange(300), c.NOTAG])


def fids(rng: random.Random) -> int:
    return rng.choice([rng.randrange(6), rng.randrange(6), rng.randrange(6), c.NOFID])


def names(rng: random.Random) -> tuple[str, ...]:
    return tuple(rng.choice(NAMES) for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 16])))


def _stat(rng: random.Random) -> Dir:
    same = c.DONT_TOUCH_32
    return Dir(
        rng.choice(["", "a"]),
        Qid(c.DONT_TOUCH_8, same, c.DONT_TOUCH_64),
        mode=rng.choice([same, 0o600]),
        length=rng.choice([0, 1, c.DONT_TOUCH_64]),
    )


BY_NAME: dict[str, Callable[[random.Random], Any]] = {
    "tag": tags,
    "oldtag": tags,
    "msize": lambda rng: rng.choice(MSIZES),
    "version": lambda rng: rng.choice(VERSIONS),
    "aname": lambda rng: rng.choice(ANAMES),
    "afid": lambda rng: rng.choice([c.NOFID, c.NOFID, 1]),
    "mode": lambda rng: rng.choice(MODES),
    "flags": lambda rng: rng.choice(MODES),
    "wname": names,
    "stat": _stat,
}
BY_KIND: dict[str, Callable[[random.Random], Any]] = {
    "U8": lambda rng: rng.randrange(256),
    "U16": lambda rng: rng.randrange(1 << 16),
    "U32": lambda rng: rng.choice([rng.choice(LENGTHS) & 0xFFFF_FFFF, rng.getrandbits(32)]),
    "U64": lambda rng: rng.choice([rng.choice(LENGTHS), rng.getrandbits(64)]),
    "Str": lambda rng: rng.choice(NAMES),
    "Data": lambda rng: bytes(rng.choice([0, 1, 10, 600])),
}


def value(rng: random.Random, name: str, kind: str) -> Any:
    """A value that a client might send in this field, or nearly."""
    if name in BY_NAME:
        made = BY_NAME[name](rng)
        return made & 0xFF if kind == "U8" else made
    if name.endswith("fid") or name == "dirfd":
        return fids(rng)
    return BY_KIND[kind](rng)


def of_dialect(rng: random.Random, dialect: Dialect) -> m.Message:
    """A T-message."""
    cls = rng.choice([cls for cls in dialect.by_name.values() if cls.__name__.startswith("T")])
    fields = {name: value(rng, name, kind) for name, kind in cls.kinds.items()}
    return cls(tag=tags(rng), **fields)


def another_field(rng: random.Random, msg: m.Message) -> m.Message:
    kinds = {"tag": "U16", **msg.kinds}
    name, kind = rng.choice(list(kinds.items()))
    if kind in ("QidField", "Qids"):
        return msg
    return dataclasses.replace(msg, **{name: value(rng, name, kind)})


class Mutator:
    """Knows what others sent: the scripts of a corpus."""

    def __init__(self, corpus: Sequence[Script]) -> None:
        self._corpus = corpus

    def mutate(self, script: Script, rng: random.Random) -> Script:
        steps = list(script.steps)
        settings = script.settings if rng.random() < 0.9 else rng.randrange(256)
        for _ in range(rng.choice([1, 1, 2, 3, 5])):
            change = rng.choice(
                [self._field, self._field, self._message, self._message, self._event,
                 self._event, self._splice, self._copy, self._cut, self._join, self._lose,
                 self._garble, self._swap]
            )  # fmt: skip
            change(steps, rng)
        return Script(settings, tuple(steps))

    # -- messages ------------------------------------------------------------------

    def _field(self, steps: list[Step], rng: random.Random) -> None:
        """Another value in one field of one message."""
        at = _some(steps, rng, Op.SEND)
        if at is None:
            return
        dialect = _dialect(steps, at)
        try:
            frames = Framer(1 << 20).feed(steps[at].data)
            i = rng.randrange(len(frames))
            frames[i] = another_field(rng, dialect.unpack(frames[i])).pack()
        except (ProtocolError, BadMessage, ValueError):
            return
        steps[at] = Step(Op.SEND, b"".join(frames))

    def _message(self, steps: list[Step], rng: random.Random) -> None:
        """One more message, or a few in one segment."""
        at = rng.randint(0, len(steps))
        dialect = _dialect(steps, at)
        sent = b"".join(of_dialect(rng, dialect).pack() for _ in range(rng.choice([1, 1, 2, 4])))
        steps.insert(at, Step(Op.SEND, sent))

    def _garble(self, steps: list[Step], rng: random.Random) -> None:
        """A byte is another."""
        at = _some(steps, rng, Op.SEND)
        if at is not None and steps[at].data:
            data = bytearray(steps[at].data)
            data[rng.randrange(len(data))] = rng.randrange(256)
            steps[at] = Step(Op.SEND, bytes(data))

    # -- segments ------------------------------------------------------------------

    def _cut(self, steps: list[Step], rng: random.Random) -> None:
        at = _some(steps, rng, Op.SEND)
        if at is not None:
            data = steps[at].data
            end = rng.randint(0, len(data))
            steps[at : at + 1] = [Step(Op.SEND, data[:end]), Step(Op.SEND, data[end:])]

    def _join(self, steps: list[Step], rng: random.Random) -> None:
        at = _some(steps, rng, Op.SEND)
        if at is not None and at + 1 < len(steps) and steps[at + 1].op is Op.SEND:
            data = steps[at].data + steps.pop(at + 1).data
            steps[at] = Step(Op.SEND, data[:0xFFFF])

    # -- steps ---------------------------------------------------------------------

    def _event(self, steps: list[Step], rng: random.Random) -> None:
        op = rng.choice([Op.SETTLE, Op.SETTLE, Op.SETTLE, Op.TURN, Op.HOLD])
        steps.insert(rng.randint(0, len(steps)), Step(op, arg=_settling(rng)))

    def _lose(self, steps: list[Step], rng: random.Random) -> None:
        """Fewer steps."""
        at = rng.randint(0, len(steps))
        del steps[at : at + rng.choice([1, 1, 2, 8])]

    def _copy(self, steps: list[Step], rng: random.Random) -> None:
        if steps:
            at = rng.randrange(len(steps))
            steps[at:at] = steps[at : at + rng.choice([1, 2, 4])]

    def _swap(self, steps: list[Step], rng: random.Random) -> None:
        if len(steps) > 1:
            at = rng.randrange(len(steps) - 1)
            steps[at], steps[at + 1] = steps[at + 1], steps[at]

    def _splice(self, steps: list[Step], rng: random.Random) -> None:
        """Some steps of somebody else."""
        other = rng.choice(self._corpus).steps
        start = rng.randrange(len(other))
        at = rng.randint(0, len(steps))
        steps[at:at] = other[start : start + rng.choice([1, 2, 4, 8])]


def _settling(rng: random.Random) -> int:
    return rng.randrange(4) | rng.choice([0, 0, 1]) << 5


def _some(steps: Sequence[Step], rng: random.Random, op: Op) -> int | None:
    """The place of one of the steps of a kind."""
    places = [at for at, step in enumerate(steps) if step.op is op]
    return rng.choice(places) if places else None


def _dialect(steps: Sequence[Step], end: int) -> Dialect:
    """What is probably spoken before step `end`: what was last asked for."""
    for step in reversed(steps[:end]):
        for version, dialect in reversed(DIALECTS.items()):
            if step.op is Op.SEND and version.encode() in step.data:
                return dialect
    return P9_2000
