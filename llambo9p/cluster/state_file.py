"""The state file on disk, and copies of it: whose they are, and that they are whole.

One orchestrator at a time has it, by a lock on the file beside it, `PATH.lock`, which the
kernel ends with the process.  It is replaced as a whole, with mode 0600.  The directory may
be everybody's: what is a link, no regular file or somebody else's is never followed,
believed or replaced.

What it says is `state`'s to know.  Nothing heavy is imported here, for tools read the file, too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import Error

LIMIT = 64 * 2**20
"""bytes that it may have"""


def read(path: Path) -> bytes | None:
    """All of it, None if there is none.  Raises Error when it cannot be believed."""
    try:
        fd = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise Error(f"state file {path} is longer than {LIMIT >> 20} MiB")
    return data


def write(path: Path, data: bytes) -> None:
    """Raises Error, and leaves what was there then."""
    with contextlib.suppress(FileNotFoundError):
        os.close(_open(path, os.O_RDONLY))
    temporary = ""
    try:
        fd, temporary = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as e:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise Error(f"cannot write state file {path}: {e.strerror}") from e


def remove(path: Path) -> None:
    """By who has it."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have the state file.  Raises Error when somebody else has."""
    fd = _open(Path(f"{path}.lock"), os.O_RDWR | os.O_CREAT)
    with os.fdopen(fd, "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = file.read(20).decode(errors="replace").strip()
            raise Error(
                f"state file {path} is that of a running orchestrator (pid {pid}): stop it, or "
                "set $LLAMBO_STATE to another path"
            ) from None
        file.truncate()
        file.write(b"%d\n" % os.getpid())
        yield


def make_private(directory: Path) -> None:
    """A directory for what is ours alone.  Raises Error when there is something else."""
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(0o700)
        status = directory.lstat()
    except OSError as e:
        raise Error(f"cannot make {directory}: {e.strerror}") from e
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise Error(f"{directory} is not a directory of ours")
    if status.st_mode & 0o077:
        raise Error(f"{directory} is open to others: its mode must be 0700")


def _open(path: Path, flags: int) -> int:
    """A file that is ours.  Raises FileNotFoundError, and Error for any other trouble."""
    try:
        # O_NONBLOCK: somebody may have put a fifo there
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        if flags & os.O_CREAT:
            raise Error(f"cannot write state file {path}: no such directory") from None
        raise
    except OSError as e:
        why = "it is a symbolic link" if e.errno == errno.ELOOP else e.strerror
        raise Error(f"not using state file {path}: {why}") from None
    status = os.fstat(fd)
    why = None
    if not stat.S_ISREG(status.st_mode):
        why = "it is not a regular file"
    elif status.st_uid != os.geteuid():
        why = f"it belongs to uid {status.st_uid}, not to us"
    if why is not None:
        os.close(fd)
        raise Error(f"not using state file {path}: {why}")
    return fd
