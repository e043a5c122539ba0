"""The hosts that are started here: how many workers each gets, what these are called, and
what becomes of a host that ends.

`spawn` fills the hosts of the type that have room, then starts others, and leaves all of
what it was asked for, or nothing.  A host that ends though somebody wants its workers is
started again, with pauses that grow while it does not live long, and with the same
names; these stay its own meanwhile.  One whose workers were unmounted or killed is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import Busy, Error
from ..net.backoff import Backoff
from .config import Cluster
from .events import Events
from .host import Host
from .launchers.base import HostSpec, Launched, Launcher
from .members import Members
from .models import Models
from .names import first_free, number_of, worker_name

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

    async def spawn(self, type_name: str, count: int, model: str, engine: str) -> None:
        """Start workers; return when they answer.  Raises Error, and leaves none then."""
        async with self._spawning:
            limit = self._config.orchestrator.max_nodes
            alive = sum(not self._members.is_free(name) for name in self._members.workers)
            if alive + count > limit:
                raise Busy(f"{count} more workers would be more than max_nodes {limit}")
            launcher = self._launcher_of(engine)
            path = await self._models.path(model)
            parts = list(self._parts(type_name, count, path, engine))
            placing = [
                asyncio.create_task(self._place(part, type_name, path, engine, launcher))
                for part in parts
            ]
            try:
                await asyncio.gather(*placing)
            except BaseException:
                for task in placing:
                    task.cancel()
                await asyncio.wait(placing)
                for task, part in zip(placing, parts, strict=True):
                    if not task.cancelled() and task.exception() is None:
                        await self._undo(task.result(), part)
                raise
        self._events.emit("spawn", type=type_name, count=count, engine=engine)

    def _parts(self, type_name: str, count: int, model: str, engine: str) -> Iterator[Part]:
        each = self._config.node_type(type_name).workers_per_host
        hosts: list[Host | None] = [
            host
            for host in self._members.hosts
            if host.type == type_name and self._kept.get(host) == engine and not host.lost
            and host.process is not None and host.process.spec.model == model
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
    ) -> Host:
        """Where the part is then."""
        if part.host is not None:
            await self._grow(part.host, part)
            return part.host
        spec = HostSpec(
            name=self._host_name(part.first),
            type=type_name,
            resources=self._config.node_type(type_name).resources,
            model=model,
            count=part.count,
            first=part.first,
            epoch=time.time_ns(),
        )
        host, launched = await self._start(spec, launcher)
        self._keep_names(host, engine)
        keeper = asyncio.create_task(self._keep(host, launched, engine, launcher))
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)
        return host

    def _host_name(self, first: int) -> str:
        """A name that no host has.  One that is there may have begun with that worker, too,
        which was ended since."""
        taken = {host.process.spec.name for host in self._kept if host.process is not None}
        name = f"host-{first:04d}"
        others = (f"{name}-{number}" for number in itertools.count(2))
        return next(each for each in itertools.chain((name,), others) if each not in taken)

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
            await self._undo(host, part)
            raise

    async def _undo(self, host: Host, part: Part) -> None:
        """End the part's workers, those that are there."""
        with contextlib.suppress(Error):  # the host may be lost
            for there in set(part.names) & set(await host.names()):
                if there in host.workers:
                    await self._members.unmount(host.workers[there].name)
                else:
                    await host.write(f"{there}/ctl", "shutdown")

    def _launcher_of(self, engine: str) -> Launcher:
        if engine not in self._launchers:
            self._launchers[engine] = self._launcher(engine)
        return self._launchers[engine]

    def _keep_names(self, host: Host, engine: str) -> None:
        host.kept = True
        self._kept[host] = engine

    # -- starting again -----------------------------------------------------------

    async def _keep(
        self, host: Host, launched: Launched, engine: str, launcher: Launcher
    ) -> None:
        """Start a host again, whenever it ends, until nobody wants it."""
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
                again = await self._again(host, spec, launcher, backoff)
            finally:
                del self._kept[host]
                host.kept = False
            if again is None:
                return
            host, launched = again
            self._keep_names(host, engine)
            log.warning("%s was started again", spec.name)

    async def _again(
        self, host: Host, spec: HostSpec, launcher: Launcher, backoff: Backoff
    ) -> tuple[Host, Launched] | None:
        """The host with the workers that it had, None when they were all unmounted meanwhile."""
        while True:
            await asyncio.sleep(backoff.next())
            numbers = [n for name in host.workers if (n := number_of(name)) is not None]
            if not numbers:
                return None
            first, *others = runs(numbers)
            spec = replace(spec, count=len(first), first=first.start, epoch=time.time_ns())
            try:
                new, launched = await self._start(spec, launcher, host)
            except Error as e:
                log.warning("%s cannot be started again: %s", spec.name, e)
                continue
            for run in others:
                with contextlib.suppress(Error):  # the host ended, and is kept from now on
                    await self._grow(new, Part(new, run.start, len(run)))
            return new, launched
