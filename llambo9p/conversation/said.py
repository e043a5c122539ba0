"""What another server says of itself, a host or an orchestrator, read like any other input.

Such a server may be broken or hostile, and what it says is used in names of files, sums, sizes and
the state file.  Here is the one reader for its values: each gives a value in a known range, or
raises ValueError that says what is wrong and shows a little of it.  Pure; whoever calls knows the
address, and puts it before the words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..engine.base import State
from ..p9.words import whole_number
from .worker_names import MAX_WORKERS, number_of, worker_name

MANY = 10**6
"""the most requests, slots or hosts that one server can have"""
TOKENS = 2**31
"""more tokens than any text"""
EPOCHS = 2**63
COUNTED = 10**18
"""more than a counter reaches"""
STATUS_BYTES = 1 << 20
"""the most that a file `status` may have"""
WORKERS_BYTES = 4 << 20
"""the most that a file `workers` may have: 10,000 lines"""

HIDDEN = "- - - - - -"
"""in a line of `workers` in place of a worker's state and figures, for a reader who may not see
them: then nothing is known of what others ask there"""

_SHOWN = 40
"""characters of a bad value that an error shows"""
_TIME = re.compile(r"\d{1,15}(\.\d{1,9})?", re.ASCII)
_TYPE = re.compile(r"[A-Za-z][\w-]{0,63}", re.ASCII)
_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_STATES = {*(state.value for state in State), "draining"}


def text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise ValueError(f"not UTF-8 at byte {e.start}") from None


def whole(word: str, most: int = COUNTED) -> int:
    """A whole number from 0 to `most`."""
    number = whole_number(word, high=most)
    if number is None:
        raise ValueError(f"{word[:_SHOWN]!r} is not a whole number 0..{most}")
    return number


def milliseconds(word: str) -> float:
    if not _TIME.fullmatch(word):
        raise ValueError(f"{word[:_SHOWN]!r} is not a time in milliseconds")
    return float(word)


def worker(name: str) -> str:
    """A worker's name, as hosts call theirs: it is a directory's here, too."""
    number = number_of(name)
    if number is None or number >= MAX_WORKERS or name != worker_name(number):
        raise ValueError(f"{name[:_SHOWN]!r} is not a worker's name, worker-0000 and on")
    return name


def node_type(name: str) -> str:
    if not _TYPE.fullmatch(name):
        raise ValueError(f"{name[:_SHOWN]!r} is not the name of a node type")
    return name


def identity(word: str) -> str:
    """An orchestrator's id."""
    if not _ID.fullmatch(word):
        raise ValueError(f"{word[:_SHOWN]!r} is not an orchestrator's id")
    return word


def title(value: str) -> str:
    """One line for people, as a model's name."""
    if not 0 < len(value) <= 256 or not value.isprintable():
        raise ValueError(f"{value[:_SHOWN]!r} is not a printable line of at most 256 characters")
    return value


def each_of(words: Iterable[str], most: int = 10_000) -> list[str]:
    """All of them, if they are no more than `most` and none is there twice."""
    found = list(words)
    if len(found) > most:
        raise ValueError(f"{len(found)} names, where at most {most} are allowed")
    if len(set(found)) < len(found):
        twice = next(word for word in found if found.count(word) > 1)
        raise ValueError(f"{twice[:_SHOWN]!r} is there twice")
    return found


def attributes(file: str) -> dict[str, str]:
    """`attr value` lines; of one that is there twice the last."""
    return {name: value for name, _, value in (line.partition(" ") for line in file.splitlines())}


class WorkerLine(NamedTuple):
    """A line of a host's `workers`."""

    state: str
    active: int
    queued: int
    requests: int
    tokens: int
    errors: int


def worker_lines(lines: Iterable[str]) -> dict[str, WorkerLine]:
    """Of each worker that these lines of `workers` tell of, by its name there."""
    split = [line.split(" ") for line in lines]
    each_of((words[0] for words in split), MAX_WORKERS)
    return {worker(words[0]): _worker_line(words) for words in split}


def _worker_line(words: list[str]) -> WorkerLine:
    """More words may follow: a later version may say more."""
    if len(words) < 7:
        raise ValueError(f"{' '.join(words)[:_SHOWN]!r} is not a line about a worker")
    if words[1:7] == HIDDEN.split(" "):
        return WorkerLine(State.IDLE.value, 0, 0, 0, 0, 0)
    _, state, active, queued, *counted = words[:7]
    if state not in _STATES:
        raise ValueError(f"{state[:_SHOWN]!r} is not a state: {' '.join(sorted(_STATES))}")
    requests, tokens, errors = map(whole, counted)
    return WorkerLine(state, whole(active, MANY), whole(queued, MANY), requests, tokens, errors)
