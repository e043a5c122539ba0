"""An input of the fuzzer: what a client sends in which segments, and what happens meanwhile.

A script is bytes, so that a fuzzer may mutate it, and any bytes are one: a byte of
settings, and then steps.

    SEND n[2] bytes[n]     a segment arrives
    SETTLE which           a call of the tree that waits comes to its end
    TURN                   calls that were cancelled learn it
    HOLD                   the client stops reading its replies, or goes on
    LOST                   the connection is gone
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Op(enum.IntEnum):
    SEND = 0
    SETTLE = 1
    TURN = 2
    HOLD = 3
    LOST = 4


@dataclass(frozen=True, slots=True)
class Step:
    op: Op
    data: bytes = b""
    """of SEND"""
    arg: int = 0
    """of SETTLE: which call (low 5 bits) and how it ends (the others)"""


@dataclass(frozen=True, slots=True)
class Script:
    settings: int
    steps: tuple[Step, ...]


def unpack(raw: bytes) -> Script:
    """The script that any bytes are; what is cut off at the end is left out."""
    steps = []
    at, end = 1, len(raw)
    while at < end:
        op = Op(raw[at] % len(Op))
        at += 1
        if op is Op.SEND:
            n = int.from_bytes(raw[at : at + 2], "little")
            at += 2
            steps.append(Step(op, raw[at : at + n]))
            at += n
        elif op is Op.SETTLE:
            if at < end:
                steps.append(Step(op, arg=raw[at]))
            at += 1
        else:
            steps.append(Step(op))
    return Script(raw[0] if raw else 0, tuple(steps))


def pack(script: Script) -> bytes:
    parts = [bytes([script.settings])]
    for step in script.steps:
        parts.append(bytes([step.op]))
        if step.op is Op.SEND:
            parts.append(len(step.data).to_bytes(2, "little") + step.data)
        elif step.op is Op.SETTLE:
            parts.append(bytes([step.arg]))
    return b"".join(parts)


def describe(script: Script) -> Iterable[str]:
    """For people: a line a step."""
    yield f"settings {script.settings:#04x}"
    for step in script.steps:
        match step.op:
            case Op.SEND:
                yield f"send {step.data.hex()}"
            case Op.SETTLE:
                yield f"settle {step.arg:#04x}"
            case _:
                yield step.op.name.lower()
