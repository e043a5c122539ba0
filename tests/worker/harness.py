"""A host of simulated workers behind a real server, and one client of its root."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from llambo9p.engine.thread import DecodeThread
from llambo9p.net.client import RemoteOpen
from llambo9p.net.server import Attach
from llambo9p.worker.host import Host
from tests.files import Files

from ..conversation.harness import Served, served


@dataclass
class Place(Served):
    host: Host
    files: Files
    shutdowns: list[str]
    """grows by one when somebody shuts the host down"""

    async def submitted(self, path: str, prompt: str) -> RemoteOpen:
        """Write `prompt` and open its `out`."""
        await self.files.write(f"{path}/prompt", prompt)
        return await self.files.open(f"{path}/out")


@contextlib.asynccontextmanager
async def hosting(count: int = 1, first: int = 0, **options: Any) -> AsyncIterator[Place]:
    """`options` are those of `served`."""
    hosts: list[Host] = []
    shutdowns: list[str] = []

    def attach(engine: DecodeThread) -> Attach:
        host = Host(
            engine,
            engine.info,
            node_type="tiny",
            context_size=4096,
            shutdown=lambda: shutdowns.append("shutdown"),
        )
        host.grow(count, first)
        hosts.append(host)
        return host.attach

    async with served(attach, **options) as s, s.connect() as files:
        yield Place(s.engine, s.runner, s.server, s.address, hosts[0], files, shutdowns)
