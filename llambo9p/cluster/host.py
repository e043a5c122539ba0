"""A host as the orchestrator knows it: its connections, and what is mounted from it.

A host has two connections: `client` for what clients do in the mounted trees, and
`control` for heartbeats and verbs, which no crowd of clients can hold up.  Users other
than the owner have one each, from the first time that they look into a worker.

A nested orchestrator is a host, too: its whole tree is mounted as one worker, for what it
offers.

A host of ours says its epoch, by which every attach then names it: a process that comes to
listen at the same address is refused for it, and refuses us.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ..conversation import said
from ..conversation.said import WorkerLine
from ..engine.base import Request
from ..errors import Error, HostLost, InvalidArgument, TimedOut, WorkerLost
from ..net.address import Address
from ..net.client import Client
from ..net.security import Trust
from ..p9 import constants as c
from ..p9 import messages as m
from .balancer import UNKNOWN
from .health import Breaker, Circuit, Health, Pulse
from .launchers.base import Launched
from .names import WholeTree
from .offer import Offer
from .remote import Mount
from .turns import Turns

_WORKER_FILES = {"ctl", "prompt", "out", "tokens", "clone", "usage"}
_HOST_FILES = {"ctl", "status", "metrics", "workers"}
CONNECT_S = 10.0
"""for a server to be connected to and attached, and for it to obey a verb"""


@dataclass(slots=True, eq=False)
class Worker:
    """A mounted worker, a mounted tree that has a worker's files, or one that is only there to be
    walked in."""

    name: str
    there: str
    """what its host calls it"""
    host: Host
    mount: Mount
    """as the owner sees it"""
    mounts: dict[str, Mount] = field(default_factory=dict)
    """that one, and those of other users, by name; they go to whatever `host` is"""
    state: str = "idle"
    """as its host said last; `lost` when the host is"""
    health: Health = Health.HEALTHY
    breaker: Breaker = field(default_factory=Breaker)
    asked: int = 0
    """requests that the orchestrator sent to it and that are not over"""
    active: int = 0
    queued: int = 0
    requests: int = 0
    tokens: int = 0
    errors: int = 0
    capacity: int = 0
    """requests it can decode at once: its host's slots"""
    answers: bool = True
    """it has a worker's files"""
    drained: bool = False
    """it gets nothing new, as we or its host said last"""

    @property
    def circuit(self) -> Circuit:
        """Now."""
        return self.breaker.circuit(asyncio.get_running_loop().time())

    def is_again(self, before: Worker) -> bool:
        """Whether it is the one that had its name before: on a host that was started again here,
        or a tree.  Of a host that others start again its drain is theirs to repeat."""
        if not self.mount.of_worker:
            return not before.mount.of_worker
        name = self.host.started_as
        return name is not None and name == before.host.started_as

    def may_move(self, host: Host, there: str) -> bool:
        """Whether it is what the host, which came back, calls `there`, and nobody has looked
        into it since it was mounted, so that nothing ties it to the connection that was lost."""
        before = self.host
        return (
            before.lost
            and (before.address, before.epoch, self.there) == (host.address, host.epoch, there)
            and not any(mount.attached for mount in self.mounts.values())
        )

    def told(self, line: WorkerLine) -> None:
        """What its host said of it."""
        if "draining" in (line.state, self.state):  # a host that was started again knows no drain
            self.drained = line.state == "draining"
        self.state, self.active, self.queued = line.state, line.active, line.queued
        self.requests, self.tokens, self.errors = line.requests, line.tokens, line.errors

    def offered(self, offer: Offer) -> None:
        """What the nested orchestrator said that it is."""
        self.capacity = offer.slots
        self.active, self.queued = offer.requests, offer.waiting
        decodes = offer.requests > offer.waiting
        self.state = "decode" if decodes else "queued" if offer.waiting else "idle"


