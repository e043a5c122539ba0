"""A cluster inside one event loop: simulated hosts, an orchestrator, a client.

Everything is real but the model and the processes: hosts and orchestrator listen on
TCP, and are mounted and dialled as in a real cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from llambo9p.cluster.config import Cluster
from llambo9p.cluster.namespace import Orchestrator
from llambo9p.engine.simulated import Gate, SimulatedRunner
from llambo9p.engine.thread import DecodeThread
from llambo9p.net.address import Address, parse
from llambo9p.net.client import Client, RemoteOpen
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from llambo9p.p9.wire import unpack_dirs
from llambo9p.worker.host import Host


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition()`; the test's time limit bounds it."""
    while not condition():  # noqa: ASYNC110 (there is no event to wait for)
        await asyncio.sleep(0.001)


ANYWHERE = parse("tcp!127.0.0.1!0")


@dataclass
class SimulatedHost:
    address: Address
    server: Server
    host: Host
    engine: DecodeThread

    def kill(self) -> None:
        """As `kill -9` looks to its clients."""
        for connection in list(self.server.connections):
            connection.abort()


@contextlib.asynccontextmanager
async def simulated_host(
    count: int = 1,
    first: int = 0,
    *,
    answer: Callable[[str], bytes] | None = None,
    gate: Gate | None = None,
) -> AsyncIterator[SimulatedHost]:
    options = {} if answer is None else {"answer": answer}
    engine = DecodeThread(SimulatedRunner(gate=gate, **options))
    await engine.start()
    host = Host(
        engine, engine.info, node_type="tiny", context_size=4096, shutdown=lambda: None
    )
    host.grow(count, first)
    server = Server(host.attach)
    address = await server.listen(ANYWHERE)
    try:
        yield SimulatedHost(address, server, host, engine)
    finally:
        if gate is not None:
            gate.open()
        await server.close()
        await engine.stop()


class Files:
    """Whole-file operations of one client below one root."""

    def __init__(self, client: Client, root: int) -> None:
        self.client = client
        self.root = root

    async def open(self, path: str, mode: int = c.OREAD) -> RemoteOpen:
        return await self.client.open(self.root, path, mode)

    async def read(self, path: str) -> str:
        async with await self.open(path) as file:
            return (await file.read_all()).decode()

    async def write(self, path: str, text: str) -> None:
        file = await self.open(path, c.OWRITE)
        await file.write(text.encode())
        await file.clunk()

    async def ls(self, path: str = "") -> list[str]:
        async with await self.open(path) as file:
            return [entry.name for entry in unpack_dirs(await file.read_all())]

    async def attrs(self, path: str) -> dict[str, str]:
        """A file of `attr value` lines."""
        return dict(line.split(" ", 1) for line in (await self.read(path)).splitlines())


@contextlib.asynccontextmanager
async def files_of(address: Address, aname: str = "") -> AsyncIterator[Files]:
    client = await Client.connect(address)
    try:
        root, _ = await client.attach("glenda", aname)
        yield Files(client, root)
    finally:
        client.close()


@dataclass
class RunningCluster:
    orchestrator: Orchestrator
    address: Address
    files: Files


@contextlib.asynccontextmanager
async def cluster(config: Cluster | None = None) -> AsyncIterator[RunningCluster]:
    orchestrator = Orchestrator(config or Cluster(), lambda: None)
    server = Server(orchestrator.attach)
    address = await server.listen(ANYWHERE)
    try:
        async with files_of(address) as files:
            yield RunningCluster(orchestrator, address, files)
    finally:
        await orchestrator.close()
        await server.close()
