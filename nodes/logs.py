"""The log of both programs, on stderr or where it is wanted: lines for people, or JSON lines for
programs.

A record may have `fields`, a dict; they follow the message as `name=value`, or are members of
the JSON object.  Times are UTC.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Literal

_PLAIN = re.compile(r"[^\s\"=\\]+")
"""a value that needs no quotes"""


class _Formatter(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__(f"{program}: %(asctime)s %(levelname)s: %(message)s")
        self._program = program

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(_Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        words = [f"{name}={_shown(value)}" for name, value in fields.items()]
        return " ".join([super().formatMessage(record), *words])


def _shown(value: object) -> str:
    """One word, which does nothing to a terminal: what is not plain, as JSON has it."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.isprintable() else json.dumps(text)


class JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "program": self._program,
            "pid": os.getpid(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def start(
    program: str,
    format: Literal["text", "json"] = "text",
    level: str = "info",
    *others: logging.Handler,
) -> None:
    """Log to stderr, and to `others`, like this from now on."""
    handlers = [logging.StreamHandler(sys.stderr), *others]
    for handler in handlers:
        handler.setFormatter({"text": TextFormatter, "json": JsonFormatter}[format](program))
    logging.basicConfig(handlers=handlers, level=level.upper(), force=True)
