"""Several users of one orchestrator: each has conversations of his own, at the root and
in every worker, and nobody finds another's.

The servers listen on unix sockets, where this process speaks for everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llambo9p.cluster.config import Cluster
from llambo9p.cluster.health import FAILURES, Circuit, Health
from llambo9p.cluster.namespace import Orchestrator
from llambo9p.cluster.requests import Requests
from llambo9p.engine.base import Request
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error, NotFound, PermissionDenied
from llambo9p.fs.user import User, owner
from llambo9p.net.address import Address, parse
from llambo9p.net.security import Security
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from tests.files import ANYWHERE, Files, files_of, story, until

from .harness import simulated_host

ME = owner().name
CONVERSATION = [
    "ctl", "prompt", "out", "data", "system", "grammar", "schema", "regex", "history", "tokens",
    "logprobs", "usage", "status", "clone",
]  # fmt: skip
MONITOR = ["health", "metrics", "metrics.legacy", "metrics.json", "events", "config", "logs"]


@dataclass
class Place:
    me: Files
    alice: Files
    bob: Files
    address: Address
    orchestrator: Orchestrator


@contextlib.asynccontextmanager
async def shared(
    directory: Path,
    host_at: Address | None = None,
    count: int = 2,
    gate: Gate | None = None,
) -> AsyncIterator[Place]:
    """Two users and an owner of an orchestrator with two workers."""
    at = host_at or parse(f"unix!{directory}/host")
    orchestrator = Orchestrator(Cluster(), lambda: None)
    server = Server(orchestrator.attach, security=Security(admins=["bob"]))
    async with contextlib.AsyncExitStack() as stack:
        host = await stack.enter_async_context(simulated_host(count, at=at, gate=gate))
        stack.push_async_callback(server.close)
        stack.push_async_callback(orchestrator.close)
        address = await server.listen(parse(f"unix!{directory}/orchestrator"))
        users = [
            await stack.enter_async_context(files_of(address, uname=name))
            for name in (ME, "alice", "bob")
        ]
        await users[0].write("ctl", f"mount {host.address}")
        yield Place(*users, address, orchestrator)


@pytest.mark.parametrize("where", ["", "worker-0000"], ids=["root", "worker"])
@story
async def test_each_user_has_a_conversation_of_his_own(tmp_path: Path, where: str) -> None:
    async with shared(tmp_path) as place:
        await place.alice.write(f"{where}/system", "for alice")
        await place.alice.write(f"{where}/ctl", "max_tokens 20")
        assert await place.alice.ask("from alice", where) == "simulated: from alic"
        assert await place.bob.ask("from bob", where) == "simulated: from bob"
        assert await place.alice.read(f"{where}/out") == "simulated: from alic"
        assert await place.alice.read(f"{where}/prompt") == "from alice"
        for other in (place.bob, place.me):
            assert "alice" not in await other.read(f"{where}/history")
            assert "alice" not in await other.read(f"{where}/prompt")
            assert await other.read(f"{where}/system") == ""
            assert "max_tokens 20\n" not in await other.read(f"{where}/ctl")
        assert await place.me.read(f"{where}/out") == ""


@pytest.mark.parametrize("where", ["", "worker-0001"], ids=["root", "worker"])
@story
async def test_22_a_cloned_conversation_is_found_by_nobody_else(tmp_path: Path, where: str) -> None:
    async with shared(tmp_path) as place:
        clone = await place.alice.open(f"{where}/clone", c.ORDWR)
        number = (await clone.read_all()).decode().strip()
        assert number in await place.alice.ls(where)
        await place.alice.ask("a secret", f"{where}/{number}")
        for other in (place.bob, place.me):
            assert number not in await other.ls(where)
            for file in ("", "/out", "/prompt", "/history", "/ctl"):
                with pytest.raises(NotFound):
                    await other.open(f"{where}/{number}{file}")
        # bob's first has a number of its own counting, and is his
        his = await place.bob.open(f"{where}/clone", c.ORDWR)
        assert (await his.read_all()).decode().strip() == number
        assert await place.bob.read(f"{where}/{number}/history") == ""
        assert await place.alice.read(f"{where}/{number}/out") == "simulated: a secret"


@story
async def test_what_a_user_asks_at_the_root_is_his_own_on_the_worker_too(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        await place.alice.ask("a secret")
        used = [w for w in ("worker-0000", "worker-0001") if "0" in await place.alice.ls(w)]
        assert len(used) == 1
        assert "a secret" in await place.alice.read(f"{used[0]}/0/history")
        for other in (place.me, place.bob):
            assert "0" not in await other.ls(used[0])


@pytest.mark.parametrize("where", ["", "worker-0000"], ids=["root", "worker"])
@story
async def test_nobody_finds_in_the_cache_what_another_has_asked(tmp_path: Path, where: str) -> None:
    long = "the price is 1,234,567 and nobody must know it, whoever asks for it"

    async def cached(files: Files, prompt: str) -> int:
        await files.write(f"{where}/ctl", "reset")
        await files.ask(prompt, where)
        return int((await files.attrs(f"{where}/usage"))["cached_tokens"])

    async with shared(tmp_path, count=1) as place:
        assert await cached(place.alice, long) == 0
        assert await cached(place.bob, long) == 0
        assert await cached(place.me, long) == 0
        assert await cached(place.alice, long) > 16


@pytest.mark.parametrize("own", ["", "mine", "theirs"], ids=["plain", "labelled", "guessed"])
@story
async def test_nobody_finds_in_the_cache_of_a_host_on_plain_tcp_what_another_has_asked(
    tmp_path: Path, own: str
) -> None:
    """Such a host takes all for the owner.  A guesser may set any label of his own, too."""
    secret = "the price is 1,234,567 and nobody must know it, whoever asks for it, nobody at all"

    def common(a: str, b: str) -> int:
        """Tokens that two prompts of the scripted model begin with alike: one for the role."""
        return len(os.path.commonprefix([a, b])) + 1 if b else 0

    async def cached(files: Files, prompt: str) -> int:
        await files.write("ctl", "reset")
        await files.ask(prompt)
        return int((await files.attrs("usage"))["cached_tokens"])

    async with shared(tmp_path, ANYWHERE, count=2) as place:
        for files in (place.alice, place.bob, place.me):
            await files.write("ctl", f"cache_label {own}")
        assert await cached(place.alice, secret) == 0
        assert await cached(place.alice, secret) > 16, "what she asked herself"
        for guesser in (place.bob, place.me):
            asked: list[str] = []
            for guess in (secret[:40], secret, f"{secret} and more"):
                asked.append(guess)
                own_best = max(common(guess, before) for before in ["", *asked[:-1]])
                assert await cached(guesser, guess) <= own_best, guess
        label = {line for line in (await place.bob.read("ctl")).splitlines() if "label" in line}
        assert label == {f"cache_label {own}".strip()}


@story
async def test_the_labels_of_two_orchestrators_never_meet(tmp_path: Path) -> None:
    """Both serve an alice; to the host all are the owner."""
    async with simulated_host(1, at=ANYWHERE) as host, contextlib.AsyncExitStack() as stack:
        counts = []
        for number in range(2):
            orchestrator = Orchestrator(Cluster(), lambda: None)
            server = Server(orchestrator.attach)
            stack.push_async_callback(server.close)
            stack.push_async_callback(orchestrator.close)
            at = await server.listen(parse(f"unix!{tmp_path}/{number}"))
            me = await stack.enter_async_context(files_of(at))
            alice = await stack.enter_async_context(files_of(at, uname="alice"))
            await me.write("ctl", f"mount {host.address}")
            for _ in range(2):
                await alice.write("ctl", "reset")
                await alice.ask("a secret of some forty characters, or more than that")
                counts.append(int((await alice.attrs("usage"))["cached_tokens"]))
        assert counts[0] == counts[2] == 0 and counts[1] > 16 and counts[3] > 16


@story
async def test_labels_go_down_through_a_nested_orchestrator_on_plain_tcp(tmp_path: Path) -> None:
    """Whose users are one there."""
    secret = "a secret of some forty characters, or more than that"
    async with simulated_host(1, at=ANYWHERE) as host, contextlib.AsyncExitStack() as stack:
        region = Orchestrator(Cluster(), lambda: None)
        regions = Server(region.attach)
        stack.push_async_callback(regions.close)
        stack.push_async_callback(region.close)
        at = await regions.listen(ANYWHERE)
        owner_of_region = await stack.enter_async_context(files_of(at))
        await owner_of_region.write("ctl", f"mount {host.address}")
        above = Orchestrator(Cluster(), lambda: None)
        server = Server(above.attach)
        stack.push_async_callback(server.close)
        stack.push_async_callback(above.close)
        top = await server.listen(parse(f"unix!{tmp_path}/top"))
        me = await stack.enter_async_context(files_of(top))
        await me.write("ctl", f"mount {at} region")
        found = {}
        for name in ("alice", "bob"):
            files = await stack.enter_async_context(files_of(top, uname=name))
            for again in (False, True):
                await files.write("ctl", "reset")
                assert await files.ask(secret) == f"simulated: {secret}"
                found[name, again] = int((await files.attrs("usage"))["cached_tokens"])
        assert found["alice", False] == found["bob", False] == 0
        assert found["alice", True] > 16 and found["bob", True] > 16


@story
async def test_a_host_on_plain_tcp_shares_nothing_without_a_label() -> None:
    prompt = "a long question which begins like another one: which is it?"

    async def cached(files: Files, label: str, clone: bool) -> int:
        async with await files.open("worker-0000/clone", c.ORDWR) as ctl:
            where = f"worker-0000/{(await ctl.read(0)).decode().strip()}"
            if label:
                await ctl.write(f"cache_label {label}".encode())
            if clone:
                await files.ask(prompt, where)
            else:
                data = await files.open(f"{where}/data", c.ORDWR)
                await data.write(prompt.encode())
                await data.read_all()
                await data.clunk()
            return int((await files.attrs(f"{where}/usage"))["cached_tokens"]) if clone else 0

    async with simulated_host(1, at=ANYWHERE) as host, files_of(host.address) as files:
        for label in ("", "a", "", "b", ""):
            await cached(files, label, False)
            counts = [await cached(files, label, True) for _ in range(2)]
            assert [count > 16 for count in counts] == [bool(label)] * 2, label
        # what a conversation asked itself it finds again
        async with await files.open("worker-0000/clone", c.ORDWR) as ctl:
            where = f"worker-0000/{(await ctl.read(0)).decode().strip()}"
            for _ in range(2):
                await files.ask(prompt, where)
            assert int((await files.attrs(f"{where}/usage"))["cached_tokens"]) > 16


@story
async def test_verbs_of_the_cluster_are_for_administrators(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        for path, verb in (
            ("ctl", "spawn --count 1 --type tiny"),
            ("ctl", "mount tcp!127.0.0.1!9 x"),
            ("ctl", "unmount worker-0000"),
            ("ctl", "shutdown"),
            ("worker-0000/ctl", "drain"),
            ("worker-0000/ctl", "shutdown"),
        ):
            name = verb.split()[0]
            with pytest.raises(PermissionDenied, match=f"^permission denied: {name} is for the"):
                await place.alice.write(path, verb)
            with pytest.raises(PermissionDenied):  # nothing of a failed write is applied
                await place.alice.write(path, f"max_tokens 7\n{verb}")
        assert "max_tokens 7" not in await place.alice.read("ctl")
        assert "worker-0000" in await place.me.ls()
        await place.bob.write("ctl", "unmount worker-0000")
        for files in (place.me, place.alice, place.bob):
            assert "worker-0000" not in await files.ls()
            assert await files.ls("nodes") == ["worker-0001"]


@story
async def test_files_belong_to_the_user_that_sees_them(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        for files, name in ((place.alice, "alice"), (place.me, ME)):
            entries = await files.entries()
            names = [
                *(*CONVERSATION, "llm", "fusion", "nodes", "workers", "models", "balancer"),
                *MONITOR,
                *("registry", "worker-0000", "worker-0001"),
            ]
            assert [e.name for e in entries] == names
            assert {e.uid for e in entries if e.name in CONVERSATION} == {name}
            assert all(e.mode & 0o077 == 0 for e in entries if e.name in CONVERSATION)
            assert {e.uid for e in await files.entries("worker-0000")} == {name}


@story
async def test_an_aname_gives_the_worker_as_that_user_sees_it(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        async with files_of(place.address, "worker-0001", uname="alice") as hers:
            await hers.ask("mine")
        assert await place.alice.read("worker-0001/prompt") == "mine"
        async with files_of(place.address, "worker-0001", uname="bob") as his:
            assert await his.read("prompt") == ""


@story
async def test_what_is_mounted_later_is_seen_by_those_who_came_before(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        await place.me.write("ctl", "unmount worker-0001")
        assert "worker-0001" not in await place.alice.ls()
        async with simulated_host(3, first=7, at=parse(f"unix!{tmp_path}/second")) as host:
            await place.me.write("ctl", f"mount {host.address}")
            assert (await place.alice.ls())[-3:] == ["worker-0007", "worker-0008", "worker-0009"]
            assert await place.alice.ask("hello", "worker-0008") == "simulated: hello"
            for worker in ("worker-0007", "worker-0008", "worker-0009"):
                await place.me.write("ctl", f"unmount {worker}")


@story
async def test_a_host_on_plain_tcp_is_not_shared_for_it_knows_no_users(tmp_path: Path) -> None:
    async with shared(tmp_path, ANYWHERE) as place:
        assert "worker-0000" in await place.alice.ls()
        for path in ("worker-0000", "worker-0000/out"):
            with pytest.raises(PermissionDenied, match="mounted over plain TCP"):
                await place.alice.open(path)
        assert await place.me.ask("mine", "worker-0000") == "simulated: mine"
        # through the root her request is a conversation of its own there
        assert await place.alice.ask("hers") == "simulated: hers"
        assert await place.me.read("worker-0000/prompt") == "mine"


@story
async def test_each_user_has_a_connection_of_his_own_to_a_host(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        (host,) = place.orchestrator._members.hosts
        assert host.users == {}
        for files in (place.alice, place.bob):
            await files.ask("hello", "worker-0000")
            await files.ask("hello", "worker-0001")
            await files.ask("hello")
        assert set(host.users) == {"alice", "bob"}
        clients = [await task for task in host.users.values()] + [host.client, host.control]
        assert len({id(client) for client in clients}) == 4


@story
async def test_a_user_whose_connection_to_a_host_ends_goes_on_and_others_notice_nothing(
    tmp_path: Path,
) -> None:
    async with shared(tmp_path) as place:
        (host,) = place.orchestrator._members.hosts
        for files in (place.alice, place.bob):
            await files.ask("hello", "worker-0000")
            await files.ask("hello")
        opened = [await files.open("worker-0000/out") for files in (place.alice, place.bob)]
        (await host.users["alice"]).close()
        await until(lambda: "alice" not in host.users)
        with pytest.raises(Error, match="closed|lost"):
            await opened[0].read(0)
        assert await opened[1].read_all() == b"simulated: hello"
        assert await place.alice.read("worker-0000/out") == "simulated: hello"
        assert await place.alice.ask("again") == "simulated: again"
        assert not host.lost


@pytest.fixture
def retried(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Why other workers were asked."""
    reasons: list[Exception] = []

    def noted(self: Requests, request: Request, worker: str, why: Exception) -> None:
        reasons.append(why)

    monkeypatch.setattr(Requests, "retried", noted)
    return reasons