@dataclass(slots=True, eq=False, weakref_slot=True)
class Host:
    """A server and what is mounted from it.  Make it with `connect`."""

    address: Address
    client: Client
    control: Client
    root: int
    """the fid of its own root, attached on `control`"""
    uname: str
    """as whom the owner attaches there, "" for whom the connection shows us to be"""
    trust: Trust
    pulse: Pulse
    user_lost: Callable[[Host, str], None]
    """is told when the connection of a user ends, and no other does"""
    types: frozenset[str] = frozenset({UNKNOWN})
    """its node type, or those that a nested orchestrator has"""
    model: str = "-"
    context: int | None = None
    """tokens of a sequence, when the server says so"""
    epoch: int | None = None
    """None for a server that has none"""
    offer: Offer | None = None
    """of a nested orchestrator, the newest"""
    process: Launched | None = None
    """when we started it"""
    workers: dict[str, Worker] = field(default_factory=dict)
    """by what they are called there"""
    joined: bool = False
    """it has, or had, workers here"""
    settings: dict[str, str] | None = None
    """lines of a new conversation's `ctl` there, by their first word; None: not asked yet"""
    heartbeat: float = 0.0
    """time.time() of the last one"""
    watcher: asyncio.Task[None] | None = None
    has_workers_file: bool = False
    whole: WholeTree | None = None
    """the one mount of a server that is none of our hosts, nested orchestrators included"""
    expected: bool = True
    """to come back when it is lost"""
    lost: bool = False
    last_words: str = ""
    """why its engine does not work any more, when the host has said that"""
    kept: bool = False
    """it is started again when it ends, and its workers' names are for nobody else"""
    closed: bool = False
    turns: Turns[Request] = field(default_factory=Turns)
    """of the orchestrator's requests"""
    users: dict[str, asyncio.Task[Client]] = field(default_factory=dict)
    """the connections of users other than the owner"""
    lines: frozenset[str] = frozenset()
    """of `workers`, when it was read last"""
    told: int = 0
    """verbs to its workers, of which a `workers` that was read before them may not know"""

    @classmethod
    async def connect(
        cls,
        address: Address,
        uname: str,
        trust: Trust,
        pulse: Pulse,
        user_lost: Callable[[Host, str], None],
        version: str,
        epoch: int | None = None,
        whole: WholeTree | None = None,
    ) -> Host:
        """Raises Error naming the address, also when nobody answers there in time, and
        Stale when the host has another epoch."""
        opened: list[Client] = []
        msize = c.DEFAULT_MSIZE if version == c.VERSION_9P2000_U else c.STRANGERS_MSIZE
        try:
            async with in_time(address):
                for _ in range(2):
                    opened.append(await Client.connect(address, version, trust, msize))
                client, control = opened
                root, _ = await control.attach(uname, _aname("", epoch, whole))
        except BaseException:
            for connection in opened:
                connection.close()
            raise
        host = cls(address, client, control, root, uname, trust, pulse, user_lost, epoch=epoch)
        host.whole = whole
        return host

    @classmethod
    def absent(
        cls,
        address: Address,
        uname: str,
        trust: Trust,
        pulse: Pulse,
        user_lost: Callable[[Host, str], None],
    ) -> Host:
        """One that is lost and was never connected to."""
        nobody = Client.gone(address, "it is not mounted again yet")
        host = cls(address, nobody, nobody, 0, uname, trust, pulse, user_lost)
        host.lost = host.closed = True
        return host

    @property
    def slots(self) -> int:
        """Its workers share them."""
        return next((worker.capacity for worker in self.workers.values()), 0)

    @property
    def drained(self) -> bool:
        """None of its workers gets anything new."""
        return all(worker.health is Health.DRAINING for worker in self.workers.values())

    @property
    def type(self) -> str:
        """As it is shown."""
        return ",".join(sorted(self.types)) or UNKNOWN

    @property
    def started_as(self) -> str | None:
        """Its name, by which its log is in `logs/`, too; None if it was not started here."""
        return None if self.process is None else self.process.spec.name

    @property
    def comes_back(self) -> bool:
        """When it is lost: it is tried at its address until it is unmounted, or gives up its
        lease."""
        return self.joined and self.process is None and self.expected

    def has_type(self, node_type: str) -> bool:
        """Whether it may answer who asks for that type, or with "" for none."""
        return not node_type or node_type in self.types

    @property
    def adds(self) -> Offer | None:
        """What it adds to what we offer, when it can answer."""
        if self.lost:
            return None
        workers = [
            worker
            for worker in self.workers.values()
            if worker.health in (Health.HEALTHY, Health.DEGRADED) and worker.answers
        ]
        if self.offer is not None:
            return self.offer if workers else Offer(self.offer.ids)
        if not workers:
            return None
        return Offer(
            engines=1,
            slots=workers[0].capacity,
            types=self.types - {UNKNOWN},
            models=frozenset({self.model}),
            context=self.context,
            waiting=sum(worker.queued for worker in workers),
        )

    async def learn(self) -> int:
        """Read what a host of ours says of itself; how many slots it has.  Raises Error, Stale
        when it has not the epoch that it says."""
        async with in_time(self.address):
            status = said.attributes(await self.read("status", said.STATUS_BYTES))
        if "orchestrators" in status:
            raise not_a_host(self.address)
        with self.understood("status"):
            context = said.whole(status["context"], said.TOKENS) if "context" in status else None
            epoch = said.whole(status["epoch"], said.EPOCHS - 1) if "epoch" in status else None
            slots = said.whole(status.get("slots", "1"), said.MANY)
            node_type = said.node_type(status["type"]) if "type" in status else UNKNOWN
            model = said.title(status.get("model", "-"))
        if epoch != self.epoch:
            async with in_time(self.address):
                fid, _ = await self.control.attach(self.uname, _aname("", epoch))
            self.control.forget(fid)
        self.types = frozenset({node_type})
        self.model, self.context, self.epoch = model, context, epoch
        self.is_ours()
        return slots

    def is_ours(self) -> None:
        """The server is known to be one of ours."""
        self.client.is_ours = self.control.is_ours = True

    def says_lost(self, error: Error) -> bool:
        """Whether by this error a host of ours says that its engine does not work any more.  What
        a nested orchestrator passes on is about one of its hosts."""
        return isinstance(error, HostLost) and self.has_workers_file

    @contextlib.contextmanager
    def understood(self, file: str) -> Iterator[None]:
        """Raises Error naming the file when there is no sense in what it says."""
        try:
            yield
        except ValueError as e:
            raise Error(f"{self.address}: its {file} file is not understood: {e}") from e

    def aname(self, there: str) -> str:
        """By which one worker of it is attached, or its whole tree."""
        return _aname(there, self.epoch, self.whole)

    async def read(self, path: str, most: int) -> str:
        """A file of the host's own tree, of at most so many bytes.  Raises Error."""
        async with await self.control.open(self.root, path, c.OREAD) as file:
            data = await file.read_all(most)
        with self.understood(path):
            return said.text(data)

    async def write(self, path: str, text: str) -> None:
        """Write a file of the host's own tree.  Raises Error."""
        async with await self.control.open(self.root, path, c.OWRITE) as file:
            await file.write(text.encode())

    async def answers(self) -> None:
        """The heartbeat of a server that nothing is known of.  Raises Error."""
        await self.control.call(m.Tstat(0, self.root), m.Rstat)

    async def offers(self) -> Offer:
        """The heartbeat of a nested orchestrator.  Raises Error."""
        offer = Offer.parse(await self.read("status", said.STATUS_BYTES))
        if offer is None:
            raise Error(f"{self.address} is no orchestrator any more")
        return offer

    async def workers_text(self) -> str:
        """Its file `workers`.  Raises Error."""
        return await self.read("workers", said.WORKERS_BYTES)

    async def lines_now(self) -> dict[str, WorkerLine]:
        """What it says at this moment of each worker that it has, mounted or not, as it calls
        them.  Raises Error."""
        async with in_time(self.address):
            text = await self.workers_text()
        return self.lines_in(text)

    def lines_in(self, text: str) -> dict[str, WorkerLine]:
        """Those of `workers`.  Raises Error."""
        with self.understood("workers"):
            return said.worker_lines(text.splitlines())

    def check_works(self, text: str) -> None:
        """Raises HostLost when the host says in `workers` that its engine does not work any
        more."""
        if " lost " in text:
            self.last_words = self.last_words or f"{HostLost.ename}: {self.address} says so"
            raise HostLost(self.last_words)

    def changes(self, text: str) -> tuple[dict[str, WorkerLine], set[str]]:
        """What `workers` says that it did not say last time: of each worker of which the line
        changed, and those that are gone.  Raises Error.

        Of a host that is idle nothing is parsed; lines that stay cost a set's membership.
        """
        lines = frozenset(text.splitlines())
        with self.understood("workers"):
            fresh = said.worker_lines(lines - self.lines)
            before = {line.split()[0] for line in self.lines - lines}
            for there in fresh.keys() & self.workers.keys() - before:  # its old line is there, too
                raise ValueError(f"{there!r} is there twice")
        self.lines = lines
        return fresh, before - fresh.keys()

    async def connection(self) -> Client:
        """The owner's, as `Mount` has it."""
        return self.client

    # -- users --------------------------------------------------------------------

    async def client_of(self, user: str) -> Client:
        """The connection for a user that is not the owner: his own, so that its fids and
        tags are his to use up, and nobody else's."""
        if self.closed:
            raise WorkerLost(f"{WorkerLost.ename}: {self.address}")
        connecting = self.users.get(user)
        if connecting is None:
            loop = asyncio.get_running_loop()
            connecting = self.users[user] = loop.create_task(self._connect_user(user))
        try:
            return await asyncio.shield(connecting)
        except Error:
            if self.users.get(user) is connecting:
                del self.users[user]  # the next one tries again
            raise
        except asyncio.CancelledError:
            if connecting.cancelled():  # and not we
                raise WorkerLost(f"{WorkerLost.ename}: {self.address}") from None
            raise

    async def _connect_user(self, user: str) -> Client:
        async with in_time(self.address):
            client = await Client.connect(
                self.address, self.client.dialect.version, self.trust, self.client.msize
            )
            client.is_ours = self.client.is_ours
        if self.closed:
            client.close()
            raise WorkerLost(f"{WorkerLost.ename}: {self.address}")
        client.lost.add_done_callback(lambda _: self._user_gone(user))
        return client

    def _user_gone(self, user: str) -> None:
        self.users.pop(user, None)
        if not self.closed:
            self.user_lost(self, user)

    def close(self) -> None:
        """Close all connections."""
        if self.closed:
            return
        self.closed = True
        self.client.close()
        self.control.close()
        for connecting in self.users.values():
            if not connecting.done():
                connecting.cancel()
            elif not connecting.cancelled() and connecting.exception() is None:
                connecting.result().close()


