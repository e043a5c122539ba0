"""Hosts that are expected at an address: those of the configuration, and those that were
mounted and lost.

Each address is tried until somebody answers there or nobody expects him any more, with
growing pauses.  Nobody waits for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..errors import Error
from ..net.address import Address
from ..net.backoff import Backoff
from .names import WholeTree

log = logging.getLogger(__name__)

FIRST_S = 0.2
LONGEST_S = 15.0


@dataclass(slots=True, eq=False)
class _Trying:
    task: asyncio.Task[None]
    again: bool = False
    """he was expected anew since the attempt began that is under way"""


class Discovery:
    """`join` mounts the host at an address, or the whole tree there, and raises Error when it
    cannot."""

    def __init__(self, join: Callable[[Address, WholeTree | None], Awaitable[None]]) -> None:
        self._join = join
        self._trying: dict[tuple[Address, WholeTree | None], _Trying] = {}

    def expect(self, address: Address, whole: WholeTree | None = None) -> None:
        """Try from now on.  Where an attempt is under way there is another one after it,
        even if it succeeds: who was mounted by it may be lost before it returns."""
        key = address, whole
        if key in self._trying:
            self._trying[key].again = True
        else:
            self._trying[key] = _Trying(
                asyncio.get_running_loop().create_task(self._try(address, whole))
            )

    def forget(self, address: Address, whole: WholeTree | None = None) -> None:
        """Nobody is expected there."""
        trying = self._trying.pop((address, whole), None)
        if trying is not None and trying.task is not asyncio.current_task():
            trying.task.cancel()

    def close(self) -> None:
        for trying in self._trying.values():
            trying.task.cancel()

    async def _try(self, address: Address, whole: WholeTree | None) -> None:
        trying = self._trying[address, whole]
        backoff = Backoff(FIRST_S, LONGEST_S)
        said = ""
        try:
            while True:
                trying.again = False
                try:
                    await self._join(address, whole)
                    if not trying.again:
                        return
                except Error as e:
                    if str(e) != said:
                        said = str(e)
                        log.warning("host %s is expected: %s", address, said)
                await asyncio.sleep(backoff.next())
        except Exception:
            log.exception("host %s is not expected any more", address)
        finally:
            # at once: who is expected from now on is not to be missed
            if self._trying.get((address, whole)) is trying:
                del self._trying[address, whole]
