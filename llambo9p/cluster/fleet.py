"""The hosts that are started here: how many workers each gets, what these are called, and
what becomes of a host that ends.

`spawn` fills the hosts of the type that have room, then starts others, and leaves all of
what it was asked for, or nothing.  A host that ends though somebody wants its workers is
started again, with pauses that grow while it does not live long, and with the same
names; these stay its own meanwhile.  One whose workers were unmounted or killed is not.

Hosts that an orchestrator before us started are taken back without being disturbed, if they
live, and are otherwise started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import Busy, Error
from ..net import address
from ..net.backoff import Backoff
from .config import Cluster
from .events import Events
from .host import Host
from .launchers.base import HostSpec, Launched, Launcher, Remembered
from .members import Members
from .models import Models
from .names import first_free, number_of, worker_name
from .state import SavedHost, Started

log = logging.getLogger(__name__)

FIRST_S, LONGEST_S = 1.0, 60.0
"""pauses before a host is started again"""
STEADY_S = 60.0
"""a host that lived for so long is started again as soon as the first time"""


@dataclass(frozen=True, slots=True)
class Part:
    """What one host gets of a `spawn`."""

    host: Host | None
    """None for a new one"""
    first: int
    count: int

    @property
    def names(self) -> list[str]:
        return [worker_name(number) for number in range(self.first, self.first + self.count)]


def divide(count: int, rooms: Sequence[int], each: int | None) -> list[int]:
    """How many of `count` workers each of the hosts with so much room gets, and then each of
    as many new ones as it takes; `each` is what a host may have, None for any number."""
    parts = []
    for room in rooms:
        parts.append(min(room, count))
        count -= parts[-1]
    while count:
        parts.append(min(count, each or count))
        count -= parts[-1]
    return parts


def runs(numbers: Sequence[int]) -> list[range]:
    """Those in ascending order, as ranges."""
    found: list[range] = []
    for number in sorted(numbers):
        if found and found[-1].stop == number:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
    return found


class Fleet:
    """See the module.  `launcher` gives the one that an engine's name stands for, and raises
    InvalidArgument where there is none."""

    def __init__(
        self,
        config: Cluster,
        members: Members,
        models: Models,
        launcher: Callable[[str], Launcher],
        events: Events,
    ) -> None:
        self.loading: dict[str, int] = {}
        """first worker of what is being started -> percent of its model that is loaded"""
        self._config = config
        self._members = members
        self._models = models
        self._launcher = launcher
        self._events = events
        self._launchers: dict[str, Launcher] = {}
        """those that were needed"""
        self._spawning = asyncio.Lock()
        self._starting = asyncio.Semaphore(os.cpu_count() or 1)
        """a start takes a core for a while"""
        self._kept: dict[Host, str] = {}
        """hosts that were started here -> engine; one that ended too, until it is started again,
        so that nobody else gets its workers' names"""
        self._keepers: set[asyncio.Task[None]] = set()

    def retire(self) -> None:
        """Start no host again."""
        for keeper in self._keepers:
            keeper.cancel()

    async def close(self) -> None:
        """Stop all hosts that were started here."""
        self.retire()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(launcher.close() for launcher in self._launchers.values()))

    # -- spawning -----------------------------------------------------------------

    async def spawn(self, type_name: str, count: int, engine: str) -> None:
        """Start workers; return when they answer.  Raises Error, and leaves none then."""
        async with self._spawning:
            limit = self._config.orchestrator.max_nodes
            alive = sum(not self._members.is_free(name) for name in self._members.workers)
            if alive + count > limit:
                raise Busy(f"{count} more workers would be more than max_nodes {limit}")
            launcher = self._launcher_of(engine)
            model = await self._models.path(self._config.node_type(type_name).resources.model)
            parts = list(self._parts(type_name, count, engine))
            placing = [
                asyncio.create_task(self._place(part, type_name, model, engine, launcher))
                for part in parts
            ]
            try:
                await asyncio.gather(*placing)
            except BaseException:
                for task in placing:
                    task.cancel()
                await asyncio.wait(placing)
                await self._undo([name for part in parts for name in part.names])
                raise
        self._events.emit("spawn", type=type_name, count=count, engine=engine)

    def _parts(self, type_name: str, count: int, engine: str) -> Iterator[Part]:
        each = self._config.node_type(type_name).workers_per_host
        hosts: list[Host | None] = [
            host
            for host in self._members.hosts
            if host.type == type_name and self._kept.get(host) == engine and not host.lost
        ]
        rooms = [count if each is None else max(each - len(h.workers), 0) for h in hosts if h]
        number = first_free(count, self._members.is_free)
        sizes = divide(count, rooms, each)
        hosts += [None] * (len(sizes) - len(hosts))
        for host, size in zip(hosts, sizes, strict=True):
            if size:
                yield Part(host, number, size)
            number += size

    async def _place(
        self, part: Part, type_name: str, model: str, engine: str, launcher: Launcher
    ) -> None:
        if part.host is not None:
            await self._grow(part.host, part)
            return
        spec = HostSpec(
            name=f"host-{part.first:04d}",
            type=type_name,
            resources=self._config.node_type(type_name).resources,
            model=model,
            count=part.count,
            first=part.first,
            epoch=time.time_ns(),
        )
        host, launched = await self._start(spec, launcher)
        self._keep(host, launched, engine, launcher)

    async def _start(
        self, spec: HostSpec, launcher: Launcher, before: Host | None = None
    ) -> tuple[Host, Launched]:
        name = worker_name(spec.first)
        try:
            async with self._starting:
                launched = await launcher.start(
                    spec, lambda percent: self.loading.__setitem__(name, percent)
                )
        finally:
            self.loading.pop(name, None)
        host = await self._members.add_host(
            launched.address, launched, epoch=spec.epoch, before=before
        )
        self._events.emit("host.started", host=host.address, type=spec.type, log=launched.log)
        return host, launched

    async def _grow(self, host: Host, part: Part) -> None:
        """More workers on a host, or when that fails or is flushed none of them."""
        try:
            await host.write("ctl", f"grow {part.count} {part.first}")
            await self._members.mount_workers(host, part.names)
        except BaseException:
            with contextlib.suppress(Error):  # the host may be lost
                for name in set(part.names) & set(await host.names()):
                    if name in host.workers:
                        await self._members.unmount(name)
                    else:
                        await host.write(f"{name}/ctl", "shutdown")
            raise

    async def _undo(self, names: Sequence[str]) -> None:
        """End those that answer already."""
        for name in names:
            worker = self._members.workers.get(name)
            if worker is not None and worker.state != "lost":
                with contextlib.suppress(Error):
                    await self._members.unmount(name)

    def _launcher_of(self, engine: str) -> Launcher:
        if engine not in self._launchers:
            self._launchers[engine] = self._launcher(engine)
        return self._launchers[engine]

    # -- starting again -----------------------------------------------------------

    async def take_back(self, saved: SavedHost, started: Started) -> None:
        """Have a host that was started before us.  Raises Error when it has ended and cannot be
        started again; that is tried further."""
        launcher = self._launcher_of(started.engine)
        before = Remembered(
            started.spec, address.parse(saved.address), started.engine, started.handle
        )
        host = self._members.remember(saved, before)
        if host is None:
            return
        host.kept = True
        kept: tuple[Host, Launched] | None = None
        try:
            kept = await self._adopt(host, before, launcher) or await self._again(
                host, started.spec, launcher
            )
        except Error:
            kept = host, before
            raise
        finally:
            if kept is None:
                host.kept = False
            else:
                self._keep(*kept, started.engine, launcher)

    async def _adopt(
        self, host: Host, before: Remembered, launcher: Launcher
    ) -> tuple[Host, Launched] | None:
        """The host as it still lives, None when it does not."""
        spec = before.spec
        try:
            launched = await launcher.adopt(spec, before.address, before.handle)
            if launched is None:
                return None
            new = await self._members.add_host(
                launched.address, launched, epoch=spec.epoch, before=host
            )
        except Error as e:
            log.warning("%s cannot be taken back: %s", spec.name, e)
            host.kept = True
            return None
        await self._members.remove_host(host)
        self._events.emit("host.adopted", host=new.address, type=spec.type, log=launched.log)
        return new, launched

    def _keep(self, host: Host, launched: Launched, engine: str, launcher: Launcher) -> None:
        """Start it again, whenever it ends, until nobody wants it."""
        self._keep_names(host, engine)
        keeper = asyncio.create_task(self._keeping(host, launched, engine, launcher))
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)

    def _keep_names(self, host: Host, engine: str) -> None:
        host.kept = True
        self._kept[host] = engine

    async def _keeping(
        self, host: Host, launched: Launched, engine: str, launcher: Launcher
    ) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_S, LONGEST_S)
        while True:
            began = loop.time()
            try:
                why = await asyncio.shield(launched.ended)
                if host not in self._members.hosts:
                    return  # it was told to
                spec = launched.spec
                log.warning("%s ended: %s; its log is %s", spec.name, why, launched.log)
                self._events.emit("host.ended", host=host.address, reason=why, log=launched.log)
                if loop.time() - began >= STEADY_S:
                    backoff.reset()
                again = await self._again_in_time(host, spec, launcher, backoff)
            finally:
                del self._kept[host]
                host.kept = False
            if again is None:
                return
            host, launched = again
            self._keep_names(host, engine)
            log.warning("%s was started again", spec.name)

    async def _again_in_time(
        self, host: Host, spec: HostSpec, launcher: Launcher, backoff: Backoff
    ) -> tuple[Host, Launched] | None:
        """As `_again`, after a pause, and as often as it takes."""
        while True:
            await asyncio.sleep(backoff.next())
            try:
                return await self._again(host, spec, launcher)
            except Error as e:
                log.warning("%s cannot be started again: %s", spec.name, e)

    async def _again(
        self, host: Host, spec: HostSpec, launcher: Launcher
    ) -> tuple[Host, Launched] | None:
        """The host with the workers that it had, None when they were all unmounted meanwhile.
        Raises Error."""
        numbers = [n for name in host.workers if (n := number_of(name)) is not None]
        if not numbers:
            return None
        first, *others = runs(numbers)
        spec = replace(spec, count=len(first), first=first.start, epoch=time.time_ns())
        new, launched = await self._start(spec, launcher, host)
        for run in others:
            with contextlib.suppress(Error):  # the host ended, and is kept from now on
                await self._grow(new, Part(new, run.start, len(run)))
        return new, launched
