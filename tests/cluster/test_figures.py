"""What a user who is no administrator can find out about others' requests: nothing that is counted.

Every file that he can read is the same, but for the time of the last heartbeat, before, while and
after somebody else asks something, whatever is asked.  So no difference tells a count, and no
sum of his own with others' either.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llambo9p.cluster.config import Cluster, LoadBalancer
from llambo9p.cluster.namespace import Orchestrator
from llambo9p.cluster.offer import Offer
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error
from llambo9p.fs.user import owner
from llambo9p.net.address import parse
from llambo9p.net.security import Security
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from tests.files import ANYWHERE, Files, files_of, story, until

from .harness import SimulatedHost, simulated_host

HEARTBEAT = re.compile(r"\b\d{10}\.\d{3}\b")
NOT_READ = {"clone", "event", "new"}
"""opening `clone` makes something, and so does reading `llm/new`; a read of `registry/event`
waits"""
FIGURES = {"state", "load", "queued", "requests", "tokens", "errors"}


@dataclass
class Place:
    me: Files
    alice: Files
    bob: Files
    admin: Files
    host: SimulatedHost
    orchestrator: Orchestrator


@contextlib.asynccontextmanager
async def shared(directory: Path, gate: Gate | None = None) -> AsyncIterator[Place]:
    config = Cluster(load_balancer=LoadBalancer(health_check_interval=400, strategy="affinity"))
    orchestrator = Orchestrator(config, lambda: None)
    server = Server(orchestrator.attach, security=Security(admins=["carol"]))
    async with contextlib.AsyncExitStack() as stack:
        at = parse(f"unix!{directory}/host")
        host = await stack.enter_async_context(simulated_host(3, at=at, gate=gate, slots=2))
        stack.push_async_callback(server.close)
        stack.push_async_callback(orchestrator.close)
        address = await server.listen(parse(f"unix!{directory}/orchestrator"))
        users = [
            await stack.enter_async_context(files_of(address, uname=name))
            for name in (owner().name, "alice", "bob", "carol")
        ]
        await users[0].write("ctl", f"mount {host.address}")
        yield Place(*users, host, orchestrator)


async def everything(files: Files, path: str = "") -> dict[str, str]:
    """Every file below `path` that its user can read, with what is in it."""
    found = {}
    for entry in await files.entries(path):
        here = f"{path}/{entry.name}"
        found[f"{here} stat"] = f"{entry.mode:o} {entry.uid} {entry.length} {entry.mtime}"
        if entry.mode & c.DMDIR:
            found |= await everything(files, here)
        elif entry.name not in NOT_READ:
            with contextlib.suppress(Error):
                found[here] = HEARTBEAT.sub("T", await files.read(here))
    return found


async def ask_and_wait(place: Place, who: Files, where: str, prompt: str) -> None:
    """Until the orchestrator knows that it is over, and what it took."""
    before = sum(w.tokens for w in place.orchestrator._members.workers.values())
    await who.ask(prompt, where)
    workers = place.orchestrator._members.workers
    await until(lambda: sum(w.tokens for w in workers.values()) > before)
    await until(lambda: not any(w.active for w in workers.values()))


@pytest.mark.parametrize("where", ["", "worker-0000", "fusion"])
@story
async def test_nothing_that_a_user_reads_changes_with_what_others_ask(
    tmp_path: Path, where: str
) -> None:
    async with shared(tmp_path) as place:
        if where == "fusion":
            for files in (place.alice, place.bob):
                await files.write("fusion/ctl", "strategy best-of-n")
        await place.alice.ask("of my own", where)
        await place.bob.ask("to begin with", where)
        before = await everything(place.alice)
        assert {"/workers", "/status", "/metrics", "/metrics.json", "/metrics.legacy", "/balancer",
                "/health", "/nodes/worker-0000", "/registry/index", "/fusion/status",
                "/worker-0001/status", "/usage"} <= before.keys()  # fmt: skip
        exact = await place.me.read("workers"), await place.me.read("metrics")
        for prompt in ("x", "a longer question, of some words", "x" * 700):
            await ask_and_wait(place, place.bob, where, prompt)
            assert await everything(place.alice) == before
        # the owner is told all of it
        assert await place.me.read("workers") != exact[0]
        if where != "worker-0000":  # the orchestrator counts what is asked of it
            assert await place.me.read("metrics") != exact[1]


@story
async def test_nor_while_they_are_answered_or_wait(tmp_path: Path) -> None:
    gate = Gate()
    async with shared(tmp_path, gate) as place:
        before = await everything(place.alice)
        asked = []
        for number in range(5):  # of which two have slots
            data = await place.bob.open("data", c.ORDWR)
            await data.write(f"question {number}".encode())
            asked.append(asyncio.ensure_future(data.read_all()))
        workers = place.orchestrator._members.workers
        await until(lambda: sum(w.active for w in workers.values()) >= 2)
        during = await everything(place.alice)
        assert during == before
        assert (await place.me.attrs("status"))["requests"] == "5"
        gate.open()
        await asyncio.gather(*asked)
        assert await everything(place.alice) == before


@story
async def test_what_a_user_is_told_has_no_figure_of_requests(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        for files in (place.me, place.alice, place.bob, place.admin):
            await files.ask("some question")
        line = (await place.alice.read("workers")).split()
        assert line[1:7] == ["-"] * 6 and line[7] == "healthy"
        assert not FIGURES & (await place.alice.attrs("nodes/worker-0000")).keys()
        status = await place.alice.attrs("status")
        assert not {"active", "events", "requests", "waiting", "unsaved"} & status.keys()
        assert {"workers", "healthy", "strategy", "slots", "types", "models"} <= status.keys()
        families = set(json.loads(await place.alice.read("metrics.json")))
        assert families == {"llambo_nodes", "llambo_hosts", "llambo_slots"}
        names = re.findall(r"^# TYPE (\S+)", await place.alice.read("metrics"), re.MULTILINE)
        assert set(names) == families
        legacy = await place.alice.read("metrics.legacy")
        assert re.findall(r"^(\w+) ", legacy, re.MULTILINE) == ["llambo_active_nodes"]
        assert [line.split()[0] for line in (await place.alice.read("balancer")).splitlines()] == [
            "strategy", "strategies", "workers", "eligible", "hosts"
        ]  # fmt: skip
        for file in ("events", "config", "logs/orchestrator"):
            with pytest.raises(Error, match="is for the owner and security.admins"):
                await place.alice.open(file)


@story
async def test_administrators_are_told_exactly(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        await ask_and_wait(place, place.bob, "worker-0001", "hello")
        for files in (place.me, place.admin):
            attrs = await files.attrs("nodes/worker-0001")
            assert (attrs["requests"], attrs["tokens"]) == ("1", str(len("simulated: hello")))
            assert FIGURES <= attrs.keys()
            assert " 1 16 0 healthy " in await files.read("workers")
            assert "llambo_generated_tokens_total" in await files.read("metrics")
            assert "requests 0\n" in await files.read("balancer")
            assert {"active", "requests", "waiting"} <= (await files.attrs("status")).keys()


@story
async def test_a_host_that_is_asked_directly_tells_no_more(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        async with (
            files_of(place.host.address, uname="alice") as alice,
            files_of(place.host.address) as me,
        ):
            before = await everything(alice)
            assert {"/workers", "/status", "/metrics", "/worker-0000/status"} <= before.keys()
            await ask_and_wait(place, place.bob, "worker-0000", "a question")
            assert await everything(alice) == before
            assert "generated_tokens" in await me.attrs("status")
            assert (await me.read("workers")).split()[5] != "0"


@story
async def test_an_orchestrator_that_may_not_see_figures_mounts_all_the_same(tmp_path: Path) -> None:
    """A host's `workers` and a region's `status`, as they are for a user."""
    async with shared(tmp_path) as place:
        text = await place.alice.read("status")
        offer = Offer.parse(text)
        assert offer is not None and (offer.slots, offer.requests, offer.waiting) == (2, 0, 0)
        async with files_of(place.host.address, uname="alice") as alice:
            lines = (await alice.read("workers")).splitlines()
        host = place.orchestrator._members.hosts[0]
        assert {line.state for line in host.lines_in("\n".join(lines)).values()} == {"idle"}


@story
async def test_http_tells_figures_only_where_it_is_meant(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        await place.bob.ask("hello")
        page = place.orchestrator.monitor.page
        for path in ("/metrics", "/metrics.json"):
            told, not_told = page(True, path, ""), page(False, path, "")
            assert told is not None and not_told is not None
            assert b"generated_tokens" in told.body and b"generated_tokens" not in not_told.body
            assert b"llambo_nodes" in not_told.body


@story
async def test_on_plain_tcp_everybody_is_the_owner(tmp_path: Path) -> None:
    orchestrator = Orchestrator(Cluster(), lambda: None)
    server = Server(orchestrator.attach)
    address = await server.listen(ANYWHERE)
    async with files_of(address, uname="alice") as alice:
        assert "requests" in await alice.attrs("status")
    await orchestrator.close()
    await server.close()
