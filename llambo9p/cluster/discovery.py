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

log = logging.getLogger(__name__)

FIRST_S = 0.2
LONGEST_S = 15.0


@dataclass(slots=True, eq=False)
class _Trying:
    task: asyncio.Task[None]
    again: bool = False
    """he was expected anew since the attempt began that is under way"""


class Discovery:
    """`join` mounts what is at an address, under a name if one was given, and raises Error
    when it cannot."""

    def __init__(self, join: Callable[[Address, str | None], Awaitable[None]]) -> None:
        self._join = join
        self._trying: dict[tuple[Address, str | None], _Trying] = {}

    def expect(self, address: Address, name: str | None = None) -> None:
        """Try from now on.  Where an attempt is under way there is another one after it,
        even if it succeeds: who was mounted by it may be lost before it returns."""
        key = address, name
        if key in self._trying:
            self._trying[key].again = True
        else:
            self._trying[key] = _Trying(
                asyncio.get_running_loop().create_task(self._try(address, name))
            )

    def forget(self, address: Address, name: str | None = None) -> None:
        """Nobody is expected there."""
        trying = self._trying.pop((address, name), None)
        if trying is not None and trying.task is not asyncio.current_task():
            trying.task.cancel()

    def close(self) -> None:
        for trying in self._trying.values():
            trying.task.cancel()

    async def _try(self, address: Address, name: str | None) -> None:
        trying = self._trying[address, name]
        backoff = Backoff(FIRST_S, LONGEST_S)
        said = ""
        try:
            while True:
                trying.again = False
                try:
                    await self._join(address, name)
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
            if self._trying.get((address, name)) is trying:
                del self._trying[address, name]