class Look(NamedTuple):
    """What can be seen of a server that is to be mounted whole."""

    answers: bool
    """its root has a worker's files"""
    ours: bool
    """it is an orchestrator, or a host"""
    version: str
    """that it speaks"""
    offer: Offer | None = None
    """of an orchestrator"""


async def look(address: Address, uname: str, aname: str, trust: Trust) -> Look:
    """Raises Error."""
    async with in_time(address):
        client = await Client.dial(address, (c.VERSION_9P2000, c.VERSION_9P2000_L), trust)
        version = client.dialect.version
        try:
            root, _ = await client.attach(uname, aname)
            entries = await _entries(client, root)
            answers, is_host = entries >= _WORKER_FILES, entries >= _HOST_FILES
            if not (answers or is_host) or "status" not in entries:
                return Look(answers, False, version)
            async with await client.open(root, "status", c.OREAD) as file:
                status = (await file.read_all(said.STATUS_BYTES)).decode(errors="replace")
            offer = Offer.parse(status) if answers else None
            ours = offer is not None or (is_host and "\nepoch " in status)
            return Look(answers, ours, c.VERSION_9P2000_U if ours else version, offer)
        finally:
            client.close()


async def _entries(client: Client, root: int) -> set[str]:
    async with await client.open(root, "", c.OREAD) as file:
        return {entry.name for entry in await file.read_dir()}


def not_a_host(address: Address) -> Error:
    return InvalidArgument(f"{address} is no host: mount it with a name")


def _aname(there: str, epoch: int | None, whole: WholeTree | None = None) -> str:
    if whole is not None:
        return whole.aname
    return there if epoch is None else f"{there}@{epoch}"


@contextlib.asynccontextmanager
async def in_time(address: Address) -> AsyncIterator[None]:
    """Raises TimedOut naming the address when what is inside takes too long."""
    try:
        async with asyncio.timeout(CONNECT_S):
            yield
    except TimeoutError:
        raise TimedOut(f"{TimedOut.ename}: {address} does not answer") from None
