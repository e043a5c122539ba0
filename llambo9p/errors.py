"""Every error that can reach a 9P client, in one hierarchy and one place.

An error knows two things about itself: the string that 9P2000 sends (`ename`)
and the errno that 9P2000.u and 9P2000.L send.  A class carries the standard
string, which Linux maps back to an errno when it is sent verbatim
(net/9p/error.c); an instance may replace it by a sentence that names what was
wrong.  Nothing else in the project spells an error string or picks an errno.

Errors that end a connection are not here: see `llambo9p.p9.framing`.
"""

from __future__ import annotations

import errno
import os
from typing import TypeVar

_E = TypeVar("_E", bound=Exception)


class Error(Exception):
    """Base of all errors answered to a client; by itself an I/O error."""

    ename = "Input/output error"
    errno = errno.EIO

    def __init__(self, ename: str | None = None) -> None:
        if ename:
            self.ename = ename
        super().__init__(self.ename)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.ename!r})"


class NotFound(Error):
    ename = "file does not exist"
    errno = errno.ENOENT


class PermissionDenied(Error):
    ename = "permission denied"
    errno = errno.EACCES


class NotPermitted(Error):
    """What no file of this kind of tree can do, whoever asks."""

    ename = "Operation not permitted"
    errno = errno.EPERM


class NotDirectory(Error):
    ename = "not a directory"
    errno = errno.ENOTDIR


class IsDirectory(Error):
    ename = "Is a directory"
    errno = errno.EISDIR


class Exists(Error):
    ename = "file already exists"
    errno = errno.EEXIST


class UnknownFid(Error):
    ename = "fid unknown or out of range"
    errno = errno.EBADF


class InUse(Error):
    """A fid that is open already, or a newfid that is taken."""

    ename = "file is in use"
    errno = errno.ETXTBSY


class Busy(Error):
    """A queue or a table is full; the same call may succeed later."""

    ename = "Device or resource busy"
    errno = errno.EBUSY


class AddressInUse(Error):
    """Somebody listens there already."""

    ename = "Address already in use"
    errno = errno.EADDRINUSE


class TimedOut(Error):
    ename = "Connection timed out"
    errno = errno.ETIMEDOUT


class Interrupted(Error):
    """The operation was flushed, cancelled, or its fid clunked under it."""

    ename = "Interrupted system call"
    errno = errno.EINTR


class InvalidArgument(Error):
    ename = "Invalid argument"
    errno = errno.EINVAL


class NoSpace(Error):
    ename = "No space left on device"
    errno = errno.ENOSPC


class Stale(Error):
    """A file that was known by its name, which is another's now."""

    ename = "Stale file handle"
    errno = errno.ESTALE


class AuthenticationFailed(Error):
    ename = "authentication failed"
    errno = errno.EPERM


class NotSupported(Error):
    ename = "Operation not supported"
    errno = errno.EOPNOTSUPP


class WorkerLost(Error):
    """The worker or server behind a file went away."""

    ename = "worker is lost"
    errno = errno.EIO


class HostLost(WorkerLost):
    """A host says that its engine does not work any more, for all its workers."""

    ename = "host is lost"


class ConnectionLost(WorkerLost):
    """A connection to it ended, which says nothing of those over other ones."""


class NoConsensus(Error):
    """Of several answers too few came, or could be counted, to make one of them."""

    ename = "no consensus"


class ContextOverflow(InvalidArgument):
    """A prompt that cannot fit the context by itself."""


class Poisonous(InvalidArgument):
    """A request on which hosts die."""


class ModelError(Error):
    """A model file that cannot be loaded or cannot do what was asked."""

    errno = errno.EINVAL


class RemoteError(Error):
    """An Rerror of another server, passed on with its own words."""


_BY_ENAME: dict[str, type[Error]] = {
    cls.ename: cls
    for cls in (
        Error,
        NotFound,
        PermissionDenied,
        NotPermitted,
        NotDirectory,
        IsDirectory,
        Exists,
        UnknownFid,
        InUse,
        Busy,
        AddressInUse,
        TimedOut,
        Interrupted,
        InvalidArgument,
        NoSpace,
        Stale,
        AuthenticationFailed,
        NotSupported,
        WorkerLost,
        HostLost,
        NoConsensus,
    )
}


_BY_ERRNO = {cls.errno: cls.ename for cls in reversed(_BY_ENAME.values())}


def ename_of(errno: int) -> str:
    """The string that 9P2000 has for an errno; the system's words for one without."""
    return _BY_ERRNO.get(errno) or os.strerror(errno)


_LONGEST = 2_000
"""characters of a peer's words that are kept"""


def from_ename(ename: str, errno: int = 0) -> Error:
    """The error that a peer's Rerror stands for; 9P2000.u adds the errno.  Its words go into logs
    and files: they are cut, and what is not printable in them is shown as a space.

    A standard string, alone or with details after `: `, gives its own class, so that
    `except NotFound` works across a connection; any other is kept verbatim in a
    `RemoteError`.
    """
    ename = "".join(ch if ch.isprintable() else " " for ch in ename[:_LONGEST])
    cls = _BY_ENAME.get(ename) or _BY_ENAME.get(ename.partition(": ")[0], RemoteError)
    error = cls(ename)
    if errno and cls is RemoteError:
        error.errno = errno
    return error


def without_frames(error: _E) -> _E:
    """The error, to be kept: without the calls that it came through, which hold what they
    were given, and without those that it was made of."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
