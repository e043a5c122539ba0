"""What llama.cpp says: it logs to one callback a process, and errors are kept here.

Nothing reaches stderr.  A failed call is followed by `said`, which goes into the error.
"""

from __future__ import annotations

from collections import deque

import llama_cpp.llama_cpp as lib

_LOG_LEVEL_ERROR = 4
_lines: deque[str] = deque(maxlen=8)


def _on_log(level: int, text: bytes, _: object) -> None:
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
