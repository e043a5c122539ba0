"""The table of what is mounted: hosts, their workers, and what became of them.

It owns connections: it mounts a host's workers below the root, notices when a host
is lost (its connection ends, or it misses heartbeats), and tells the balancer who
may be chosen.  A lost worker stays in the table, and its directory in the tree, until
another takes its name, so that one sees what was lost; operations on it fail at once.

A host has two connections: `client` for what clients do in the mounted trees, and
`control` for heartbeats and verbs, which no crowd of clients can hold up.  Users other
than the owner have one each, from the first time that they look into a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from ..errors import (
    Error,
    Exists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    TimedOut,
    WorkerLost,
)
from ..fs.tree import Directory, TextFile, Tree
from ..net.address import Address
from ..net.client import Client
from ..p9 import constants as c
from .balancer import Balancer
from .launch import LocalHost
from .remote import Mount

log = logging.getLogger(__name__)

_CONNECT_S = 10.0
"""for a server to be connected to and attached"""
_PATIENCE_S = 10.0
"""the least that a host has to answer a heartbeat: a client that writes megabytes can keep
an event loop, the host's or ours, from everything else for seconds"""
_WORKER_FILES = {"ctl", "prompt", "out", "tokens", "clone", "usage"}


@dataclass(slots=True, eq=False)
class Worker:
    """A mounted worker, or a mounted tree that is none (`capacity` 0)."""

    name: str
    host: Host
    mount: Mount
    """as the owner sees it"""
    mounts: dict[str, Mount] = field(default_factory=dict)
    """that one, and those of other users, by name"""
    state: str = "idle"
    """as its host said last; `lost` when the host is"""
    active: int = 0
    queued: int = 0
    requests: int = 0
    tokens: int = 0
    errors: int = 0
    capacity: int = 0
    """requests it can decode at once: its host's slots"""


@dataclass(slots=True, eq=False)
class Host:
    """A server and what is mounted from it."""

    address: Address
    client: Client
    control: Client
    type: str = "-"
    model: str = "-"
    epoch: int = 0
    process: LocalHost | None = None
    """when we started it"""
    workers: dict[str, Worker] = field(default_factory=dict)
    heartbeat: float = 0.0
    """time.time() of the last one"""
    watcher: asyncio.Task[None] | None = None
    root: int = 0
    """the fid of its own root, attached on `control`"""
    has_workers_file: bool = False
    lost: bool = False
    users: dict[str, asyncio.Task[Client]] = field(default_factory=dict)
    """the connections of users other than the owner"""

    def close(self) -> None:
        """Close all connections."""
        self.client.close()
        self.control.close()
        for connecting in self.users.values():
            if not connecting.done():
                connecting.cancel()
            elif not connecting.cancelled() and connecting.exception() is None:
                connecting.result().close()


@contextlib.asynccontextmanager
async def _in_time(address: Address) -> AsyncIterator[None]:
    """Raises TimedOut naming the address when what is inside takes too long."""
    try:
        async with asyncio.timeout(_CONNECT_S):
            yield
    except TimeoutError:
        raise TimedOut(f"{TimedOut.ename}: {address} does not answer") from None


