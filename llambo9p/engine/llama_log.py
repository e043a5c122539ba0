"""What llama.cpp says: it logs to one callback a process, and errors are kept here.

Nothing reaches stderr.  A failed call is followed by `said`, which goes into the error.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator

import llama_cpp.llama_cpp as lib

_LOG_LEVEL_ERROR = 4
_lines: deque[str] = deque(maxlen=8)


_heard: list[str] | None = None


def _on_log(level: int, text: bytes, _: object) -> None:
    if _heard is not None:
        _heard.append(text.decode(errors="replace"))
    if level == _LOG_LEVEL_ERROR:
        _lines.append(text.decode(errors="replace").strip())


_callback = lib.llama_log_callback(_on_log)
"""kept here: llama.cpp holds only its address"""


def listen() -> None:
    """From now on; what was said before is forgotten."""
    lib.llama_log_set(_callback, None)
    _lines.clear()


def said() -> str:
    """What llama.cpp logged as errors since the last call, as one line."""
    lines = "; ".join(_lines)
    _lines.clear()
    return lines or "llama.cpp gave no reason"


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """All that it logs meanwhile, on whatever thread; not for two at once."""
    global _heard
    _heard = []
    try:
        yield _heard
    finally:
        _heard = None
