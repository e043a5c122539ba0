"""What `top` shows, as lines of so many columns: pure.

Everything is cut to the terminal that there is.  The table of workers gets the rows that are
left, and the columns that fit, the most important ones first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rich.text import Text

from ..workers import Worker
from .sample import Host, Load

_STATES = {
    "healthy": "green",
    "degraded": "yellow",
    "draining": "cyan",
    "lost": "red",
    "unhealthy": "red",
    "no workers": "yellow",
}
_LABEL = 10
_MANY = 120
"""columns beyond which a bar does not grow"""
_FEW_ROWS, _MANY_ROWS = 16, 36
"""of a terminal that has no room for hosts, and of one that has some for events"""
_SPARKS = {True: " .:-=+*#%@", False: " ▁▂▃▄▅▆▇█"}
_BAR = {True: ("#", "."), False: ("█", "░")}

Orders = dict[str, Callable[[Worker, float], tuple[object, ...]]]
ORDERS: Orders = {
    "load": lambda w, rate: (-w.load, -w.queued, -rate, w.name),
    "tokens/s": lambda w, rate: (-rate, -w.load, w.name),
    "requests": lambda w, rate: (-w.requests, w.name),
    "errors": lambda w, rate: (-w.errors, -w.load, w.name),
    "name": lambda w, rate: (w.name,),
}
"""in which workers can be shown"""


@dataclass(slots=True)
class View:
    """What the user has chosen, and where he is."""

    order: str = next(iter(ORDERS))
    top: int = 0
    """the first worker that is shown"""
    page: int = 1
    """how many were, when it was last drawn"""

    def press(self, key: str) -> None:
        """`top` may be beyond the end then; drawing says what is."""
        match key:
            case "s":
                names = list(ORDERS)
                self.order = names[(names.index(self.order) + 1) % len(names)]
                self.top = 0
            case "up" | "k":
                self.top -= 1
            case "down" | "j":
                self.top += 1
            case "pgup":
                self.top -= self.page
            case "pgdn" | " ":
                self.top += self.page
            case "home":
                self.top = 0
            case "end":
                self.top = 1 << 30
        self.top = max(self.top, 0)


@dataclass(frozen=True, slots=True)
class Picture:
    """All that there is to show."""

    address: str
    load: Load
    history: Sequence[float]
    """tokens a second, the newest last"""
    events: Sequence[Mapping[str, object]] = ()
    """the newest last"""
    trouble: str = ""
    """why there is nothing newer"""


@dataclass(slots=True)
class Screen:
    """`width` x `height` characters; `ascii` for a terminal that has no others."""

    width: int
    height: int
    ascii: bool = False
    _lines: list[Text] = field(default_factory=list)

    def draw(self, picture: Picture, view: View) -> Text:
        """At most `height` lines; `view` is told what it shows."""
        self._lines = []
        self._title(picture)
        self._summary(picture)
        hosts = picture.load.hosts
        if self.height >= _FEW_ROWS and hosts:
            self._hosts(hosts)
        events = self._events(picture.events)
        rows = self.height - len(self._lines) - len(events) - 3
        self._lines.append(Text())
        self._workers(picture.load, view, max(rows, 1))
        while len(self._lines) < self.height - len(events) - 1:
            self._lines.append(Text())
        self._lines += events
        self._lines.append(self._keys(picture, view))
        if picture.trouble:
            for line in self._lines[1:]:
                line.stylize("dim")
        text = Text("\n").join(self._cut(line) for line in self._lines[: self.height])
        text.no_wrap, text.overflow = True, "crop"
        return text

    def _cut(self, line: Text) -> Text:
        line.truncate(self.width, overflow="ellipsis" if not self.ascii else "crop")
        return line

    def _both_ends(self, left: Text, right: Text) -> Text:
        """`right` is left out where it does not fit."""
        room = self.width - left.cell_len - right.cell_len
        return left if room < 2 else Text.assemble(left, " " * room, right)

    # -- above the tables -----------------------------------------------------------

    def _title(self, picture: Picture) -> None:
        sample = picture.load.sample
        if picture.trouble:
            # without what to do about it, for we try again
            what = picture.trouble.partition("; ")[0].partition(". ")[0]
            self._lines.append(Text(what, "bold red"))
            return
        words = Text.assemble((picture.address, "bold"), "  ")
        words.append(sample.state, f"bold {_STATES[sample.state]}")
        words.append(f"  {sample.strategy}")
        if sample.started is not None:
            words.append(f"  up {duration(sample.at - sample.started)}")
        clock = Text(time.strftime("%H:%M:%S", time.localtime(sample.at)), "dim")
        self._lines.append(self._both_ends(words, clock))

    def _summary(self, picture: Picture) -> None:
        load, sample = picture.load, picture.load.sample
        states = [(n, state) for state, n in sample.health.items() if n or state == "healthy"]
        workers = _label("Workers")
        for n, state in states:
            workers.append(f"{n:,} ", "bold")
            workers.append(f"{state}   ", _STATES[state] if n else "")
        requests = _label("Requests")
        for number, what, style in (
            (sample.active, "active", ""),
            (sample.waiting, "waiting", "yellow" if sample.waiting else ""),
            (sample.done, "done", ""),
            (sample.failed, "failed", "red" if sample.failed else ""),
        ):
            requests.append(f"{number:,} ", "bold")
            requests.append(f"{what}   ", style)
        lately = [] if load.first_token is None else [f"first token {seconds(load.first_token)}"]
        lately += [f"cached {sample.cached:.0%}"] if sample.cached else []
        for words in lately:
            if requests.cell_len + len(words) <= self.width:
                requests.append(f"{words}   ", "dim")
        rate = f"{load.tokens_per_second:,.1f}"
        tokens = _label("Tokens/s")
        tokens.append(rate, "bold")
        tokens.append(" " * max(9 - len(rate), 2))
        room = min(self.width, _MANY) - tokens.cell_len - _LABEL - 2
        highest = max(picture.history, default=0.0)
        tokens.append(sparkline(picture.history, room, self.ascii).rjust(room), "green")
        if highest:
            tokens.append(f"  max {highest:,.1f}", "dim")
        busy = sum(host.busy for host in load.hosts)
        slots = sum(host.slots for host in load.hosts)
        used = _label("Slots")
        used.append(f"{busy:,}/{slots:,}", "bold")
        used.append(" " * max(9 - len(f"{busy:,}/{slots:,}"), 2))
        used.append(self._bar(busy, slots, room))
        self._lines += [workers, requests, tokens, used]

    def _bar(self, busy: int, slots: int, room: int) -> Text:
        if room < 1 or not slots:
            return Text()
        share = min(busy / slots, 1.0)
        full = min(max(round(share * room), busy > 0), room)
        colour = "red" if share >= 0.9 else "yellow" if share >= 0.7 else "green"
        used, free = _BAR[self.ascii]
        return Text.assemble((used * full, colour), (free * (room - full), "dim"))

    # -- the tables -----------------------------------------------------------------

    def _hosts(self, hosts: Sequence[Host]) -> None:
        shown = hosts[: max((self.height - 12) // 4, 1)]
        header, *lines = table(_HOSTS, shown, self.width)
        if len(shown) < len(hosts):
            more = Text(f"busiest {len(shown)} of {len(hosts):,}", "dim")
            header = self._both_ends(header, more)
        room = min(self.width, _MANY) - max(line.cell_len for line in lines) - 2
        for host, line in zip(shown, lines, strict=True):
            line.append("  ").append_text(self._bar(host.busy, host.slots, room))
        self._lines += [Text(), header, *lines]

    def _workers(self, load: Load, view: View, rows: int) -> None:
        order = ORDERS[view.order]
        workers = sorted(
            ((worker, load.rates[worker.name]) for worker in load.sample.workers),
            key=lambda row: order(*row),
        )
        view.page = rows
        view.top = max(min(view.top, len(workers) - rows), 0)
        self._lines += table(_WORKERS, workers[view.top : view.top + rows], self.width)
        if not workers:
            words = "start some with `llamboctl spawn --count 4`"
            self._lines.append(Text(words, "dim"))

    # -- below them -------------------------------------------------------------------

    def _events(self, events: Sequence[Mapping[str, object]]) -> list[Text]:
        rows = 1 if self.height < _MANY_ROWS else 4
        return [self._cut(event(e)) for e in events[-rows:]] if self.height > 8 else []

    def _keys(self, picture: Picture, view: View) -> Text:
        count = len(picture.load.sample.workers)
        keys = Text()
        arrows = "up/down" if self.ascii else "↑↓"
        for key, what in (("q", "quit"), ("s", f"sort: {view.order}"), (arrows, "scroll")):
            keys.append(key, "bold")
            keys.append(f" {what}   ", "dim")
        last = min(view.top + view.page, count)
        where = f"{view.top + 1:,}-{last:,} of {count:,}" if count else ""
        return self._both_ends(keys, Text(where, "dim"))


Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class _Column(Generic[Row]):
    title: str
    important: int
    """the least is left out last"""
    cell: Callable[[Row], str]
    style: Callable[[Row], str] = lambda row: ""
    left: bool = False
    width: int = 0
    """at least, so that what changes does not shake the table"""


_HOSTS: Sequence[_Column[Host]] = (
    _Column("HOST", 0, lambda h: _short(h.name), left=True),
    _Column("TYPE", 5, lambda h: h.type[:14], left=True),
    _Column("WORKERS", 4, lambda h: f"{h.workers:,}"),
    _Column("WAIT", 2, lambda h: f"{h.waiting:,}",
            style=lambda h: "yellow" if h.waiting else ""),
    _Column("TOK/S", 3, lambda h: f"{h.tokens_per_second:,.1f}", width=7),
    _Column("SLOTS", 1, lambda h: f"{h.busy}/{h.slots}"),
)  # fmt: skip
_WORKERS: Sequence[_Column[tuple[Worker, float]]] = (
    _Column("WORKER", 0, lambda w: _short(w[0].name), left=True),
    _Column("TYPE", 9, lambda w: w[0].type[:14], left=True),
    _Column("STATE", 2, lambda w: w[0].does, left=True, width=7,
            style=lambda w: "dim" if w[0].does == "idle" else ""),
    _Column("LOAD", 1, lambda w: f"{w[0].load:,}"),
    _Column("WAIT", 5, lambda w: f"{w[0].queued:,}",
            style=lambda w: "yellow" if w[0].queued else ""),
    _Column("TOK/S", 3, lambda w: f"{w[1]:,.1f}"),
    _Column("REQUESTS", 6, lambda w: f"{w[0].requests:,}"),
    _Column("TOKENS", 8, lambda w: f"{w[0].tokens:,}"),
    _Column("ERRORS", 7, lambda w: f"{w[0].errors:,}",
            style=lambda w: "red" if w[0].errors else ""),
    _Column("HEALTH", 4, lambda w: w[0].health, left=True,
            style=lambda w: _STATES.get(w[0].health, "")),
    _Column("HOST", 10, lambda w: _short(w[0].host), left=True),
    _Column("MODEL", 11, lambda w: _short(w[0].model.rpartition("/")[2]), left=True),
)  # fmt: skip


def table(columns: Sequence[_Column[Row]], rows: Sequence[Row], room: int) -> list[Text]:
    """A header and a line a row, with the columns that fit."""
    cells = [[column.cell(row) for row in rows] for column in columns]
    widths = [
        max(len(column.title), column.width, *map(len, column_cells), 0)
        for column, column_cells in zip(columns, cells, strict=True)
    ]
    lines = [Text(style="bold"), *(Text() for _ in rows)]
    for i in _chosen([column.important for column in columns], widths, room):
        column = columns[i]
        words = [(column.title, ""), *zip(cells[i], map(column.style, rows), strict=True)]
        for line, (word, style) in zip(lines, words, strict=True):
            line.append("  " if line else "")
            line.append(word.ljust(widths[i]) if column.left else word.rjust(widths[i]), style)
    return lines


def _chosen(important: Sequence[int], widths: Sequence[int], room: int) -> list[int]:
    """The numbers of the columns that are shown, in their order."""
    chosen: list[int] = []
    used = -2
    for i in sorted(range(len(widths)), key=important.__getitem__):
        if used + 2 + widths[i] > room and chosen:
            break
        chosen.append(i)
        used += 2 + widths[i]
    return sorted(chosen)


def _short(name: str) -> str:
    """At most 24 characters; what tells names apart is at their end."""
    return name if len(name) <= 24 else "~" + name[-23:]


def sparkline(history: Sequence[float], room: int, ascii: bool = False) -> str:
    """The newest values that fit, against the highest of them all; the newest is at the right."""
    blocks = _SPARKS[ascii]
    highest = max(history, default=0.0)
    newest = list(history)[-room:] if room > 0 else []
    if not highest:
        return blocks[1 if not ascii else 0] * len(newest)
    steps = len(blocks) - 1
    return "".join(blocks[max(round(value / highest * steps), 1)] for value in newest)


def event(e: Mapping[str, object]) -> Text:
    """One line of `events`, for people."""
    at, kind = e.get("time"), str(e.get("kind", ""))
    clock = time.strftime("%H:%M:%S", time.localtime(at)) if isinstance(at, float | int) else ""
    bad = kind.endswith((".failed", ".lost", ".ended")) or "error" in e
    text = Text.assemble((f"{clock} ", "dim"), (kind, "red" if bad else "cyan"))
    for name, value in e.items():
        if name not in ("seq", "time", "kind", "epoch"):
            text.append(f" {name}=", "dim")
            text.append(_plain(str(value)))
    return text


def duration(seconds: float) -> str:
    """Its two greatest units."""
    whole = max(int(seconds), 0)
    units = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
    at = next((i for i, (size, _) in enumerate(units) if whole >= size), 3)
    words = []
    for size, unit in units[at : at + 2]:
        words.append(f"{whole // size}{unit}")
        whole %= size
    return " ".join(words)


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _label(word: str) -> Text:
    return Text(word.ljust(_LABEL))


def _plain(text: str) -> str:
    """Nothing that does anything to a terminal."""
    return "".join(ch if ch.isprintable() else "\ufffd" for ch in text)