class Members:
    """See the module.  `tls` is for hosts at `tls!` addresses."""

    def __init__(
        self,
        tree: Tree,
        balancer: Balancer,
        interval: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.hosts: list[Host] = []
        self.workers: dict[str, Worker] = {}
        self._tree = tree
        self._roots: dict[str, tuple[Directory, Directory]] = {}
        """root and `nodes` of each user"""
        self._tls = tls
        self._balancer = balancer
        self._interval = interval
        """seconds between heartbeats; a host that answers none for as long, or for
        `_PATIENCE_S` if that is longer, is lost"""
        self._epoch = 0

    # -- what users see -----------------------------------------------------------

    def show_to(self, user: str, root: Directory, nodes: Directory) -> None:
        """Put what is mounted, now and later, into the `root` of one more user, and a
        file for each worker into its `nodes`.  The owner comes first."""
        self._roots[user] = root, nodes
        for worker in self.workers.values():
            self._show(worker, user)

    def _show(self, worker: Worker, user: str) -> None:
        _, nodes = self._roots[user]
        nodes.add(TextFile(self._tree, worker.name, lambda: self._node_text(worker)))
        self._show_mount(worker, user)

    def _show_mount(self, worker: Worker, user: str) -> None:
        root, _ = self._roots[user]
        mount = worker.mount
        if user != self._tree.owner:
            host = worker.host
            aname = worker.name if mount.of_worker else ""
            refusal = None
            if host.address.net == "tcp":
                refusal = PermissionDenied(
                    f"{PermissionDenied.ename}: {worker.name} is mounted over plain TCP, which "
                    "does not tell one user from another"
                )
            mount = Mount(
                self._tree, worker.name, lambda: self._client_of(host, user), user, aname, refusal
            )
        mount.parent = root
        worker.mounts[user] = mount
        root.add(mount)

    async def _client_of(self, host: Host, user: str) -> Client:
        """The connection to the host for a user that is not the owner: his own, so that
        its fids and tags are his to use up, and nobody else's."""
        connecting = host.users.get(user)
        if connecting is None:
            loop = asyncio.get_running_loop()
            connecting = host.users[user] = loop.create_task(self._connect_user(host, user))
        try:
            return await asyncio.shield(connecting)
        except Error:
            if host.users.get(user) is connecting:
                del host.users[user]  # the next one tries again
            raise
        except asyncio.CancelledError:
            if connecting.cancelled():  # and not we
                raise WorkerLost(f"{WorkerLost.ename}: {host.address}") from None
            raise

    async def _connect_user(self, host: Host, user: str) -> Client:
        async with _in_time(host.address):
            client = await Client.connect(host.address, host.client.dialect.version, self._tls)
        if host.lost or host not in self.hosts:
            client.close()
            raise WorkerLost(f"{WorkerLost.ename}: {host.address}")
        client.lost.add_done_callback(lambda _: self._user_lost(host, user))
        return client

    def _user_lost(self, host: Host, user: str) -> None:
        """His connection is gone.  What he has open on it has failed; if the host is still
        there he sees its trees anew."""
        host.users.pop(user, None)
        if host.lost or host not in self.hosts:
            return
        root, _ = self._roots[user]
        for worker in host.workers.values():
            root.discard(worker.name)
            worker.mounts[user].unmount()
            self._show_mount(worker, user)

    def _taken(self, name: str) -> bool:
        root, _ = self._roots[self._tree.owner]
        return root.find(name) is not None

    # -- joining ------------------------------------------------------------------

    async def add_host(self, address: Address, process: LocalHost | None = None) -> Host:
        """Connect to a host of ours and mount all its workers; `process` is stopped
        when that fails."""
        try:
            host = await self._connect(address, c.VERSION_9P2000_U)
        except BaseException:
            if process is not None:
                await process.stop()
            raise
        host.process = process
        try:
            await self.mount_workers(host, await self.names_on(host))
            host.has_workers_file = True
        except BaseException:
            await self.remove_host(host)
            raise
        return host

    async def names_on(self, host: Host) -> list[str]:
        """The workers that a host has, mounted or not."""
        return [line.split()[0] for line in (await self._read(host, "workers")).splitlines()]

    async def mount_workers(self, host: Host, names: list[str]) -> None:
        """Mount workers that a host has, under their own names."""
        status = dict(
            line.split(" ", 1) for line in (await self._read(host, "status")).splitlines()
        )
        host.type, host.model = status.get("type", "-"), status.get("model", "-")
        for name in names:
            if name not in host.workers:
                await self._mount(host, name, name, int(status.get("slots", 1)))

    async def mount(self, address: Address, name: str | None) -> None:
        """`mount ADDR [NAME]`: a host's workers, those that are not mounted yet, or with
        NAME the whole tree there, which is balanced over if it has a worker's files.
        Raises Error."""
        if name is None:
            await self._mount_host(address)
            return
        host = await self._connect(address)
        try:
            async with _in_time(address):
                entries = await self._entries(host)
            await self._mount(host, name, "", 1 if _WORKER_FILES <= entries else 0)
        except BaseException:
            await self.remove_host(host)
            raise

    async def _mount_host(self, address: Address) -> None:
        for host in self.hosts:
            if host.address == address and host.has_workers_file and not host.lost:
                names = [n for n in await self.names_on(host) if n not in host.workers]
                if not names:
                    raise Exists(f"all workers of {address} are mounted")
                await self.mount_workers(host, names)
                return
        try:
            await self.add_host(address)
        except NotFound:
            raise InvalidArgument(f"{address} is no host: mount it with a name") from None

    def mounted(self, name: str) -> Worker:
        """What is mounted as `name`.  Raises NotFound."""
        worker = self.workers.get(name)
        if worker is None:
            raise NotFound(f"nothing is mounted as {name}")
        return worker

    def neighbours(self, name: str) -> frozenset[str]:
        """The workers of a worker's host, itself among them."""
        return frozenset(self.mounted(name).host.workers)

    async def unmount(self, name: str) -> None:
        """Take it out of the tree; a worker of a host that we started ends, too."""
        worker = self.mounted(name)
        host = worker.host
        if host.process is not None and not host.lost:
            await self.write(host, f"{name}/ctl", "shutdown")
        self._drop_worker(worker)
        if not host.workers:
            await self.remove_host(host)

    async def write(self, host: Host, path: str, text: str) -> None:
        """Write a file of the host's own tree.  Raises Error."""
        async with await host.control.open(host.root, path, c.OWRITE) as file:
            await file.write(text.encode())

    async def _connect(self, address: Address, version: str = c.VERSION_9P2000) -> Host:
        """Raises Error naming the address, also when nobody answers there in time.

        Hosts of ours are spoken to in 9P2000.u, whose errors have an errno; strangers
        in plain 9P2000, for some answer to every version and speak but one.
        """
        opened: list[Client] = []
        try:
            async with _in_time(address):
                for _ in range(2):
                    opened.append(await Client.connect(address, version, self._tls))
                client, control = opened
                root, _ = await control.attach(self._tree.owner)
        except BaseException:
            for connection in opened:
                connection.close()
            raise
        self._epoch += 1
        host = Host(address, client, control, epoch=self._epoch, heartbeat=time.time(), root=root)
        self.hosts.append(host)
        host.watcher = asyncio.get_running_loop().create_task(self._watch(host))
        return host

    async def _mount(self, host: Host, name: str, aname: str, capacity: int) -> None:
        before = self.workers.get(name)
        if before is not None and before.state == "lost":
            self._drop_worker(before)
            if not before.host.workers:
                await self.remove_host(before.host)
        if self._taken(name):
            raise Exists(f"{name} exists already")
        async def connection() -> Client:
            return host.client

        mount = Mount(self._tree, name, connection, self._tree.owner, aname)
        async with _in_time(host.address):
            await mount.attach()
        if self._taken(name):  # while we waited
            mount.unmount()
            raise Exists(f"{name} exists already")
        worker = Worker(name, host, mount, capacity=capacity)
        host.workers[name] = self.workers[name] = worker
        for user in self._roots:
            self._show(worker, user)
        if capacity:
            self._balancer.add(name)

    # -- leaving ------------------------------------------------------------------

    def _drop_worker(self, worker: Worker) -> None:
        if self.workers.get(worker.name) is not worker:
            return  # by a heartbeat meanwhile
        self._balancer.remove(worker.name)
        for root, nodes in self._roots.values():
            root.discard(worker.name)
            nodes.discard(worker.name)
        self.workers.pop(worker.name, None)
        worker.host.workers.pop(worker.name, None)
        for mount in worker.mounts.values():
            mount.unmount()

    async def remove_host(self, host: Host) -> None:
        """Unmount all of a host, and stop it if we started it."""
        for worker in list(host.workers.values()):
            self._drop_worker(worker)
        if host in self.hosts:
            self.hosts.remove(host)
        if host.watcher is not None:
            host.watcher.cancel()
        host.close()
        if host.process is not None:
            await host.process.stop()

    async def close(self) -> None:
        await asyncio.gather(*(self.remove_host(host) for host in list(self.hosts)))

    def _host_lost(self, host: Host) -> None:
        host.lost = True
        host.close()
        for worker in host.workers.values():
            worker.state = "lost"
            worker.active = worker.queued = 0
            self._balancer.remove(worker.name)
        log.warning("host %s is lost with %d workers", host.address, len(host.workers))

    # -- watching -----------------------------------------------------------------

    async def _watch(self, host: Host) -> None:
        """Heartbeats until a connection ends or one is not answered in time."""
        ends = (host.client.lost, host.control.lost)
        try:
            while not any(end.done() for end in ends):
                await asyncio.wait(ends, timeout=self._interval, return_when="FIRST_COMPLETED")
                if not any(end.done() for end in ends):
                    await asyncio.wait_for(
                        self._heartbeat(host), max(self._interval, _PATIENCE_S)
                    )
        except (Error, TimeoutError) as e:
            log.warning("host %s: no heartbeat: %s", host.address, str(e) or "not in time")
        except Exception:
            log.exception("host %s: a heartbeat that cannot be read", host.address)
        self._host_lost(host)
        if host.process is not None:
            await host.process.stop()

    async def _heartbeat(self, host: Host) -> None:
        if not host.has_workers_file:
            await self._entries(host)
            host.heartbeat = time.time()
            return
        text = await self._read(host, "workers")
        host.heartbeat = time.time()
        said = {words[0]: words[1:] for words in map(str.split, text.splitlines())}
        for worker in list(host.workers.values()):
            if worker.name not in said:  # `shutdown` was written to its ctl
                self._drop_worker(worker)
                continue
            state, active, queued, requests, tokens, errors = said[worker.name]
            worker.state = state
            worker.active, worker.queued, worker.requests = int(active), int(queued), int(requests)
            worker.tokens, worker.errors = int(tokens), int(errors)
            if state == "draining":
                self._balancer.remove(worker.name)
            else:
                self._balancer.add(worker.name)

    async def _read(self, host: Host, path: str) -> str:
        async with await host.control.open(host.root, path, c.OREAD) as file:
            return (await file.read_all()).decode()

    async def _entries(self, host: Host) -> set[str]:
        async with await host.control.open(host.root, "", c.OREAD) as file:
            return {entry.name for entry in host.control.dialect.unpack_dirs(await file.read_all())}

    def _node_text(self, worker: Worker) -> str:
        host = worker.host
        attrs = {
            "id": worker.name,
            "addr": host.address,
            "type": host.type,
            "state": worker.state,
            "model": host.model,
            "capacity": worker.capacity,
            "load": worker.active,
            "queued": worker.queued,
            "requests": worker.requests,
            "tokens": worker.tokens,
            "errors": worker.errors,
            "heartbeat": f"{host.heartbeat:.3f}",
            "epoch": host.epoch,
        }
        return "".join(f"{name} {value}\n" for name, value in attrs.items())
