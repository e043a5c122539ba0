"""Keeps a file as the cluster is: one write at a time, and many changes in one.

Whoever changes something says so, and may wait until it is saved; else there is a pause
between two writes.  The file is written on a thread, as a disk may be slow.  A write that
fails is tried again, and until then `trouble` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from ..errors import Error

log = logging.getLogger(__name__)

PAUSE_S = 0.5
"""between two writes that nobody waits for"""
AGAIN_S = 5.0
"""after one that failed"""

_T = TypeVar("_T")


class Saver(Generic[_T]):
    """`describe` is called on the event loop and gives what is saved, a value that does not
    change; `write`, on a thread, saves it, and raises Error when it cannot."""

    def __init__(self, describe: Callable[[], _T], write: Callable[[_T], None]) -> None:
        self.trouble = ""
        self._describe = describe
        self._write = write
        self._changes = 1
        """the file is not as we are"""
        self._tried = 0
        """of the changes, those that were written, or could not be"""
        self._awaited = 0
        """of the changes, those that somebody waited for"""
        self._wanted = asyncio.Event()
        self._hurry = asyncio.Event()
        """somebody waits"""
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """done after the next write"""
        self._wanted.set()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Nothing is written any more."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._tell()

    def changed(self) -> None:
        self._changes += 1
        self._wanted.set()

    async def saved(self) -> None:
        """When all changes up to now are saved, or could not be: see `trouble`."""
        changes = self._changes
        if self._tried < changes:
            self._awaited = changes
            self._hurry.set()
        while self._tried < changes and not self._task.done():
            await asyncio.shield(self._ended)

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            changes = self._changes
            writing = asyncio.ensure_future(asyncio.to_thread(self._write, self._describe()))
            try:
                await asyncio.shield(writing)
                self.trouble = ""
            except Error as e:
                if str(e) != self.trouble:
                    log.warning("%s", e)
                self.trouble = str(e)
                self._wanted.set()
            except asyncio.CancelledError:
                await asyncio.wait([writing])  # or it came after what is written next
                raise
            self._tried = changes
            if self._awaited <= changes:
                self._hurry.clear()
            self._tell()
            await self._pause(AGAIN_S if self.trouble else PAUSE_S)

    def _tell(self) -> None:
        ended, self._ended = self._ended, self._ended.get_loop().create_future()
        ended.set_result(None)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
