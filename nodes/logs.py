"""The log of both programs, on stderr or where it is wanted: lines for people, or JSON lines for
programs.

A record may have `fields`, a dict; they follow the message as `name=value`, or are members of
the JSON object.  Times are UTC.

The log is bounded whatever clients do.  What they wrote is cut, and shown without control
characters.  Of one cause (a place in the code, and the class of an exception) `BURST` records are
logged in `WINDOW_S` seconds; the others are counted, and told as one.  Records with `fields` are
the account of a request each, and are all logged.  A file that stderr goes to is kept to
`FILE_BYTES`, and as much of before in `NAME.1`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TextIO

_PLAIN = re.compile(r"[^\s\"=\\]+")
"""a value that needs no quotes"""
MESSAGE_CHARS = 2_000
"""of a message that are logged"""
FIELD_CHARS = 500
TRACEBACK_CHARS = 8_000
"""of a traceback: its end"""
BURST = 20
WINDOW_S = 10.0
FILE_BYTES = 1 << 20


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def _harmless(text: str) -> str:
    """The text without control characters; further lines are indented, so that none looks like
    the beginning of a record."""
    if text.isprintable():
        return text
    lines = text.split("\n")
    return "\n    ".join(
        "".join(ch if ch.isprintable() else ascii(ch)[1:-1] for ch in line) for line in lines
    )


class _Formatter(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__(f"{program}: %(asctime)s %(levelname)s: %(message)s")
        self._program = program

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def formatException(self, ei: object) -> str:
        text = super().formatException(ei)  # type: ignore[arg-type]
        return text if len(text) <= TRACEBACK_CHARS else f"... {text[-TRACEBACK_CHARS:]}"


class TextFormatter(_Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _harmless(_cut(record.message, MESSAGE_CHARS))
        fields = getattr(record, "fields", {})
        words = [f"{name}={_shown(value)}" for name, value in fields.items()]
        return " ".join([super().formatMessage(record), *words])


def _shown(value: object) -> str:
    """One word, which does nothing to a terminal: what is not plain, as JSON has it."""
    text = _cut(str(value), FIELD_CHARS)
    return text if _PLAIN.fullmatch(text) and text.isprintable() else json.dumps(text)


class JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "program": self._program,
            "pid": os.getpid(),
            "logger": record.name,
            "message": _cut(record.getMessage(), MESSAGE_CHARS),
            **{
                name: _cut(value, FIELD_CHARS) if isinstance(value, str) else value
                for name, value in fields.items()
            },
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


@dataclass(slots=True)
class _Cause:
    since: float
    """the begin of its window"""
    passed: int = 0
    held: int = 0
    """records that were not logged"""
    last: logging.LogRecord | None = None
    """the newest of those"""
    message: str = ""
    """of that, made at once: what it is about may be gone later"""


class Repeats(logging.Handler):
    """Passes records on to `handlers`, and counts those that one cause has too many of.  `clock`
    gives seconds."""

    def __init__(
        self, handlers: Sequence[logging.Handler], clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._handlers = handlers
        self._clock = clock
        self._causes: dict[tuple[object, ...], _Cause] = {}
        """there are no more than places in the code that log"""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "fields", None) is None and not self._passes(record):
            return
        self._pass_on(record)

    def _passes(self, record: logging.LogRecord) -> bool:
        key = record.pathname, record.lineno, record.exc_info and record.exc_info[0]
        now = self._clock()
        cause = self._causes.get(key)
        if cause is not None and now - cause.since >= WINDOW_S:
            self._tell(cause)
            cause = None
        if cause is None:
            cause = self._causes[key] = _Cause(now)
        if cause.passed < BURST:
            cause.passed += 1
            return True
        cause.held += 1
        cause.last = record
        cause.message = _cut(record.getMessage(), MESSAGE_CHARS // 2)
        return False

    def tell(self) -> None:
        """Log what was only counted."""
        with self.lock or contextlib.nullcontext():
            for cause in list(self._causes.values()):
                self._tell(cause)
            self._causes.clear()

    def _tell(self, cause: _Cause) -> None:
        record, cause.last = cause.last, None
        if record is None:
            return
        told = logging.LogRecord(
            record.name, record.levelno, record.pathname, record.lineno,
            f"repeated {cause.held:,} times, the last one was: {cause.message}", (), None,
        )  # fmt: skip
        self._pass_on(told)

    def _pass_on(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            handler.handle(record)


class StreamToFile(logging.StreamHandler[TextIO]):
    """Logs to `stream`, which goes to the file at `path`, and keeps that small."""

    def __init__(self, stream: TextIO, path: Path) -> None:
        super().__init__(stream)
        self._path = path.absolute()

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        with contextlib.suppress(OSError):
            bound(self._path, self.stream.fileno())


def bound(path: Path, fd: int) -> None:
    """Where the file of `fd`, which is at `path`, has more than `FILE_BYTES`, move its bytes to
    `NAME.1` and let it begin anew.  Whoever writes it must append.  Raises OSError; a file at
    either path that is not ours, or a link, is left alone."""
    if os.fstat(fd).st_size <= FILE_BYTES:
        return
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with open(os.open(path, os.O_RDONLY | flags), "rb") as file:
        if not os.path.samestat(os.fstat(file.fileno()), os.fstat(fd)):
            return
        before = os.open(f"{path}.1", os.O_WRONLY | os.O_CREAT | flags, 0o600)
        with open(before, "wb") as copy:
            status = os.fstat(before)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                return
            os.ftruncate(before, 0)
            file.seek(-FILE_BYTES, os.SEEK_END)
            copy.write(file.read())
    os.ftruncate(fd, 0)


def start(
    program: str,
    format: Literal["text", "json"] = "text",
    level: str = "info",
    *others: logging.Handler,
    file: Path | None = None,
) -> None:
    """Log to stderr, and to `others`, like this from now on.  Stderr goes to `file`, if that is
    given."""
    stderr = logging.StreamHandler(sys.stderr) if file is None else StreamToFile(sys.stderr, file)
    handlers = [stderr, *others]
    for handler in handlers:
        handler.setFormatter({"text": TextFormatter, "json": JsonFormatter}[format](program))
    tell_repeats()
    logging.basicConfig(handlers=[Repeats(handlers)], level=level.upper(), force=True)


def tell_repeats() -> None:
    """Log what was only counted."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Repeats):
            handler.tell()
