"""How tools show things: tables, JSON, and a bar while models load.

Decoration is for terminals only; into a pipe go plain lines.  rich is imported where it
is used, as most commands end before it would be loaded.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
from py9p.constants import DMDIR
from py9p.messages import Dir

from .prose import Prose

_POLL_S = 0.2
_WORTH = 8
"""characters of a text that are better than none"""
_NUMBER = re.compile(r"\d[\d.,]*( ?[A-Za-z]{1,3}|%)?")
"""with a unit or without"""


def as_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def stream(chunks: Iterable[bytes]) -> None:
    """Each piece at once."""
    out = sys.stdout.buffer
    for data in chunks:
        out.write(data)
        out.flush()


def file(chunks: Iterable[bytes]) -> None:
    """Each piece at once; on a terminal the last line is ended, as that of `out` is not."""
    stream(_ended(chunks) if sys.stdout.isatty() else chunks)


def answer(chunks: Iterable[bytes]) -> None:
    """Each piece at once; on a terminal as Prose, whose last line is ended."""
    stream(_prose(chunks) if sys.stdout.isatty() else chunks)


def _ended(chunks: Iterable[bytes]) -> Iterator[bytes]:
    last = b"\n"
    for chunk in chunks:
        yield chunk
        last = chunk or last
    if not last.endswith(b"\n"):
        yield b"\n"


def _prose(chunks: Iterable[bytes]) -> Iterator[bytes]:
    prose = Prose(lambda: shutil.get_terminal_size().columns)
    last = b""
    try:
        for last in chunks:
            yield prose.add(last)
    finally:  # an answer that fails or is stopped has its last word, too
        stream([prose.rest()])
    if not last.endswith(b"\n"):
        yield b"\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """On a terminal each line is one there."""
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for i, line in enumerate(columns(header, rows, room)):
        click.secho(line, bold=i == 0)


def columns(
    header: Sequence[str], rows: Iterable[Sequence[str]], room: int | None = None
) -> Iterator[str]:
    """Lines with columns as wide as their widest word, numbers to the right.  In a `room`
    stands of each line what fits, but never a part of a number; so the last columns are those
    that one can do without."""
    room = sys.maxsize if room is None else room
    shown: list[list[str]] = []
    end = 0
    for name, *words in zip(header, *rows, strict=True):
        width = max(map(len, (name, *words)))
        end += width + 2 if shown else width
        are_numbers = all(word == "-" or _NUMBER.fullmatch(word) for word in words)
        if end - width + (width if are_numbers else min(width, _WORTH)) > room:
            break
        put = str.rjust if are_numbers else str.ljust
        shown.append([put(word, width) for word in (name.upper(), *words)])
    for line in zip(*shown, strict=True):
        text = "  ".join(line).rstrip()
        yield text if len(text) <= room else text[: room - 1] + "…"


def details(entry: Dir) -> str:
    """What `ls -l` says before the name."""
    bits = "".join(ch if entry.mode >> 8 - i & 1 else "-" for i, ch in enumerate("rwxrwxrwx"))
    kind = "d" if entry.mode & DMDIR else "-"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.mtime))
    return f"{kind}{bits} {entry.uid:8} {entry.length:8} {when} "


def size(n_bytes: int) -> str:
    """For people: 92.5M of 96993280."""
    value, unit = float(n_bytes), ""
    for unit in ("", "K", "M", "G", "T"):
        if value < 1024 or unit == "T":
            break
        value /= 1024
    return f"{value:.1f}{unit}" if unit else str(n_bytes)


def attributes(text: str) -> dict[str, str | list[str]]:
    """`attr value` lines; an attribute that comes more than once has a list."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name:
            found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def words(text: str) -> dict[str, str]:
    """`attr value` lines; of an attribute that comes more than once, all in one."""
    found = attributes(text).items()
    return {name: value if isinstance(value, str) else " ".join(value) for name, value in found}


def cut(usage: Mapping[str, str], max_tokens: str, more: str) -> str:
    """Of an answer that did not end by itself, why; "" for any other.  `max_tokens` is what it
    was allowed, and `more` says how it can have more."""
    if usage.get("finish_reason") != "length":
        return ""
    if usage.get("completion_tokens") == max_tokens:
        return f"cut at max_tokens {max_tokens}; {more}"
    tokens = sum(int(usage.get(name, "0")) for name in ("prompt_tokens", "completion_tokens"))
    return f"cut: the context is full, with {tokens} tokens of prompt and answer"


def logprobs(settings: Mapping[str, str], lines: str) -> dict[str, list[Any]]:
    """What JSON about an answer has of the lines of `logprobs`, if they were asked for."""
    if "logprobs" not in settings:
        return {}
    return {"logprobs": [json.loads(line) for line in lines.splitlines()]}


def numbers(text: str) -> dict[str, int | float | str]:
    """`attr value` lines, where what looks like a number is one."""
    found: dict[str, int | float | str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        found[name] = number(value)
    return found


def number(word: str) -> int | float | str:
    """The number that it is, if it is one."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(word)
    return word


@contextlib.contextmanager
def loading_bar(what: str, loading: Callable[[], dict[str, float]]) -> Iterator[None]:
    """While the body runs, show the percents that `loading` gives, by name; it is called
    on a thread of its own and ends the display by raising.  Nothing off a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    stop = threading.Event()
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = progress.add_task(what, total=None)

    def poll() -> None:
        with contextlib.suppress(click.ClickException):
            while not stop.wait(_POLL_S):
                percents = loading()
                if percents:
                    name, percent = min(percents.items(), key=lambda item: item[1])
                    description = f"loading the model of {name}"
                    progress.update(task, description=description, total=100, completed=percent)

    thread = threading.Thread(target=poll, daemon=True)
    with progress:
        thread.start()
        try:
            yield
        finally:
            stop.set()
