"""The hosts that are started here: how many workers each gets, what these are called, and
what becomes of a host that ends.

`spawn` fills the hosts of the type that have room, then starts others, and leaves all of
what it was asked for, or nothing.  Names are a host's from the moment that it is to be started.  A
start whose model does not go on loading is given up after `orchestrator.start_timeout`.

A host that ends though somebody wants its workers is started again, with pauses that grow
while it does not live long, and with the same names; these stay its own meanwhile, and who
was drained stays drained.  One whose workers were unmounted or killed is not.

Workers that are to go, or to move to a host with another model, are drained first: they
finish what they have.  When that fails, or nobody waits for it any more, they stay.
Hosts that an orchestrator before us started are taken back without being disturbed, if they
live, and are otherwise started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..conversation.worker_names import number_of, worker_name
from ..errors import Busy, Error, InvalidArgument, TimedOut, WorkerLost
from ..net import address
from ..net.backoff import Backoff
from .config import Cluster, Engine
from .events import Events
from .health import Health
from .host import Host, Worker
from .launchers.base import End, HostSpec, Launched, Launcher, Log, Remembered
from .members import Members
from .models import Models
from .names import first_free
from .state import SavedHost, Started

log = logging.getLogger(__name__)

FIRST_S, LONGEST_S = 1.0, 60.0
"""pauses before a host is started again"""
STEADY_S = 60.0
"""a host that lived for so long is started again as soon as the first time"""
_LOOK_S = 0.1
"""between looks at workers that are drained"""


@dataclass(frozen=True, slots=True)
class Part:
    """What one host gets of a `spawn`."""

    host: Host | None
    """None for a new one"""
    name: str
    """of the host"""
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
        self.floors: Counter[str] = Counter()
        """workers of each type that were asked for, by `spawn` or `scale`"""
        self._config = config
        self._members = members
        self._models = models
        self._launcher = launcher
        self._events = events
        self._launchers: dict[str, Launcher] = {}
        """those that were needed"""
        self._spawning = asyncio.Lock()
        self._keepers: set[asyncio.Task[None]] = set()
        self._moving: set[str] = set()
        """names of workers that are being given another model"""

    def hosts(self, type_name: str) -> list[Host]:
        """Of that type, those that were started here, the newest last; also those that ended
        and are to be started again."""
        return [h for h in self._members.hosts if h.type == type_name and h.process is not None]

    def engine(self, type_name: str) -> str:
        """That the newest host of the type was started by, or else the configured one."""
        hosts = self.hosts(type_name)
        return _engine(hosts[-1]) if hosts else self._config.orchestrator.engine

    @property
    def logs(self) -> dict[str, Log]:
        """By host, of those that were started or taken back here."""
        return {name: log for each in self._launchers.values() for name, log in each.logs.items()}

    @property
    def alive(self) -> int:
        """Workers that count for `max_nodes`."""
        return sum(len(h.workers) for h in self._members.hosts if h.kept or not h.lost)

    def lower_floor(self, type_name: str) -> None:
        """To the workers that there are: who ends some, in whatever way, asks for fewer."""
        started = sum(len(host.workers) for host in self.hosts(type_name))
        self.floors[type_name] = min(self.floors[type_name], started)

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
        """Start workers that somebody asked for; return when they answer.  Raises Error, and
        leaves none then."""
        await self._spawn(type_name, count, model, engine, self._parts)
        self.floors[type_name] += count

    async def add_host(self, type_name: str, count: int) -> None:
        """Likewise, on a host of their own, and for the load."""

        def parts(type_name: str, count: int, model: str, engine: str) -> list[Part]:
            first = first_free(count, self._members.is_free)
            return [Part(None, self._host_name(first), first, count)]

        model = self._config.node_type(type_name).resources.model
        await self._spawn(type_name, count, model, self.engine(type_name), parts)

    async def _spawn(
        self,
        type_name: str,
        count: int,
        model: str,
        engine: str,
        divided: Callable[[str, int, str, str], Iterable[Part]],
    ) -> None:
        async with self._spawning:
            limit = self._config.orchestrator.max_nodes
            if self.alive + count > limit:
                raise Busy(f"{count} more workers would be more than max_nodes {limit}")
            launcher = self._launcher_of(engine)
            path = await self._models.path(model)
            parts = list(divided(type_name, count, path, engine))
            with self._members.promises.kept({n: part.name for part in parts for n in part.names}):
                await self._place_all(
                    parts, lambda part: self._place(part, type_name, path, launcher)
                )
        self._events.emit("spawn", type=type_name, count=count, engine=engine)

    async def _place_all(
        self, parts: Sequence[Part], place: Callable[[Part], Coroutine[Any, Any, Host]]
    ) -> None:
        """All of them, or none.  Each is cancelled once, and undoes what it did."""
        placing = [asyncio.create_task(place(part)) for part in parts]
        try:
            await asyncio.wait(placing, return_when=asyncio.FIRST_EXCEPTION)
            for task in placing:
                if task.done():
                    task.result()
        except BaseException:
            for task in placing:
                task.cancel()
            await asyncio.wait(placing)
            for task, part in zip(placing, parts, strict=True):
                if not task.cancelled() and task.exception() is None:
                    await self._undo(task.result(), part)
            raise

    def _parts(self, type_name: str, count: int, model: str, engine: str) -> Iterator[Part]:
        each = self._config.node_type(type_name).workers_per_host
        hosts: list[Host | None] = [*self._open(type_name, engine, model)]
        rooms = [count if each is None else max(each - len(h.workers), 0) for h in hosts if h]
        number = first_free(count, self._members.is_free)
        sizes = divide(count, rooms, each)
        hosts += [None] * (len(sizes) - len(hosts))
        for host, size in zip(hosts, sizes, strict=True):
            if size:
                name = self._host_name(number) if host is None else _spec(host).name
                yield Part(host, name, number, size)
            number += size

    def _open(self, type_name: str, engine: str, model: str) -> list[Host]:
        """Hosts that may get more workers, if they have room."""
        return [
            host
            for host in self.hosts(type_name)
            if _engine(host) == engine
            and not host.lost
            and _spec(host).model == model
            and not host.drained
        ]

    async def _place(self, part: Part, type_name: str, model: str, launcher: Launcher) -> Host:
        """Where the part is then."""
        if part.host is not None:
            await self._grow(part.host, part)
            return part.host
        spec = HostSpec(
            name=part.name,
            type=type_name,
            resources=self._config.node_type(type_name).resources,
            model=model,
            count=part.count,
            first=part.first,
            epoch=time.time_ns(),
        )
        launched = await self._launch(spec, launcher)
        host = await self._join(launched)
        self._keep(host, launched, launcher)
        return host

    def _host_name(self, first: int) -> str:
        """A name that no host has, nor one that is being stopped.  One that is there may have
        begun with that worker, too, which was ended since."""
        taken = {host.started_as for host in self._members.hosts}
        taken.update(*(launcher.hosts for launcher in self._launchers.values()))
        name = f"host-{first:04d}"
        others = (f"{name}-{number}" for number in itertools.count(2))
        return next(each for each in itertools.chain((name,), others) if each not in taken)

    async def _launch(self, spec: HostSpec, launcher: Launcher) -> Launched:
        name = worker_name(spec.first)
        time_of = asyncio.get_running_loop().time
        seconds = self._config.orchestrator.start_timeout / 1000

        def progress(percent: int) -> None:
            if percent > self.loading.get(name, -1):
                self.loading[name] = percent
                limit.reschedule(time_of() + seconds)

        try:
            async with launcher.starting, asyncio.timeout(seconds) as limit:
                return await launcher.start(spec, progress)
        except TimeoutError:
            raise TimedOut(
                f"{spec.name} made no progress for {seconds:g} s while it was started: see its "
                "log, and if its model takes so long let orchestrator.start_timeout be more"
            ) from None
        finally:
            self.loading.pop(name, None)

    async def _join(
        self, launched: Launched, before: Host | None = None, instead: Worker | None = None
    ) -> Host:
        spec = launched.spec
        host = await self._members.add_host(
            launched.address, launched, epoch=spec.epoch, before=before, instead=instead
        )
        self._events.emit("host.started", host=host.address, type=spec.type, log=launched.log)
        return host

    async def _grow(self, host: Host, part: Part, instead: Worker | None = None) -> None:
        """More workers on a host, or the one `instead` of another; when that fails or is
        flushed none of them."""
        try:
            await host.write("ctl", f"grow {part.count} {part.first}")
            if instead is None:
                await self._members.mount_workers(host, part.names)
            else:
                await self._members.mount_instead(host, instead)
        except BaseException:
            await self._undo(host, part)
            raise

    async def _undo(self, host: Host, part: Part) -> None:
        """End the part's workers, those that are there."""
        with contextlib.suppress(Error):  # the host may be lost
            for there in set(part.names) & set(await host.lines_now()):
                if there in host.workers:
                    await self._members.unmount(host.workers[there].name)
                else:
                    await host.write(f"{there}/ctl", "shutdown")

    def _launcher_of(self, engine: str) -> Launcher:
        if engine not in self._launchers:
            self._launchers[engine] = self._launcher(engine)
        return self._launchers[engine]

    # -- starting again -----------------------------------------------------------

    def take_back(self, saved: SavedHost, started: Started) -> Coroutine[Any, Any, None] | None:
        """Remember a host that was started before us, at once.  What is given has it back, None
        when it is there; it raises Error when the host has ended and cannot be started again,
        which is tried further."""
        where = address.parse(saved.address)
        before = Remembered(started.spec, where, started.engine, started.handle)
        host = self._members.remember(saved, before)
        if host is None:
            return None
        host.kept = True
        return self._take_back(host, before)

    async def _take_back(self, host: Host, before: Remembered) -> None:
        try:
            launcher = self._launcher_of(before.engine)
        except Error:
            host.kept = False
            raise
        kept: tuple[Host, Launched] | None = None
        try:
            kept = await self._adopt(host, before, launcher) or await self._again(
                host, before.spec, launcher
            )
        except Exception:
            kept = host, before
            raise
        finally:
            if kept is None:
                host.kept = False
            else:
                self._keep(*kept, launcher)

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

    def _keep(self, host: Host, launched: Launched, launcher: Launcher) -> None:
        """Start it again, whenever it ends, until nobody wants it."""
        host.kept = True
        keeper = asyncio.create_task(self._keeping(host, launched, launcher))
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)

    async def _keeping(self, host: Host, launched: Launched, launcher: Launcher) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_S, LONGEST_S)
        while True:
            began = loop.time()
            try:
                why = (await _end(launched)).reason
                if host not in self._members.hosts:
                    return  # it was told to
                spec = launched.spec
                log.warning("%s ended: %s; its log is %s", spec.name, why, launched.log)
                self._events.emit("host.ended", host=host.address, reason=why, log=launched.log)
                if loop.time() - began >= STEADY_S:
                    backoff.reset()
                again = await self._again_in_time(host, spec, launcher, backoff)
            finally:
                host.kept = False
            if again is None:
                return
            host, launched = again
            host.kept = True
            log.warning("%s was started again", spec.name)

    async def _again_in_time(
        self, host: Host, spec: HostSpec, launcher: Launcher, backoff: Backoff
    ) -> tuple[Host, Launched] | None:
        """As `_again`, after a pause, and as often as it takes.  What hinders it is logged when it
        is another than before: it may last for days."""
        said = ""
        while True:
            await asyncio.sleep(backoff.next())
            try:
                return await self._again(host, spec, launcher)
            except Error as e:
                if str(e) != said:
                    said = str(e)
                    log.warning("%s cannot be started again and is tried further: %s",
                                spec.name, said)  # fmt: skip
            except Exception:
                log.exception("%s cannot be started again", spec.name)

    async def _again(
        self, host: Host, spec: HostSpec, launcher: Launcher
    ) -> tuple[Host, Launched] | None:
        """The host with the workers that it had, drained as they were, None when they were all
        unmounted meanwhile.  Raises Error, and then they are `host`'s still."""
        numbers = [n for name in host.workers if (n := number_of(name)) is not None]
        if not numbers:
            return None
        first, *others = runs(numbers)
        spec = replace(spec, count=len(first), first=first.start, epoch=time.time_ns())
        names = [worker.name for worker in host.workers.values()]
        with self._members.promises.kept(dict.fromkeys(names, spec.name)):
            launched = await self._launch(spec, launcher)
            if not host.workers:
                await launched.stop()
                return None
            had = set(host.workers)
            new = await self._join(launched, before=host)
            try:
                for run in others:
                    await self._grow(new, Part(new, spec.name, run.start, len(run)))
                for there in new.workers.keys() - had:  # it was unmounted while we started it
                    await self._members.unmount(new.workers[there].name)
            except Exception:
                await self._members.give_back(new, host)
                host.kept = True
                raise
        for worker in list(new.workers.values()):
            if worker.drained:
                with contextlib.suppress(Error):  # the host ended, and is kept from now on
                    await self._members.drain(worker.name)
        return new, launched

    # -- ending and moving --------------------------------------------------------

    async def end(self, workers: Sequence[Worker]) -> None:
        """Drain workers that were started here, and end them when they have finished what they
        had.  Raises Error, and then those that are left stay."""
        going = set(workers)
        async with self._drained(workers), self._spawning:
            hosts = [h for h in {w.host for w in workers} if going.issuperset(h.workers.values())]
            await asyncio.gather(*map(self._members.remove_host, hosts))
            for worker in workers:
                if self._members.workers.get(worker.name) is worker:
                    await self._members.unmount(worker.name)

    def started(self, name: str) -> Worker:
        """The worker of that name, which is alive and on a host that was started here.  Raises
        Error."""
        worker = self._members.living(name)
        if worker.host.process is None:
            raise InvalidArgument(f"{name} is on a host that was not started here")
        return worker

    async def load(self, name: str, model: str) -> None:
        """Let the worker go on, under its name, on a host with that model.  Raises Error, and
        then it stays where it is."""
        worker = self.started(name)
        path = await self._models.path(model)
        if _spec(worker.host).model == path:
            return
        if name in self._moving:
            raise Busy(f"{Busy.ename}: {name} is being given a model already")
        self._moving.add(name)
        try:
            await self._move(worker, path)
        finally:
            self._moving.discard(name)
        await self._members.end_replaced(worker)
        self._events.emit("load", worker=name, model=model)

    async def _move(self, worker: Worker, model: str) -> None:
        spec, engine = _spec(worker.host), _engine(worker.host)
        number = number_of(worker.name)
        assert number is not None
        each = self._config.node_type(spec.type).workers_per_host
        for host in self._open(spec.type, engine, model):
            if each is None or len(host.workers) < each:
                async with self._drained([worker]):
                    await self._grow(host, Part(host, _spec(host).name, number, 1), worker)
                return
        launcher = self._launcher_of(engine)
        spec = replace(
            spec,
            name=self._host_name(number),
            model=model,
            count=1,
            first=number,
            epoch=time.time_ns(),
        )
        launched = await self._launch(spec, launcher)
        try:
            async with self._drained([worker]):
                host = await self._join(launched, instead=worker)
        except BaseException:
            await launched.stop()
            raise
        self._keep(host, launched, launcher)

    @contextlib.asynccontextmanager
    async def _drained(self, workers: Sequence[Worker]) -> AsyncIterator[None]:
        """Inside they have finished what they had, and get nothing new; when that fails they do
        again, but for those that were drained before."""
        drained = [worker for worker in workers if worker.health is not Health.DRAINING]
        try:
            done = await asyncio.gather(*map(self._drain, drained), return_exceptions=True)
            for error in filter(None, done):
                raise error
            for host in {worker.host for worker in workers}:
                await _idle(host, [worker for worker in workers if worker.host is host])
            yield
        except BaseException:
            await asyncio.gather(*map(self._resume, drained))
            raise

    async def _drain(self, worker: Worker) -> None:
        with contextlib.suppress(WorkerLost):  # it does nothing any more
            await self._members.drain(worker.name)

    async def _resume(self, worker: Worker) -> None:
        worker.drained = False  # when it is started again
        with contextlib.suppress(Error):  # it may be lost
            await self._members.resume(worker.name)


def _spec(host: Host) -> HostSpec:
    """Of a host that was started here."""
    assert host.process is not None
    return host.process.spec


def _engine(host: Host) -> Engine:
    """By which a host was started that was started here."""
    assert host.process is not None
    return host.process.engine


async def _end(launched: Launched) -> End:
    """Wait until it ends."""
    try:
        return await asyncio.shield(launched.ended)
    except Exception as e:
        log.exception("nobody knows why %s ended", launched.spec.name)
        return End(repr(e))


async def _idle(host: Host, workers: Sequence[Worker]) -> None:
    """Until these of its workers, which are drained, have no request any more, nor has the
    orchestrator one that they answered."""
    while not host.lost:
        with contextlib.suppress(WorkerLost):
            now = await host.lines_now()
            there = (now.get(worker.there) for worker in workers)
            if not any(worker.asked for worker in workers) and not any(
                line.active for line in there if line is not None
            ):
                return
        await asyncio.sleep(_LOOK_S)
