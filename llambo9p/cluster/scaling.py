"""Scaling: what `autoscale` decides is done, and the verb `scale`.

For each node type one thing is done at a time: hosts are started, one after the other so that
each is of use as soon as it answers, or they are drained and end.  When more is needed while
some are drained, these go on; when somebody writes `scale`, what is being done is given up.

Requests without a node type that wait count for the type with the most slots, or else the
first of the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import Busy, Error
from .autoscale import Autoscaler, Grow, Rules, Shrink, Size, There, fewer
from .balancer import Balancer
from .config import Cluster
from .config import Orchestrator as Settings
from .events import Events
from .fleet import Fleet, divide
from .host import Host, Worker
from .members import Members
from .metrics import Tally

log = logging.getLogger(__name__)

_SAMPLE_S = 1.0


@dataclass(slots=True)
class _Type:
    """A node type."""

    name: str
    scaler: Autoscaler
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """of whoever starts or ends its workers"""
    task: asyncio.Task[None] | None = None
    """that does so for the load"""
    leaving: list[Host] = field(default_factory=list)
    """that it drains; none while it starts some"""
    error: Error | None = None
    """why hosts could not be started the last time"""


class Scaling:
    """See the module.  `waiting` gives the requests without a worker by the node type that they
    ask for."""

    def __init__(
        self,
        config: Cluster,
        members: Members,
        balancer: Balancer,
        fleet: Fleet,
        events: Events,
        tally: Tally,
        waiting: Callable[[], Counter[str]],
    ) -> None:
        self._config = config
        self._settings = config.orchestrator
        self._members = members
        self._balancer = balancer
        self._fleet = fleet
        self._events = events
        self._tally = tally
        self._waiting = waiting
        now = asyncio.get_running_loop().time()
        rules = _rules(self._settings)
        self._types = {name: _Type(name, Autoscaler(rules, now)) for name in config.nodes}
        self._wanted = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        if self._settings.auto_scale:
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
        tasks = [each.task for each in self._types.values() if each.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- for requests -------------------------------------------------------------

    def want(self, node_type: str) -> bool:
        """A request waits for a worker of that type, and there is none that is healthy: whether
        one is started for it.  Raises Error when that is not possible, or failed a while ago."""
        if self._running is None:
            return False
        each = self._types.get(node_type) if node_type else self._main(self._all_hosts())
        if each is None:
            return False
        if each.task is None and not each.lock.locked():
            hosts = self._hosts(each)
            if hosts:
                return False  # they come back by themselves
            if each.error is not None and not each.scaler.may_grow(self._now()):
                raise type(each.error)(str(each.error))
            if not self._room(each):
                raise Busy(
                    f"{Busy.ename}: there is no worker of type {each.name}, and max_nodes "
                    f"{self._settings.max_nodes} leaves room for none"
                )
        self._wanted.set()
        return True

    # -- the verb -----------------------------------------------------------------

    async def scale(self, name: str, count: int) -> None:
        """Let there be so many workers of a type that were started here; return when they
        answer, and those that are too many have ended.  Raises Error."""
        each = self._types[name]
        while each.task is not None:
            each.task.cancel()
            await asyncio.wait((each.task,))
        async with each.lock:
            before = self._count(each)
            try:
                if count > before:
                    model = self._config.node_type(name).resources.model
                    engine = self._fleet.engine(name)
                    await self._fleet.spawn(name, count - before, model, engine)
                elif count < before:
                    await self._fleet.end(list(self._newest(each, before - count)))
                self._fleet.floors[name] = count
            finally:
                self._scaled(each, before, "ctl")

    def _newest(self, each: _Type, count: int) -> Iterator[Worker]:
        hosts = _lost_last(self._fleet.hosts(each.name))
        sizes = [len(host.workers) for host in hosts]
        for host, lost in zip(hosts, fewer(sizes, count), strict=True):
            yield from list(host.workers.values())[len(host.workers) - lost :]

    # -- the load -----------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wanted.clear()
            try:
                self._look()
            except Exception:
                log.exception("scaling")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SAMPLE_S):
                    await self._wanted.wait()

    def _look(self) -> None:
        """See once what there is, for all types, and decide for each."""
        hosts = self._all_hosts()
        main = self._main(hosts)
        waiting = self._waiting()
        waiting[main.name] += waiting.pop("", 0)
        for each in self._types.values():
            self._fleet.lower_floor(each.name)
            there = self._there(each, hosts[each.name], each is main)
            try:
                self._decide(each, hosts[each.name], there, waiting[each.name])
            except Exception:
                log.exception("scaling of %s", each.name)

    def _decide(self, each: _Type, hosts: Sequence[Host], there: There, waiting: int) -> None:
        asked = sum(self._balancer.requests_of(str(host.address)) for host in hosts)
        each.scaler.sample(self._now(), waiting + asked)
        if each.task is None and each.lock.locked():
            return  # somebody scales it
        change = each.scaler.decide(self._now(), there)
        if each.task is not None:
            if isinstance(change, Grow) and each.leaving and not each.task.cancelling():
                each.task.cancel()
        elif isinstance(change, Grow):
            each.task = asyncio.create_task(self._grow(each, change))
        elif isinstance(change, Shrink):
            each.leaving = [hosts[place] for place in change.hosts]
            each.task = asyncio.create_task(self._shrink(each))

    async def _grow(self, each: _Type, change: Grow) -> None:
        before = self._count(each)
        try:
            async with each.lock:
                for size in divide(change.workers, (), change.each):
                    await self._fleet.add_host(each.name, size)
            each.error = None
        except Error as e:
            if str(e) != str(each.error):  # it may last for days
                log.warning("no more workers of type %s can be started: %s", each.name, e)
            each.error = e
            each.scaler.failed(self._now())
            self._events.emit("scale.failed", type=each.name, error=str(e))
        finally:
            each.task = None
            self._scaled(each, before, "load")

    async def _shrink(self, each: _Type) -> None:
        before = self._count(each)
        try:
            async with each.lock:
                await self._fleet.end([w for h in each.leaving for w in h.workers.values()])
        except Error as e:
            log.warning("workers of type %s cannot be ended: %s", each.name, e)
        finally:
            each.leaving = []
            each.task = None
            self._scaled(each, before, "load")

    def _scaled(self, each: _Type, before: int, by: str) -> None:
        """That was tried; `before` there were so many workers that were started here."""
        now = self._now()
        each.scaler.scaled(now)
        after = self._count(each)
        if after != before:
            self._tally.scaled(after > before)
            self._events.emit("scale", type=each.name, before=before, after=after, by=by)
            log.info("workers of type %s: %d, before %d, by %s", each.name, after, before, by)

    # -- what there is ------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _main(self, hosts: dict[str, list[Host]]) -> _Type:
        """For requests that ask for no type."""
        return max(self._types.values(), key=lambda each: sum(h.slots for h in hosts[each.name]))

    def _count(self, each: _Type) -> int:
        """Workers that were started here."""
        return sum(len(host.workers) for host in self._fleet.hosts(each.name))

    def _all_hosts(self) -> dict[str, list[Host]]:
        """`_hosts` of all types, by name."""
        return {name: self._hosts(each) for name, each in self._types.items()}

    def _hosts(self, each: _Type) -> list[Host]:
        """Those of whoever started them that count: see `There.hosts`."""
        return _lost_last(
            host
            for host in self._members.hosts
            if host.type == each.name
            and host.offer is None
            and host.slots
            and (host.kept or not host.lost)
            and host not in each.leaving
            and not host.drained
        )

    def _alive(self, each: _Type) -> int:
        """Workers of all types but for those of this one that are to go."""
        return self._fleet.alive - sum(len(host.workers) for host in each.leaving)

    def _room(self, each: _Type) -> int:
        """For more workers."""
        return max(0, self._settings.max_nodes - self._alive(each))

    def _there(self, each: _Type, hosts: Sequence[Host], is_main: bool) -> There:
        settings, node = self._settings, self._config.nodes[each.name]
        floor, alive = self._fleet.floors[each.name], self._alive(each)
        mine = sum(len(host.workers) for host in hosts)
        others = sum(len(host.workers) for host in hosts if not host.kept)
        return There(
            hosts=[Size(len(host.workers), host.slots, host.kept) for host in hosts],
            least=max(floor + others, settings.min_nodes - (alive - mine)),
            missing=max(0, settings.min_nodes - alive) if is_main else 0,
            room=self._room(each),
            each=node.workers_per_host,
            first=node.count,
        )


def _lost_last(hosts: Iterable[Host]) -> list[Host]:
    return sorted(hosts, key=lambda host: host.lost)


def _rules(settings: Settings) -> Rules:
    return Rules(
        up=settings.scale_up_threshold,
        down=settings.scale_down_threshold,
        factor=settings.scale_factor,
        look_back=settings.look_back / 1000,
        cool_down_up=settings.cool_down_up / 1000,
        cool_down_down=settings.cool_down_down / 1000,
    )
