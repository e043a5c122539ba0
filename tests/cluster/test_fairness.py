"""Users of an orchestrator take turns: for the hosts' room, and in the hosts for slots.

In one event loop, with gates that hold the hosts; who attaches as whom is as in `test_users`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llambo9p.cluster.config import Cluster
from llambo9p.cluster.namespace import Orchestrator
from llambo9p.engine.simulated import Gate
from llambo9p.fs.user import owner
from llambo9p.net.address import Address, parse
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from tests.files import ANYWHERE, Files, files_of, story, until

from .harness import SimulatedHost, simulated_host

ME = owner().name
SLOTS, QUEUE = 2, 1


@dataclass
class Place:
    alice: Files
    bob: Files
    host: SimulatedHost
    gate: Gate
    begun: list[str] = field(default_factory=list)
    """prompts in the order in which they got a slot"""
    reads: list[asyncio.Future[bytes]] = field(default_factory=list)

    async def ask(self, files: Files, text: str, setting: str = "") -> asyncio.Future[bytes]:
        if setting:
            await files.write("ctl", setting)
        data = await files.open("data", c.ORDWR)
        await data.write(text.encode())
        answer = asyncio.ensure_future(data.read_all())
        self.reads.append(answer)
        await asyncio.sleep(0)  # now the read is on its way, and the query is submitted by it
        return answer

    @property
    def held(self) -> int:
        return self.host.engine.load.active + self.host.engine.load.queued


@contextlib.asynccontextmanager
async def orchestrator(
    directory: Path, name: str, mounted: Address
) -> AsyncIterator[tuple[Orchestrator, Address]]:
    """One that has mounted what is there."""
    config = Cluster.model_validate({"limits": {"queue_per_host": QUEUE}})
    running = Orchestrator(config, lambda: None)
    server = Server(running.attach)
    try:
        address = await server.listen(parse(f"unix!{directory}/{name}"))
        async with files_of(address, uname=ME) as files:
            await files.write("ctl", f"mount {mounted}" + (" region" if name == "top" else ""))
        yield running, address
    finally:
        await running.close()
        await server.close()


@contextlib.asynccontextmanager
async def place(
    directory: Path, levels: int = 1, host_at: Address | None = None
) -> AsyncIterator[tuple[Place, Orchestrator]]:
    gate = Gate()
    begun: list[str] = []

    def answer(prompt: str) -> bytes:
        begun.append(prompt)
        return prompt.encode()

    at = host_at or parse(f"unix!{directory}/host")
    async with contextlib.AsyncExitStack() as stack:
        host = await stack.enter_async_context(
            simulated_host(1, gate=gate, slots=SLOTS, answer=answer, at=at)
        )
        running, address = await stack.enter_async_context(
            orchestrator(directory, "orchestrator", host.address)
        )
        for _ in range(levels - 1):
            running, address = await stack.enter_async_context(
                orchestrator(directory, "top", address)
            )
        users = [
            await stack.enter_async_context(files_of(address, uname=name))
            for name in ("alice", "bob")
        ]
        yield Place(*users, host, gate, begun), running


@pytest.mark.parametrize("levels", [1, 2])
@story
async def test_one_request_is_not_behind_another_users_hundred(tmp_path: Path, levels: int) -> None:
    """It is sent beyond the host's room, and has the next slot there."""
    async with place(tmp_path, levels) as (there, running):
        for number in range(30):
            await there.ask(there.alice, f"alice {number:02}")
        engine = running._dispatch
        await until(lambda: there.held == SLOTS + QUEUE and engine.load.queued > 20)
        bobs = await there.ask(there.bob, "bob")
        await until(lambda: there.held == SLOTS + QUEUE + 1)
        there.gate.open()
        assert await bobs == b"bob"
        assert there.begun.index("bob") <= SLOTS + 1, "when one slot was free, or was given up"
        await asyncio.gather(*there.reads)
        alices = [each for each in there.begun if each != "bob"]
        assert alices == sorted(alices), "and hers go by arrival"


@story
async def test_users_have_equally_many_at_the_hosts(tmp_path: Path) -> None:
    async with place(tmp_path) as (there, running):
        for number in range(20):
            await there.ask(there.alice, f"alice {number:02}")
        queue = running._dispatch._waiting
        await until(lambda: len(queue) == 20 - SLOTS - QUEUE)
        for number in range(20):
            await there.ask(there.bob, f"bob {number:02}")
        await until(lambda: len(queue) == 40 - SLOTS - QUEUE - 1)
        order = [asked.request.user for asked in queue.in_turn()]
        assert order[0] == "bob"
        there.gate.open()
        await asyncio.gather(*there.reads)
        last = there.begun[SLOTS + QUEUE + 2 : 30]
        alices = sum(each.startswith("alice") for each in last)
        assert abs(2 * alices - len(last)) <= 4, last


@story
async def test_a_low_priority_has_fewer_turns(tmp_path: Path) -> None:
    async with place(tmp_path) as (there, running):
        for number in range(24):
            await there.ask(there.alice, f"alice {number:02}")
            await there.ask(there.bob, f"bob {number:02}", "priority -2")
        await until(lambda: len(running._dispatch._waiting) >= 48 - SLOTS - QUEUE - 1)
        there.gate.open()
        await asyncio.gather(*there.reads)
        first = there.begun[4:24]
        assert sum(each.startswith("alice") for each in first) > len(first) * 0.6


@story
async def test_on_plain_tcp_the_users_of_an_orchestrator_are_one(tmp_path: Path) -> None:
    """But here they take turns all the same."""
    async with place(tmp_path, host_at=ANYWHERE) as (there, running):
        for number in range(30):
            await there.ask(there.alice, f"alice {number:02}")
        await until(lambda: there.held == SLOTS + QUEUE)
        bobs = await there.ask(there.bob, "bob")
        await until(lambda: there.held == SLOTS + QUEUE + 1)
        there.gate.open()
        assert await bobs == b"bob"
        assert there.begun.index("bob") == SLOTS + QUEUE
        await asyncio.gather(*there.reads)


@story
async def test_what_cannot_be_placed_holds_up_nobody(tmp_path: Path) -> None:
    async with place(tmp_path) as (there, running):
        for number in range(10):
            await there.ask(there.alice, f"alice {number}")
        await until(lambda: there.held == SLOTS + QUEUE)
        (worker,) = running._members.workers.values()
        running._balancer.hold(worker.name)
        await there.ask(there.bob, "bob")
        await until(lambda: running._dispatch.load.queued == 10 - SLOTS - QUEUE + 1)
        assert there.held == SLOTS + QUEUE
        running._balancer.allow(worker.name)
        await until(lambda: there.held == SLOTS + QUEUE + 1)
        there.gate.open()
        await asyncio.gather(*there.reads)
