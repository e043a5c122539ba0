"""A cluster inside one event loop: simulated hosts, an orchestrator, a client.

Everything is real but the model and the processes: hosts and orchestrator listen on
TCP, and are mounted and dialled as in a real cluster.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llambo9p.cluster.config import Cluster
from llambo9p.cluster.namespace import Orchestrator
from llambo9p.conversation.limits import Limits
from llambo9p.engine.simulated import Gate, SimulatedRunner
from llambo9p.engine.thread import DecodeThread
from llambo9p.net.address import Address
from llambo9p.net.server import Server
from llambo9p.worker.host import Host
from tests.files import ANYWHERE, Files, files_of


@dataclass
class SimulatedHost:
    address: Address
    server: Server
    host: Host
    engine: DecodeThread

    def kill(self) -> None:
        """As `kill -9` looks to its clients."""
        for listening in self.server._servers:
            listening.close()
        for connection in list(self.server.connections):
            connection.abort()


@contextlib.asynccontextmanager
async def simulated_host(
    count: int = 1,
    first: int = 0,
    *,
    node_type: str = "tiny",
    answer: Callable[[str], bytes] | None = None,
    gate: Gate | None = None,
    at: Address = ANYWHERE,
    n_ctx: int = 4096,
    slots: int = 16,
    poison: bytes = b"",
    limits: Limits | None = None,
    epoch: int = 1,
    step_timeout: float = 10.0,
) -> AsyncIterator[SimulatedHost]:
    options = {} if answer is None else {"answer": answer}
    engine = DecodeThread(
        SimulatedRunner(gate=gate, n_ctx=n_ctx, n_seq=slots, poison=poison, **options),
        step_timeout=step_timeout,
    )
    await engine.start()
    host = Host(
        engine,
        engine.info,
        node_type=node_type,
        context_size=n_ctx,
        shutdown=lambda: None,
        limits=limits,
        epoch=epoch,
        knows_users=at.net != "tcp",
    )
    host.grow(count, first)
    server = Server(host.attach)
    address = await server.listen(at)
    try:
        yield SimulatedHost(address, server, host, engine)
    finally:
        if gate is not None:
            gate.open()
        await server.close()
        await engine.stop()


@dataclass
class RunningCluster:
    orchestrator: Orchestrator
    server: Server
    address: Address
    files: Files


@contextlib.asynccontextmanager
async def cluster(
    config: Cluster | None = None, models: Sequence[Path] = (), insecure: bool = False
) -> AsyncIterator[RunningCluster]:
    """`models` are directories with models."""
    config = (config or Cluster()).overridden(list(models), None)
    with tempfile.TemporaryDirectory(prefix="llambo-") as directory:
        config = config.with_state(Path(directory) / "state")
        orchestrator = Orchestrator(config, lambda: None, insecure=insecure)
        server = Server(orchestrator.attach)
        address = await server.listen(ANYWHERE)
        try:
            async with files_of(address) as files:
                yield RunningCluster(orchestrator, server, address, files)
        finally:
            await orchestrator.close()
            await server.close()
