"""How a host was lost: whether it died, and whether it did that by itself.

The process of a host that was started here says so.  Any other host is asked once more at its
address: where nobody listens, or another process does, the host has died.  A host that still
answers there, or cannot be reached, was only cut off.  A host that was unmounted, or told to stop,
did not die.  A nested orchestrator does not die either: its own hosts may.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from ..errors import Error, Stale
from ..net.client import Client
from ..p9 import constants as c
from .host import Host

END_S = 3.0
"""for a process whose connection ended to end, too"""
LOOK_S = 1.0
"""for a host elsewhere to answer"""
_AGAIN_S = 0.02
"""between two looks there"""
_NOBODY = (ConnectionRefusedError, FileNotFoundError)


class Death(NamedTuple):
    reason: str
    by_itself: bool
    """False when it may have been killed"""


async def death_of(host: Host) -> Death | None:
    """Of a host that is lost; None when it did not die, or nobody knows whether it did."""
    if not host.lost or not host.has_workers_file:
        return None
    if host.last_words:
        return Death(host.last_words, by_itself=True)
    if host.process is None:
        return await _look(host)
    try:
        async with asyncio.timeout(END_S):
            end = await asyncio.shield(host.process.ended)
    except TimeoutError:
        return None
    return None if end.crashed is False else Death(end.reason, by_itself=end.crashed is True)


async def _look(host: Host) -> Death | None:
    """At its address, until the answer is sure.  A process that is dying still takes connections
    for a moment, and resets them."""
    try:
        async with asyncio.timeout(LOOK_S):
            while (is_there := await _is_there(host)) is None:  # noqa: ASYNC110 (no event tells)
                await asyncio.sleep(_AGAIN_S)
    except TimeoutError:
        return None
    reason = f"nobody is at {host.address} any more"
    return None if is_there else Death(reason, by_itself=False)


async def _is_there(host: Host) -> bool | None:
    """Whether that very process answers at its address; None when nobody knows."""
    client: Client | None = None
    try:
        client = await Client.connect(host.address, c.VERSION_9P2000_U, host.trust)
        await client.attach(host.uname, host.aname(""))
    except Stale:
        return False
    except Error as e:
        return False if isinstance(e.__cause__, _NOBODY) else None
    finally:
        if client is not None:
            client.close()
    return True
