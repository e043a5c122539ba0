"""How llamboctl shows things: tables, and a bar while models load.

Decoration is for terminals only; into a pipe go plain lines.  rich is imported where it
is used, as most commands end before it would be loaded.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import click

_POLL_S = 0.2


def as_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def stream(chunks: Iterable[bytes], newline: bool = False) -> None:
    """Each piece at once; with `newline` the last line is ended if it is not."""
    last = b""
    out = sys.stdout.buffer
    for last in chunks:
        out.write(last)
        out.flush()
    if newline and not last.endswith(b"\n"):
        out.write(b"\n")
        out.flush()


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest word; the last one is not padded."""
    lines = [[*map(str.upper, header)], *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for i, line in enumerate(lines):
        text = "  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)).rstrip()
        click.secho(text, bold=i == 0)


def attributes(text: str) -> dict[str, str | list[str]]:
    """`attr value` lines; an attribute that comes more than once has a list."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name:
            found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


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
