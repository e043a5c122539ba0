"""Heartbeats: what a host says of itself each interval, and of its workers.

A `Heartbeats` asks one host at a time for as long as it is `follow`ed, and puts what it hears
into the host and its workers and before the balancer.  Whether a host that does not answer is
lost, `health` says; what follows from it is for the caller.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from ..errors import Error
from ..net.address import Address
from .balancer import Balancer
from .health import Health, Rules
from .host import Host, Worker
from .offer import Offer

log = logging.getLogger(__name__)


class Heartbeats:
    """`changed` is told of a worker whose health may be another, `ended` of one that its host
    has no more; `check` raises Error when what a nested orchestrator offers cannot be had."""

    def __init__(
        self,
        rules: Rules,
        balancer: Balancer,
        changed: Callable[[Worker], None],
        ended: Callable[[Worker], None],
        check: Callable[[Address, Offer], None],
    ) -> None:
        self._rules = rules
        self._balancer = balancer
        self._changed = changed
        self._ended = ended
        self._check = check

    async def follow(self, host: Host) -> bool:
        """Until a connection ends or too many are missed, True then; False when all of its
        workers have ended by themselves."""
        ends = (host.client.lost, host.control.lost)
        try:
            while not any(end.done() for end in ends):
                await asyncio.wait(
                    ends, timeout=self._rules.interval, return_when=asyncio.FIRST_COMPLETED
                )
                had_workers = bool(host.workers)
                if not await self._beat(host, ends):
                    break
                if had_workers and not host.workers:
                    return False
        except Error as e:
            log.warning("host %s: no heartbeat: %s", host.address, e)
        except Exception:
            log.exception("host %s: a heartbeat that cannot be read", host.address)
        return True

    async def _beat(self, host: Host, ends: Sequence[asyncio.Future[None]]) -> bool:
        """Ask for one heartbeat; False when the host is lost.  Raises what reading it does."""
        loop = asyncio.get_running_loop()
        beat = loop.create_task(self.hear(host))
        try:
            while True:
                await asyncio.wait(
                    (beat, *ends),
                    timeout=self._rules.interval,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if beat.done():
                    await beat
                    self._pulsed(host, host.pulse.answered)
                    return True
                if any(end.done() for end in ends):
                    return False
                self._pulsed(host, host.pulse.missed)
                if host.pulse.health is Health.LOST:
                    log.warning("host %s: no heartbeat in time", host.address)
                    return False
        finally:
            beat.cancel()
            await asyncio.wait([beat])

    def _pulsed(self, host: Host, happened: Callable[[float], None]) -> None:
        before = host.pulse.health
        happened(asyncio.get_running_loop().time())
        if host.pulse.health not in (before, Health.LOST):
            log.info("host %s is %s", host.address, host.pulse.health.value)
            for worker in host.workers.values():
                self._changed(worker)

    async def hear(self, host: Host) -> None:
        """One heartbeat.  Raises Error."""
        if host.offer is not None:
            offer = await host.offers()
            host.heartbeat = time.time()
            self._check(host.address, offer)
            for worker in host.workers.values():
                self.offered(worker, offer)
                self._changed(worker)
            return
        if not host.has_workers_file:
            await host.answers()
            host.heartbeat = time.time()
            return
        known = host.lines, host.told
        text = await host.workers_text()
        host.heartbeat = time.time()
        if (host.lines, host.told) != known:
            return  # it may be from before what was mounted, or said to a worker, meanwhile
        self.told(host, text)

    def told(self, host: Host, text: str) -> None:
        """What a host of ours says of its workers in its `workers` file.  Raises Error."""
        fresh, gone = host.changes(text)
        host.check_works(text)
        for there in gone & host.workers.keys():  # `shutdown` was written to its ctl
            self._ended(host.workers[there])
        for there in fresh.keys() & host.workers.keys():
            host.workers[there].told(fresh[there])
            self._changed(host.workers[there])
        if fresh:
            active = sum(worker.active for worker in host.workers.values())
            self._balancer.heard(str(host.address), active)

    def offered(self, worker: Worker, offer: Offer) -> None:
        """What a nested orchestrator says that it is."""
        host = worker.host
        host.offer = offer
        host.types, host.model, host.context = offer.types, offer.model, offer.context
        worker.offered(offer)
        self._balancer.offered(worker.name, offer)
