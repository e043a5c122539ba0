"""What was typed into a tool, kept for its next run and readable to its owner only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from prompt_toolkit.history import FileHistory

from .failure import Failure


def kept(name: str) -> FileHistory:
    """In `$XDG_STATE_HOME/llambo/NAME`.  Raises Failure when it cannot be kept there."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # which the XDG specification says to ignore
        state = Path(os.path.expanduser("~/.local/state"))
    path = state / "llambo" / name
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError("it is no file")
            os.fchmod(fd, 0o600)
        finally:
            os.close(fd)
    except OSError as e:
        raise Failure(f"what is typed is not kept: {path}: {e.strerror or e}") from None
    return FileHistory(path)
