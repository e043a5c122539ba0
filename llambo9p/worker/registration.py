"""A host that was started by hand makes itself known: it registers with an orchestrator and
holds the lease (the orchestrator's `registry/new`) as long as it lives.

When the orchestrator is gone it is looked for again, with growing pauses; the host then wishes
its workers to be called what they were called before.  An orchestrator that refuses
the host for good, for it is another's epoch or not allowed to come, ends it.
"""

from __future__ import annotations

import asyncio
import errno
import logging

from ..conversation import said
from ..conversation.worker_names import MAX_WORKERS
from ..errors import Error
from ..fs.ctl import quote, split_words
from ..net.address import Address
from ..net.backoff import Backoff
from ..net.client import Client
from ..net.security import NOBODY_ELSE, Trust
from ..p9 import constants as c

log = logging.getLogger(__name__)

FIRST_S = 0.1
LONGEST_S = 5.0
ANSWER_S = 30.0
"""for the orchestrator to mount all workers"""
_LINE = 1 << 16
"""bytes of our own line in the registry"""
_FOR_GOOD = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOENT, errno.ESTALE}
"""what trying again does not change"""


class Registration:
    """`own` is where the host can be reached; `attrs` say what it is."""

    def __init__(
        self,
        orchestrator: Address,
        own: Address,
        attrs: dict[str, str],
        trust: Trust = NOBODY_ELSE,
    ) -> None:
        self._orchestrator = orchestrator
        self._own = own
        self._attrs = dict(attrs)
        self._trust = trust

    async def hold(self) -> None:
        """Register, again whenever the lease is lost.  Raises Error when refused for good."""
        backoff = Backoff(FIRST_S, LONGEST_S)
        while True:
            try:
                await self._hold_once(backoff)
            except Error as e:
                if e.errno in _FOR_GOOD:
                    raise Error(f"cannot register with {self._orchestrator}: {e}") from e
                log.warning("not registered with %s: %s", self._orchestrator, e)
            except TimeoutError:
                log.warning("not registered with %s: no answer", self._orchestrator)
            await asyncio.sleep(backoff.next())

    async def _hold_once(self, backoff: Backoff) -> None:
        """Returns when the lease is lost."""
        async with asyncio.timeout(ANSWER_S):
            client = await Client.connect(self._orchestrator, c.VERSION_9P2000_U, self._trust)
        try:
            async with asyncio.timeout(ANSWER_S):
                root, _ = await client.attach("")
                lease = await client.open(root, "registry/new", c.ORDWR)
                await lease.write(self._words().encode())
                self._attrs["first"] = _first(await lease.read_all(_LINE), self._attrs["first"])
            log.info("registered with %s, first %s", self._orchestrator, self._attrs["first"])
            backoff.reset()
            await client.lost
            log.warning("lost %s", self._orchestrator)
        finally:
            client.close()

    def _words(self) -> str:
        words = [str(self._own), *(word for pair in self._attrs.items() for word in pair)]
        return " ".join(map(quote, words))


def _first(line: bytes, before: str) -> str:
    """The attribute `first` in our line, or what it was before.  Raises Error."""
    try:
        words = split_words(said.text(line))[1:]
        attrs = dict(zip(words[::2], words[1::2], strict=False))
        return str(said.whole(attrs.get("first", before), MAX_WORKERS))
    except ValueError as e:
        raise Error(f"the registry's line is not understood: {e}") from e
