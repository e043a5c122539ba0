"""The table of what is mounted: hosts, their workers, and what became of them.

It mounts a host's workers below the root, under names that are free here (`names`), notices
when a host is not well (its connection ends, or it misses heartbeats: `health`), and tells
the balancer who may be chosen.  A lost worker stays in the table, and its directory in the
tree, so that one sees what was lost; operations on it fail at once.  Another may take its name
when its host is not expected back.

A host that was mounted by its address and is lost is tried again with growing pauses, and
is mounted under the same names when it is back.  One that registered (`registry`) is lost
when it gives up its lease, and comes back by itself; one that was started here is its
launcher's to start again.

A nested orchestrator is mounted with a name, as one worker that has what it offers (`offer`);
it is refused, or lost, when this orchestrator is below it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
import time
from collections import Counter
from collections.abc import Collection, Coroutine, Iterable, Sequence
from weakref import WeakValueDictionary

from ..errors import (
    Error,
    Exists,
    InvalidArgument,
    NotFound,
    Stale,
    WorkerLost,
)
from ..fs.tree import Directory, Tree
from ..fs.user import User, owner
from ..net import address as addresses
from ..net.address import Address
from ..net.security import NOBODY_ELSE, Trust
from ..p9 import constants as c
from . import names as naming
from .balancer import Balancer
from .discovery import Discovery
from .events import Events
from .failures import is_workers_fault
from .health import Circuit, Health, Pulse, Rules
from .heartbeats import Heartbeats
from .host import Host, Worker, in_time, look, not_a_host
from .launchers.base import Launched
from .names import WholeTree
from .offer import Offer
from .remote import Mount
from .state import SavedHost
from .views import Views

log = logging.getLogger(__name__)

_A_MOMENT_S = 0.01
"""for a timer that is early"""


class Members:
    """See the module.  Hosts are those that we `trust`."""

    def __init__(
        self,
        tree: Tree,
        balancer: Balancer,
        rules: Rules,
        events: Events,
        trust: Trust = NOBODY_ELSE,
    ) -> None:
        self.id = secrets.token_hex(8)
        """of this orchestrator, among those that mount each other"""
        self.hosts: list[Host] = []
        self.workers: dict[str, Worker] = {}
        self.counts: Counter[Health] = Counter()
        """of the workers"""
        self.discovery = Discovery(self._rejoin)
        self.promises = naming.Promises()
        self._tree = tree
        self._views = Views(tree)
        self._trust = trust
        self._balancer = balancer
        self._rules = rules
        self._events = events
        self._heartbeats = Heartbeats(
            rules, balancer, self._judge, self._drop_worker, self._check_loop
        )
        self._joining: WeakValueDictionary[Address, asyncio.Lock] = WeakValueDictionary()
        """one at a time is mounted from an address"""

    # -- what users see -----------------------------------------------------------

    def show_to(
        self, user: User, root: Directory, nodes: Directory
    ) -> Coroutine[None, None, None] | None:
        """Put what is mounted, now and later, into the `root` of one more user, and a
        file for each worker into its `nodes`.  The owner comes first.  What is mounted is there
        when the result, if any, has been awaited."""
        return self._views.add(user, root, nodes, self.workers.values())

    def is_free(self, name: str, host: Host | None = None) -> bool:
        """Whether the next worker, which is the `host`'s, may be mounted as `name`; a worker
        that is lost for good gives way, and one that is to come back does at its address."""
        if not self.promises.allow(name, None if host is None else host.started_as):
            return False
        worker = self.workers.get(name)
        if worker is None:
            return not self._views.has(name)
        if worker.host.comes_back and (host is None or host.address != worker.host.address):
            return False
        return worker.health is Health.LOST and not worker.host.kept

    # -- joining ------------------------------------------------------------------

    async def join(self, address: Address, epoch: int | None, first: int | None) -> Host:
        """Mount all workers of a host that registers with its epoch and the number that it
        wishes its first worker to have here.  Raises Error, Stale when another host has
        been at that address since; what is mounted from there stays then."""
        async with self._one_at(address):
            known = self._known(address)
            if known is not None and epoch is not None and known.epoch is not None:
                if epoch < known.epoch:
                    raise Stale(
                        f"{Stale.ename}: stale epoch {epoch}, {address} was last mounted with "
                        f"epoch {known.epoch}"
                    )
            if known is not None and not known.lost:
                if known.process is not None:
                    raise Exists(f"{address} was started here, and is mounted")
                if epoch in (None, known.epoch):
                    known.expected = True
                    return known
            host = await self.add_host(address, epoch=epoch, first=first)
            if not host.lost:
                self.discovery.forget(address)
            return host

    def leave(self, address: Address) -> None:
        """The host that registered with this address gave up its lease."""
        self.discovery.forget(address)
        host = self._known(address)
        if host is not None:
            self._lose(host, expected=False)

    async def add_host(
        self,
        address: Address,
        process: Launched | None = None,
        epoch: int | None = None,
        first: int | None = None,
        before: Host | None = None,
        instead: Worker | None = None,
        only: Collection[str] | None = None,
    ) -> Host:
        """Connect to a host of ours and mount all its workers, or of them `only` some, under
        the names that they had on the host that it was `before`, or its only one `instead` of
        another; `process` is stopped when that fails.  Whoever was at its address is lost when
        it answers.  A host that is lost once its workers are mounted is one of ours all the
        same."""
        try:
            host = await self._connect(address, c.VERSION_9P2000_U, epoch)
        except BaseException:
            if process is not None:
                await process.stop()
            raise
        host.process = process
        host.expected = before is None or before.expected
        try:
            known = self._known(address)
            if known is not None and known is not before:
                self._lose(known)
            async with in_time(address):
                text = await host.workers_text()
            host.check_works(text)
            slots = await host.learn()
            if instead is None:
                names = host.lines_in(text)
                there = [name for name in names if only is None or name in only]
                await self.mount_workers(host, there, first, before, slots)
            else:
                await self.mount_instead(host, instead, slots)
            if known is not None:  # and not before: until now it is what would be saved
                known.expected = False
            self._heartbeats.told(host, text)  # if it ends from here on, it is lost as others are
        except BaseException:
            await self.remove_host(host)
            raise
        return host

    async def mount_workers(
        self,
        host: Host,
        there: Sequence[str],
        first: int | None = None,
        before: Host | None = None,
        slots: int | None = None,
    ) -> None:
        """Mount workers that a host has, all or none: under the names that they had here
        before, if these are free, else as `names.assign` says.  It is asked for its `slots` when
        they are not known."""
        if slots is None:
            slots = await host.learn()
        is_free = functools.partial(self.is_free, host=host)
        new = [name for name in there if name not in host.workers]
        were_kept = before is not None and before.kept
        if before is not None:
            before.kept = False
        last = before or self._known(host.address, but=host)
        had = {} if last is None else {w.there: w.name for w in last.workers.values()}
        names = naming.assign_again(new, had, is_free, first)
        try:
            replaced = self._mount_all(host, {name: names[name] for name in new}, slots)
        except BaseException:
            if before is not None:
                before.kept = were_kept
            raise
        await self._remove_replaced(replaced)

    async def mount_instead(self, host: Host, worker: Worker, slots: int | None = None) -> None:
        """Mount the worker of that name that `host` has, and no longer the one of ours, which
        is to be ended by `end_replaced`.  For `slots` see `mount_workers`."""
        if slots is None:
            slots = await host.learn()
        self._check_free(host, worker.name, worker)
        self._mount_all(host, {worker.name: worker.name}, slots)

    def _mount_all(self, host: Host, names: dict[str, str], slots: int) -> list[Host | None]:
        """Mount workers of a host, of which each attaches when it is first used; `names` are its
        names -> ours.  Returns what `_put` does of each."""
        if host.lost:
            raise WorkerLost(f"{WorkerLost.ename}: {host.address}")
        host.has_workers_file = True
        replaced = []
        for there, name in names.items():
            before = self.workers.get(name)
            if before is not None and before.may_move(host, there):
                replaced.append(self._move(before, host, slots))
            else:
                mount = self._mount_of(host, name, there)
                replaced.append(self._put(host, mount, there, slots))
        host.lines = frozenset(host.workers)  # of which nothing is known
        return replaced

    async def end_replaced(self, worker: Worker) -> None:
        """End a worker whose name another one has now, and its host if that was its last."""
        if not worker.host.workers:
            await self.remove_host(worker.host)
        elif not worker.host.lost:
            with contextlib.suppress(Error):  # it may be lost at this moment
                await self._tell(worker, "shutdown")

    async def mount(self, address: Address, whole: WholeTree | None) -> None:
        """`mount ADDR [NAME]`: a host's workers, those that are not mounted yet, or the `whole`
        tree there, which is balanced over if it has a worker's files, an orchestrator's for all
        that it has.  Raises Error."""
        if whole is None:
            await self._mount_host(address)
            return
        uname = _own_uname(address, whole)
        answers, ours, version, offer = await look(address, uname, whole.aname, self._trust)
        if offer is not None:
            self._check_loop(address, offer)
        host = await self._connect(address, version, whole=whole)
        host.offer = offer
        if ours:
            host.is_ours()
        try:
            mount = self._mount_of(host, whole.name, ours=ours)
            async with in_time(address):
                await mount.attach()
            self._check_free(host, whole.name)  # which we have waited for
            replaced = self._put(host, mount, "", int(answers), answers)
            await self._remove_replaced([replaced])
        except BaseException:
            await self.remove_host(host)
            raise

    def _check_loop(self, address: Address, offer: Offer) -> None:
        if self.id in offer.ids:
            raise InvalidArgument(f"{address} is this orchestrator, or has it mounted: a loop")

    async def _mount_host(self, address: Address) -> None:
        async with self._one_at(address):
            host = self._known(address)
            if host is not None and not host.lost:
                names = [n for n in await host.lines_now() if n not in host.workers]
                if not names:
                    raise Exists(f"all workers of {address} are mounted")
                await self.mount_workers(host, names)
                return
            try:
                await self.add_host(address)
            except NotFound:
                raise not_a_host(address) from None

    async def _rejoin(self, address: Address, whole: WholeTree | None) -> None:
        try:
            await self.mount(address, whole)
        except Exists:
            if whole is not None:
                there = self.workers.get(whole.name)
                if there is None or there.host.lost or there.host.address != address:
                    raise
            # by somebody else meanwhile

    def _known(self, address: Address, but: Host | None = None) -> Host | None:
        """The host of ours that is or was last at the address."""
        for host in reversed(self.hosts):
            if host.address == address and host.has_workers_file and host is not but:
                return host
        return None

    def _one_at(self, address: Address) -> asyncio.Lock:
        return self._joining.setdefault(address, asyncio.Lock())

    async def _connect(
        self,
        address: Address,
        version: str,
        epoch: int | None = None,
        whole: WholeTree | None = None,
    ) -> Host:
        """Hosts, and orchestrators, are spoken to in 9P2000.u, whose errors have an
        errno; strangers in plain 9P2000, for some answer to every version and speak but one."""
        loop = asyncio.get_running_loop()
        pulse = Pulse(self._rules, loop.time())
        uname = _own_uname(address, whole)
        host = await Host.connect(
            address, uname, self._trust, pulse, self._views.renew, version, epoch, whole
        )
        host.heartbeat = time.time()
        self.hosts.append(host)
        host.watcher = loop.create_task(self._watch(host))
        return host

    def _mount_of(self, host: Host, name: str, there: str = "", ours: bool = False) -> Mount:
        """What is to be mounted as `name`: the worker that the host calls `there`, or if that
        is "" its whole tree."""
        aname, worker = host.aname(there), bool(there)
        return Mount(
            self._tree, name, host.connection, host.uname, aname, of_worker=worker, ours=ours
        )

    def _check_free(self, host: Host, name: str, instead: Worker | None = None) -> None:
        if not self.promises.allow(name, host.started_as):
            raise Exists(f"{name} is being started")
        if not self.is_free(name, host) and (
            instead is None or self.workers.get(name) is not instead
        ):
            raise Exists(f"{name} exists already")

    def _put(
        self, host: Host, mount: Mount, there: str, capacity: int, answers: bool = True
    ) -> Host | None:
        """Mount it under its name.  Who had that gives way; the result is its host, if that
        has none any more."""
        name = mount.name
        before = self.workers.get(name)
        if before is not None:
            self._drop_worker(before)
        worker = Worker(name, there, host, mount, capacity=capacity, answers=answers)
        if before is not None:
            worker.drained = before.drained and worker.is_again(before)
        self._enter(worker)
        self._joined(worker)
        return before.host if before is not None and not before.host.workers else None

    def _move(self, worker: Worker, host: Host, capacity: int) -> Host | None:
        """As `_put`, for one that is this worker, which was lost, and that nobody looked into:
        all that is shown of it stays as it is."""
        before = worker.host
        del before.workers[worker.there]
        host.workers[worker.there] = worker
        host.joined = True
        worker.host, worker.mount.connect = host, host.connection
        worker.state, worker.capacity, worker.answers = "idle", capacity, True
        self._joined(worker)
        return None if before.workers else before

    def _joined(self, worker: Worker) -> None:
        host = worker.host
        if worker.answers:
            self._balancer.add(
                worker.name,
                str(host.address),
                node_type=host.type,
                model=host.model,
                context=host.context,
                slots=worker.capacity,
            )
        self._events.emit("worker.joined", worker=worker.name, host=host.address, epoch=host.epoch)
        if host.offer is not None:
            self._heartbeats.offered(worker, host.offer)
        self._judge(worker)

    async def _remove_replaced(self, before: Iterable[Host | None]) -> None:
        """Hosts that have no workers any more, for another has theirs."""
        for each in filter(None, before):
            await self.remove_host(each)

    def _enter(self, worker: Worker) -> None:
        worker.host.workers[worker.there] = self.workers[worker.name] = worker
        worker.host.joined = True
        self.counts[worker.health] += 1
        self._views.show(worker)

    # -- those of an orchestrator before us ---------------------------------------

    def remember(self, saved: SavedHost, process: Launched | None = None) -> Host | None:
        """Put a host into the table as one that is lost, with those workers whose names nobody
        has.  None when it has none, or is there."""
        where = addresses.parse(saved.address)
        names = {
            there: name
            for there, name in saved.workers.items()
            if name not in self.workers and self.is_free(name)
        }
        there_is = any(
            (h.address, h.epoch, h.whole and h.whole.name)
            == (where, saved.epoch, saved.workers.get(""))
            for h in self.hosts
        )
        if there_is or not names:
            return None
        pulse = Pulse(self._rules, asyncio.get_running_loop().time())
        whole = WholeTree(names[""], saved.user, saved.aname) if "" in names else None
        uname = _own_uname(where, whole)
        host = Host.absent(where, uname, self._trust, pulse, self._views.renew)
        host.types, host.model, host.epoch = frozenset(saved.types), saved.model, saved.epoch
        host.expected, host.process = saved.expected, process
        host.whole = whole
        host.has_workers_file = whole is None
        self.hosts.append(host)
        for there, name in names.items():
            mount = self._mount_of(host, name, there)
            worker = Worker(name, there, host, mount, state="lost", health=Health.LOST)
            worker.capacity, worker.answers = saved.slots, saved.answers
            worker.drained = there in saved.drained
            self._enter(worker)
        return host

    async def take_back(self, host: Host) -> None:
        """Mount what is remembered of a host that was not started here, if it is the same
        process; otherwise it is tried again as one that is lost."""
        try:
            if host.whole is not None:
                await self.mount(host.address, host.whole)
                return
            async with self._one_at(host.address):
                if self._known(host.address) is host:
                    only = set(host.workers)
                    await self.add_host(host.address, epoch=host.epoch, before=host, only=only)
                    await self.remove_host(host)
        except Error as e:
            log.warning("host %s is not back: %s", host.address, e)
            if host.expected and host in self.hosts:
                self.discovery.expect(host.address, host.whole)

    # -- leaving ------------------------------------------------------------------

    def mounted(self, name: str) -> Worker:
        """What is mounted as `name`.  Raises NotFound."""
        worker = self.workers.get(name)
        if worker is None:
            raise NotFound(f"nothing is mounted as {name}")
        return worker

    def of_host(self, name: str) -> Worker:
        """The worker of that name.  Raises NotFound, and InvalidArgument for what is
        mounted and no worker of a host."""
        worker = self.mounted(name)
        if not worker.mount.of_worker:
            raise InvalidArgument(f"{name} is no worker of a host: it can only be unmounted")
        return worker

    def living(self, name: str) -> Worker:
        """A worker, or a mounted tree that is asked as one.  Raises NotFound, InvalidArgument
        and WorkerLost."""
        worker = self.mounted(name)
        if not worker.answers:
            raise InvalidArgument(f"{name} is no worker: it can only be unmounted")
        if worker.host.lost:
            raise WorkerLost(f"{WorkerLost.ename}: {name}")
        return worker

    async def unmount(self, name: str) -> None:
        """Take it out of the tree; a worker of a host that we started ends, too."""
        worker = self.mounted(name)
        if worker.host.process is not None and worker.mount.of_worker:
            await self.kill(name)
        else:
            await self._forget_worker(worker)

    async def kill(self, name: str) -> None:
        """End a worker at once.  Its requests fail there, and go on elsewhere."""
        worker = self.of_host(name)
        try:
            if not worker.host.lost:
                worker.state, worker.drained = "draining", True
                self._judge(worker)
                with contextlib.suppress(NotFound):  # it has ended already
                    await self._tell(worker, "shutdown")
        finally:
            await self._forget_worker(worker)

    async def drain(self, name: str) -> None:
        """Let it finish what it has and give it nothing new.  What is no worker of a host is
        not told: it may have others who ask it."""
        worker = self.living(name)
        if worker.mount.of_worker:
            await self._tell(worker, "drain")
            worker.state = "draining"
        worker.drained = True
        self._judge(worker)

    async def resume(self, name: str) -> None:
        """The end of `drain`; a circuit that is open closes, too."""
        worker = self.living(name)
        if worker.mount.of_worker:
            await self._tell(worker, "resume")
            worker.state = "idle"
        worker.drained = False
        worker.breaker.succeeded()
        self._judge(worker)

    async def _tell(self, worker: Worker, verb: str) -> None:
        async with in_time(worker.host.address):
            await worker.host.write(f"{worker.there}/ctl", verb)
        worker.host.told += 1

    async def _forget_worker(self, worker: Worker) -> None:
        host = worker.host
        self._drop_worker(worker)
        if not host.workers:
            self.discovery.forget(host.address, host.whole)
            await self.remove_host(host)

    def _drop_worker(self, worker: Worker) -> None:
        if self.workers.get(worker.name) is not worker:
            return  # by a heartbeat meanwhile
        self.counts[worker.health] -= 1
        self._balancer.remove(worker.name)
        self._views.hide(worker)
        self.workers.pop(worker.name, None)
        worker.host.workers.pop(worker.there, None)
        self._events.emit("worker.left", worker=worker.name, host=worker.host.address)

    async def remove_host(self, host: Host) -> None:
        """Unmount all of a host, and stop it if we started it."""
        for worker in list(host.workers.values()):
            self._drop_worker(worker)
        if host in self.hosts:
            self.hosts.remove(host)
            if host.joined:
                self._events.emit("host.left", host=host.address)
        if host.watcher is not None and host.watcher is not asyncio.current_task():
            host.watcher.cancel()
        host.close()
        if host.process is not None:
            await host.process.stop()

    async def give_back(self, host: Host, before: Host) -> None:
        """End a host that was started in place of the one `before`, which has the workers again
        that were mounted from it, as lost ones."""
        self._lose(host)
        for there, worker in host.workers.items():
            worker.host = before
            before.workers[there] = worker
        host.workers.clear()
        if before.workers and before not in self.hosts:
            self.hosts.append(before)  # those that it had left were unmounted meanwhile
        await self.remove_host(host)

    async def close(self) -> None:
        self.discovery.close()
        await asyncio.gather(*(self.remove_host(host) for host in list(self.hosts)))

    def _lose(self, host: Host, expected: bool = True) -> None:
        """The host is lost.  It is tried again if it is `expected` to come back by its
        address, as those are that were mounted by it."""
        host.expected = host.expected and expected
        if host.lost:
            return
        host.lost = True
        host.close()
        for worker in host.workers.values():
            worker.state = "lost"
            worker.active = worker.queued = 0
            self._judge(worker)
        log.warning("host %s is lost with %d workers", host.address, len(host.workers))
        if host.comes_back:
            self.discovery.expect(host.address, host.whole)

    # -- health -------------------------------------------------------------------

    def sent(self, worker: Worker, requests: int = 1) -> None:
        """So many requests more are the worker's, -1 when one is over.  Of a circuit that is
        half-open the first decides: until it is over, others go elsewhere."""
        worker.asked += requests
        if worker.circuit is Circuit.HALF_OPEN:
            self._judge(worker)

    def failed(self, worker: Worker, error: Error) -> None:
        """A request failed on the worker, perhaps with its host, which then is lost from now
        on; what is not its fault (`failures`) does not count."""
        host = worker.host
        if host.says_lost(error):
            host.last_words = str(error)
            self._lose(host)
        elif host.client.lost.done() and not host.closed:
            self._lose(host)
        if worker.host.lost or not is_workers_fault(error):
            return
        loop = asyncio.get_running_loop()
        was_open = worker.circuit is Circuit.OPEN
        worker.breaker.failed(loop.time())
        if not was_open and worker.circuit is Circuit.OPEN:
            log.warning("%s fails: %s", worker.name, error)
            self._judge(worker)
            loop.call_at(worker.breaker.until + _A_MOMENT_S, self._judge, worker)

    def succeeded(self, worker: Worker) -> None:
        """A request was answered by the worker."""
        worker.breaker.succeeded()
        if worker.health is Health.DEGRADED:
            self._judge(worker)

    def _health_of(self, worker: Worker) -> Health:
        if worker.host.lost:
            return Health.LOST
        if worker.drained:
            return Health.DRAINING
        if worker.answers and not worker.capacity:
            return Health.DEGRADED
        circuit = worker.circuit
        if circuit is Circuit.OPEN or (circuit is Circuit.HALF_OPEN and worker.asked):
            return Health.DEGRADED
        return worker.host.pulse.health

    def _judge(self, worker: Worker) -> None:
        """Something has changed that its health depends on."""
        if self.workers.get(worker.name) is not worker:
            return
        before, worker.health = worker.health, self._health_of(worker)
        if worker.health is not before:
            self.counts[before] -= 1
            self.counts[worker.health] += 1
            kind = f"worker.{worker.health.value}"
            self._events.emit(kind, worker=worker.name, host=worker.host.address)
        match worker.health:
            case Health.LOST:
                self._balancer.remove(worker.name)
            case Health.DRAINING:
                self._balancer.hold(worker.name)
            case Health.HEALTHY | Health.DEGRADED:
                self._balancer.allow(worker.name, worker.health is Health.DEGRADED)

    async def _watch(self, host: Host) -> None:
        """Until it is lost, or all of its workers have ended by themselves."""
        if not await self._heartbeats.follow(host):
            log.info("host %s has no workers any more", host.address)
            self.discovery.forget(host.address)
            await self.remove_host(host)
            return
        self._lose(host)
        if host.process is not None:
            await host.process.kill()


def _own_uname(address: Address, whole: WholeTree | None = None) -> str:
    """As whom the owner attaches.  On unix sockets and under TLS it is as whom the connection
    shows us, for the name may be another user's there.  On plain TCP no name means anything to
    our own servers, but one may to others."""
    if whole is not None and whole.user:
        return whole.user
    return owner().name if address.net == "tcp" else ""
