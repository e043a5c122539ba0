"""`logs/` in the orchestrator's root: what the programs of the cluster say, a file each.

There is one for each host that was started here, by its name, and `orchestrator`.  A log is
read from the oldest byte that was kept when it was opened: offsets count from there, and
stay good when older bytes go.  A read at the end gives 0 bytes, so `cat` ends, and who
reads on there follows.  A reader that is so slow that what he would read next is gone gets the
error of `Stale`, and can open the log again.

For administrators only, as logs tell of all users' requests.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from ..errors import PermissionDenied, Stale
from ..fs.file import File, OpenFile
from ..fs.tree import Directory, SyntheticFile, Tree
from ..fs.user import User
from ..p9.node import Maybe
from .launchers.base import Log

KEPT = 1 << 20
"""bytes of our own log, at least"""


class OwnLog(logging.Handler):
    """The newest lines that this process has logged, wherever its stderr goes."""

    def __init__(self, kept: int = KEPT) -> None:
        super().__init__()
        self._kept = kept
        self._begin = 0
        self._data = bytearray()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode(errors="replace")
        except Exception:
            self.handleError(record)
            return
        self._data += line
        if len(self._data) > 2 * self._kept:
            gone = self._data.rfind(b"\n", 0, len(self._data) - self._kept) + 1
            del self._data[:gone]
            self._begin += gone

    def begin(self) -> int:
        return self._begin

    def read(self, position: int, count: int) -> bytes:
        self.acquire()  # others log on threads of their own
        try:
            at = position - self._begin
            if at < 0:
                raise Stale(f"{Stale.ename}: the log has moved on, open it again")
            return bytes(self._data[at : at + count])
        finally:
            self.release()


class LogsDirectory(Directory):
    """As `user` sees it.  `logs` gives those there are, by name."""

    __slots__ = ("_logs", "_user")

    def __init__(self, tree: Tree, user: User, logs: Callable[[], Mapping[str, Log]]) -> None:
        super().__init__(tree, "logs")
        self._user = user
        self._logs = logs

    def _filled(self) -> dict[str, File]:
        """A file stays the same while its log does."""
        logs = self._logs()
        for name, file in list(self._children.items()):
            if not isinstance(file, LogFile) or file.log is not logs.get(name):
                self.discard(name)
        for name, log in logs.items():
            if name not in self._children:
                self.add(LogFile(self.tree, name, self._user, log))
        return self._children


class LogFile(SyntheticFile):
    __slots__ = ("_user", "log")

    def __init__(self, tree: Tree, name: str, user: User, log: Log) -> None:
        super().__init__(tree, name, 0o444)
        self.log = log
        self._user = user

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        self._user.check_admin("logs")
        begin = self.log.begin()
        return OpenLog(self.log, begin) if isinstance(begin, int) else self._open(begin)

    async def _open(self, begin: Awaitable[int]) -> OpenFile:
        return OpenLog(self.log, await begin)


class OpenLog(OpenFile):
    __slots__ = ("_begin", "_log")

    def __init__(self, log: Log, begin: int) -> None:
        self._log = log
        self._begin = begin

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        return self._log.read(self._begin + offset, count)
