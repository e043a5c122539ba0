"""A process that another one started, which is gone: not our child, so it is known by a file
descriptor of its own, and nobody knows with what status it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from typing import Self

from ...p9.words import whole_number


class Orphan:
    """What of asyncio's `Process` its users need.  Make it with `find`."""

    returncode = None
    """it stays so"""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, self._readable)

    @classmethod
    def find(cls, pid: str, words: Sequence[str]) -> Self | None:
        """The process of ours with that number and, among others, these words in a row on its
        command line, which tell it from those that have had the number since; None when it
        is gone."""
        number = whole_number(pid)
        if not number:
            return None
        try:
            pidfd = os.pidfd_open(number)
        except OSError:
            return None
        # from here on the number is nobody else's while the process runs
        if _is(number, words):
            return cls(number, pidfd)
        os.close(pidfd)
        return None

    async def wait(self) -> None:
        await self._ended.wait()

    def send(self, number: signal.Signals) -> None:
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _readable(self) -> None:
        """It has ended."""
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set()


def _is(pid: int, words: Sequence[str]) -> bool:
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
            return False
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read()
    except OSError:
        return False
    return b"\0%b\0" % "\0".join(words).encode() in line
