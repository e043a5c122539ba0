"""The state file: where the running cluster listens, for tools on this machine.

A JSON object `{"address", "pid"}`, written atomically with mode 0600 and removed at
shutdown.  A file that is a link or somebody else's is never followed or replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from pathlib import Path

from ..errors import Error


def _check_ours(path: Path) -> None:
    try:
        st = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(st.st_mode):
        raise Error(f"state file {path} is not a regular file")
    if st.st_uid != os.geteuid():
        raise Error(f"state file {path} belongs to uid {st.st_uid}, not to us")


def write(path: Path, address: str) -> None:
    """Say that this process serves the cluster at `address`.  Raises Error."""
    _check_ours(path)
    try:
        fd, temporary = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
        with os.fdopen(fd, "w") as f:
            json.dump({"address": address, "pid": os.getpid()}, f)
            f.write("\n")
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        raise Error(f"cannot write state file {path}: {e.strerror}") from e


def remove(path: Path) -> None:
    """Forget the cluster, if the file is of this process."""
    with contextlib.suppress(OSError, ValueError, Error):
        _check_ours(path)
        if json.loads(path.read_text()).get("pid") == os.getpid():
            path.unlink()
