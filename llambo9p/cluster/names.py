"""What a host's workers are called here: pure.

A host numbers its workers as if it were alone, and two that were started by hand both begin
at `worker-0000`.  So each is mounted under a name that is free here: its own if all of the
host's are, and otherwise the next numbers of which there are enough in a row.  A host that
was here before wishes for the numbers that it had.  What is being started has its names from
the beginning, whoever registers before it listens.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..conversation.worker_names import number_of, worker_name

_MOUNT = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)
"""no number, those are conversations'"""


def check_mount(name: str) -> str:
    """The name, when something may be mounted under it.  Raises ValueError."""
    if not _MOUNT.fullmatch(name):
        raise ValueError(
            f"bad name {name[:40]!r}: use a letter, then letters, digits, '.', '_' and '-', at "
            "most 64 in all"
        )
    return name


class WholeTree(NamedTuple):
    """A server's whole tree that is mounted under one name, and as whom it is attached."""

    name: str
    user: str = ""
    """the uname of the owner's attach; empty: see `Members`"""
    aname: str = ""


def assign(
    there: Sequence[str], is_free: Callable[[str], bool], first: int | None = None
) -> dict[str, str]:
    """A host's name of each worker -> ours.  `first` is the number that the host wishes the
    first of them to have.  Names that are no worker's stay."""
    numbers = {name: number for name in there if (number := number_of(name)) is not None}
    names = {name: name for name in there if name not in numbers}
    if not numbers:
        return names
    lowest = min(numbers.values())
    for start in (lowest if first is None else first, lowest):
        wished = {name: worker_name(start + n - lowest) for name, n in numbers.items()}
        if all(map(is_free, wished.values())):
            return names | wished
    start = first_free(len(numbers), is_free)
    in_order = sorted(numbers, key=numbers.__getitem__)
    return names | {name: worker_name(start + i) for i, name in enumerate(in_order)}


def assign_again(
    there: Sequence[str],
    had: Mapping[str, str],
    is_free: Callable[[str], bool],
    first: int | None = None,
) -> dict[str, str]:
    """As `assign`, but workers have the names that they `had` here, where these are free."""
    kept = {name: had[name] for name in there if name in had and is_free(had[name])}
    taken = set(kept.values())
    others = [name for name in there if name not in kept]
    return kept | assign(others, lambda name: name not in taken and is_free(name), first)


def first_free(count: int, is_free: Callable[[str], bool]) -> int:
    """The first of `count` numbers in a row whose names are free."""
    first = number = 0
    while number < first + count:
        if not is_free(worker_name(number)):
            first = number + 1
        number += 1
    return first


class Promises:
    """Names of workers that are being started: they are for one host each."""

    def __init__(self) -> None:
        self._hosts: dict[str, str] = {}

    def allow(self, name: str, host: str | None) -> bool:
        """Whether a worker of the host of that name may have it; None for a host that was not
        started here."""
        return self._hosts.get(name, host) == host

    @contextlib.contextmanager
    def kept(self, hosts: Mapping[str, str]) -> Iterator[None]:
        """Inside, these names of workers are for the hosts of those names."""
        self._hosts.update(hosts)
        try:
            yield
        finally:
            for name in hosts:
                del self._hosts[name]