@story
async def test_what_a_user_asks_goes_on_when_his_connection_to_a_host_ends(
    tmp_path: Path, retried: list[Exception]
) -> None:
    """And that is no failure of the worker, which others ask, too."""
    gate = Gate()
    async with shared(tmp_path, count=1, gate=gate) as place:
        members = place.orchestrator._members
        (host,), (worker,) = members.hosts, members.workers.values()
        reads = []
        for number in range(FAILURES):
            data = await place.alice.open("data", c.ORDWR)
            await data.write(f"question {number}".encode())
            reads.append(asyncio.ensure_future(data.read_all()))
        asked = place.orchestrator._dispatch._tasks
        await until(lambda: sum(map(host.turns.can_have_begun, asked)) == FAILURES)
        (await host.users["alice"]).close()
        await until(lambda: len(retried) == FAILURES)
        assert (worker.circuit, worker.health) == (Circuit.CLOSED, Health.HEALTHY)
        gate.open()
        answers = await asyncio.gather(*reads)
        assert answers == [f"simulated: question {n}".encode() for n in range(FAILURES)]


@story
async def test_a_conversation_whose_connection_ended_meanwhile_has_another_at_once(
    tmp_path: Path, retried: list[Exception]
) -> None:
    async with shared(tmp_path) as place:
        (host,) = place.orchestrator._members.hosts
        assert await place.alice.ask("hello") == "simulated: hello"
        (await host.users["alice"]).close()
        await until(lambda: "alice" not in host.users)
        assert await place.alice.ask("again") == "simulated: again"
        assert not retried


@story
async def test_a_host_that_is_lost_fails_everybody_at_once(tmp_path: Path) -> None:
    at = parse(f"unix!{tmp_path}/host")
    orchestrator = Orchestrator(Cluster(), lambda: None)
    server = Server(orchestrator.attach)
    address = await server.listen(parse(f"unix!{tmp_path}/orchestrator"))
    async with files_of(address, uname="alice") as alice, files_of(address) as me:
        async with simulated_host(at=at) as host:
            await me.write("ctl", f"mount {host.address}")
            await alice.ask("hello", "worker-0000")
        for files in (alice, me):
            with pytest.raises(Error, match="lost|closed"):
                await files.read("worker-0000/out")
    await orchestrator.close()
    await server.close()


def test_an_administrator_is_the_owner_or_is_named() -> None:
    security = Security(admins=["carol"])
    assert [security.user(name).admin for name in (ME, "carol", "alice")] == [True, True, False]
    with pytest.raises(PermissionDenied, match="drain is for the owner"):
        User("alice").check_admin("drain")
