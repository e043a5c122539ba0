"""Orchestrators that mount orchestrators: below one, a region is a worker with all its slots,
and its tree is a directory.

Most run in one event loop, so that each failure comes at a chosen token; the last ones are
real processes that are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster import views
from llambo9p.cluster.balancer import Balancer
from llambo9p.cluster.config import Cluster
from llambo9p.cluster.namespace import Orchestrator
from llambo9p.cluster.offer import Offer, together
from llambo9p.engine.base import Request, Usage
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error, WorkerLost
from llambo9p.fs.file import OpenFile
from llambo9p.fs.tree import Directory, SyntheticFile, Tree
from llambo9p.net.address import Address, parse
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from tests.files import ANYWHERE, Files, files_of, reading, story, until

from .harness import RunningCluster, cluster, simulated_host

OFTEN = Cluster.model_validate({"load_balancer": {"health_check_interval": 20}})
ANSWER = "0123456789 €uro, abcdefghijklmnopqrstuvwxyz"


def answer(prompt: str) -> bytes:
    return ANSWER.encode()


async def health(running: RunningCluster, name: str) -> str:
    return (await running.files.attrs(f"nodes/{name}"))["health"]


async def until_node(running: RunningCluster, name: str, **wanted: str) -> None:
    """A heartbeat or more later."""
    members = running.orchestrator._members

    def attrs() -> set[tuple[str, ...]]:
        lines = views.text(members.workers[name], figures=True).splitlines()
        return {tuple(line.split(" ", 1)) for line in lines}

    await until(lambda: wanted.items() <= attrs())


# -- the offer ----------------------------------------------------------------------

words = st.frozensets(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), max_size=4)
numbers = st.integers(0, 10**6)
offers = st.builds(
    Offer,
    ids=words,
    engines=numbers,
    slots=numbers,
    types=st.frozensets(st.from_regex(r"[a-z][a-z0-9]{0,7}", fullmatch=True), max_size=4),
    models=words,
    context=st.none() | numbers,
    requests=numbers,
    waiting=numbers,
)


@given(offers)
def test_an_offer_is_read_as_it_was_written(offer: Offer) -> None:
    assert Offer.parse("state idle\nerror no orchestrators 7\n" + offer.text(True)) == offer


@given(st.lists(offers, max_size=5))
def test_an_offer_is_the_sum_of_what_is_below(below: list[Offer]) -> None:
    offer = together("own", below, 7, 3)
    assert offer.ids == {"own"}.union(*(each.ids for each in below))
    assert offer.slots == sum(each.slots for each in below)
    assert all(each.types <= offer.types for each in below)
    assert (offer.requests, offer.waiting) == (7, 3)


def test_a_status_that_is_no_orchestrators_or_makes_no_sense() -> None:
    assert Offer.parse("state idle\nslots 4\n") is None
    with pytest.raises(Error, match="status file is not understood"):
        Offer.parse(Offer().text(True).replace("slots 0", "slots many"))


def test_several_models_are_a_name_that_no_worker_has() -> None:
    assert [Offer(models=frozenset(m)).model for m in ((), "a", "ba")] == ["-", "a", "a+b"]


# -- the balancer -------------------------------------------------------------------


def a_request(**settings: str) -> Request:
    return Request("?" * 400, **settings)  # type: ignore[arg-type]


def test_a_region_is_chosen_for_every_type_that_it_has_and_no_other() -> None:
    b = Balancer("least-loaded")
    b.add("worker-0000", "here", node_type="tiny")
    b.add("region", "there")
    b.offered("region", Offer(engines=2, slots=8, types=frozenset({"medium", "large"})))
    for node_type, name in (("tiny", "worker-0000"), ("medium", "region"), ("large", "region")):
        assert b.choose(a_request(node_type=node_type)).name == name
    with pytest.raises(WorkerLost, match="no healthy worker of type huge; types are large medium"):
        b.choose(a_request(node_type="huge"))
    b.offered("region", Offer(engines=2, slots=8, types=frozenset({"huge"})))
    assert b.choose(a_request(node_type="huge")).name == "region"
    with pytest.raises(WorkerLost):
        b.choose(a_request(node_type="large"))


def test_a_region_gets_as_many_requests_as_its_hosts_can_take() -> None:
    b = Balancer("least-loaded")
    b.add("worker-0000", "here", slots=4)
    b.add("region", "there")
    b.offered("region", Offer(engines=9, slots=36))
    chosen = [b.choose(a_request()).name for _ in range(200)]
    assert 15 <= chosen.count("worker-0000") <= 25


def test_a_region_that_becomes_smaller_has_no_room_for_more() -> None:
    b = Balancer("round-robin", queue=0)
    b.add("region", "there")
    b.offered("region", Offer(engines=2, slots=3))
    works = [b.choose(a_request()) for _ in range(4)]
    assert works[2] is not None and works[3] is None
    b.offered("region", Offer(engines=1, slots=2))
    b.finished(works[0])
    assert b.choose(a_request()) is None
    b.finished(works[1])
    assert b.choose(a_request()) is not None


def test_what_a_region_was_seen_to_do_is_what_one_of_its_hosts_does() -> None:
    b = Balancer("round-robin")
    b.add("region", "there")
    b.offered("region", Offer(engines=10, slots=40))
    usage = Usage(100, 0, 101, 0, 0.0, 100.0, 1100.0)  # 100 tokens/s
    for _ in range(60):
        works = [b.choose(a_request()) for _ in range(20)]
        for work in works:
            work.decoded(1)
        for work in works:
            b.finished(work, usage)
    [host] = b.hosts
    assert 80 < host.rates.decode < 250, "not of all ten together"


# -- two levels -----------------------------------------------------------------------


@story
async def test_a_region_is_one_worker_and_its_tree_a_directory() -> None:
    async with (
        cluster(OFTEN) as region,
        cluster(OFTEN) as top,
        simulated_host(3, slots=16) as a,
        simulated_host(2, slots=4) as b,
    ):
        await region.files.write("ctl", f"mount {a.address}\nmount {b.address}")
        files = top.files
        await files.write("ctl", f"mount {region.address} region1")
        node = await files.attrs("nodes/region1")
        assert (node["capacity"], node["type"], node["health"]) == ("20", "tiny", "healthy")
        assert node["model"] == a.engine.info.name
        assert await files.ls("nodes") == ["region1"]
        assert set(await files.ls("region1")) == set(await region.files.ls())
        assert await files.ask("hello") == "simulated: hello"
        assert await files.ask("hello", "region1") == "simulated: hello"
        assert await files.ask("hello", "region1/worker-0004") == "simulated: hello"
        assert "worker worker-0002\n" in await files.read("region1/worker-0002/status")
        walked = await walk_all(files)
        for path in ("region1/worker-0000/status", "region1/nodes/worker-0003", "region1/fusion"):
            assert f"/{path}" in walked
        assert len({qid for qid in walked.values()}) == len(walked), "every file is one"


async def walk_all(files: Files, path: str = "") -> dict[str, int]:
    """As `ls -R`: the qid.path of each file."""
    found: dict[str, int] = {}
    for entry in await files.entries(path):
        here = f"{path}/{entry.name}"
        found[here] = entry.qid.path
        if entry.mode & c.DMDIR:
            found |= await walk_all(files, here)
    return found


@story
async def test_what_comes_and_goes_in_a_region_is_seen_above() -> None:
    async with cluster(OFTEN) as region, cluster(OFTEN) as top:
        await top.files.write("ctl", f"mount {region.address} region1")
        assert await health(top, "region1") == "degraded", "there is nobody in it"
        with pytest.raises(Error, match="no healthy worker"):
            await top.files.ask("anybody?")
        async with simulated_host(2, slots=4) as host:
            await region.files.write("ctl", f"mount {host.address}")
            await until_node(top, "region1", capacity="4", health="healthy", type="tiny")
            assert await top.files.ask("anybody?") == "simulated: anybody?"
            await region.files.write("ctl", "drain worker-0000 worker-0001")
            await until_node(top, "region1", capacity="0", health="degraded")


@story
async def test_settings_types_and_ids_go_down_two_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with cluster(OFTEN) as region, cluster(OFTEN) as top, simulated_host() as host:
        await region.files.write("ctl", f"mount {host.address}")
        await top.files.write("ctl", f"mount {region.address} region1")
        await top.files.write("ctl", "type tiny\nmax_tokens 12\nrequest_id from-above")
        assert await top.files.ask("hello, hello") == "simulated: h"
        usage = await top.files.attrs("usage")
        assert (usage["completion_tokens"], usage["finish_reason"]) == ("12", "length")
        fields = [getattr(record, "fields", {}) for record in caplog.records]
        told = [each for each in fields if each.get("request_id") == "from-above"]
        workers = [each.get("workers", each.get("worker")) for each in told]
        assert sorted(workers) == ["region1", "worker-0000", "worker-0000"]
        await top.files.write("ctl", "type large")
        with pytest.raises(Error, match="no healthy worker of type large; types are tiny"):
            await top.files.ask("hello")


@story
async def test_the_next_turn_finds_the_cache_two_levels_down() -> None:
    async with cluster(OFTEN) as region, cluster(OFTEN) as top, simulated_host(3) as host:
        await region.files.write("ctl", f"mount {host.address}")
        await top.files.write("ctl", f"mount {region.address} region1")
        cached = []
        for turn in ("first", "second", "third"):
            await top.files.ask(turn)
            cached.append(int((await top.files.attrs("usage"))["cached_tokens"]))
        assert cached[0] == 0 < cached[1] < cached[2]


@story
async def test_a_region_is_drained_here_and_not_there() -> None:
    async with (
        cluster(OFTEN) as region,
        cluster(OFTEN) as top,
        simulated_host() as below,
        simulated_host(1, 7) as beside,
    ):
        await region.files.write("ctl", f"mount {below.address}")
        await top.files.write("ctl", f"mount {region.address} region1\nmount {beside.address}")
        await top.files.write("ctl", "drain region1")
        assert (await top.files.attrs("nodes/region1"))["state"] == "draining"
        for i in range(4):
            await top.files.write("ctl", "reset")
            await top.files.ask(f"{i}")
        assert beside.host.workers["worker-0007"].requests == 4
        assert await region.files.ask("hello") == "simulated: hello"
        node = top.orchestrator._members.workers["region1"].host
        beat = node.heartbeat
        await until(lambda: node.heartbeat > beat)
        assert await health(top, "region1") == "draining", "a heartbeat does not end it"
        await top.files.write("ctl", "resume region1\ndrain worker-0007\nreset")
        await top.files.ask("again")
        assert below.host.workers["worker-0000"].requests == 2
        with pytest.raises(Error, match="region1 is no worker of a host"):
            await top.files.write("ctl", "kill region1")
        await top.files.write("ctl", "unmount region1")
        assert "region1" not in await top.files.ls()
        assert await region.files.ls("nodes") == ["worker-0000"], "it is as it was"


@story
async def test_metrics_and_events_tell_of_a_region() -> None:
    async with cluster(OFTEN) as region, cluster(OFTEN) as top, simulated_host(5, slots=8) as host:
        await region.files.write("ctl", f"mount {host.address}")
        await top.files.write("ctl", f"mount {region.address} region1")
        await top.files.ask("hello")
        metrics = await top.files.read("metrics")
        assert 'llambo_nodes{state="healthy"} 1.0\n' in metrics
        assert 'llambo_nodes{state="healthy"} 5.0\n' in await top.files.read("region1/metrics")
        async with await top.files.open("events") as events:
            assert '"worker": "region1"' in (await events.read(0)).decode()
        async with await top.files.open("region1/events") as events:
            assert '"worker": "worker-0000"' in (await events.read(0)).decode()


# -- loops ----------------------------------------------------------------------------


@story
async def test_an_orchestrator_that_would_mount_itself_is_refused() -> None:
    async with cluster(OFTEN) as a, cluster(OFTEN) as b, cluster(OFTEN) as third:
        with pytest.raises(Error, match="is this orchestrator, or has it mounted: a loop"):
            await a.files.write("ctl", f"mount {a.address} me")
        await a.files.write("ctl", f"mount {b.address} b")
        await b.files.write("ctl", f"mount {third.address} c")
        third_id = third.orchestrator._members.id
        await until(lambda: third_id in a.orchestrator.status_text(True))
        for at, name in ((a, "a"), (b, "b")):
            with pytest.raises(Error, match="a loop"):
                await third.files.write("ctl", f"mount {at.address} {name}")
        assert not third.orchestrator._members.hosts


@story
async def test_a_region_without_a_name_is_no_host() -> None:
    async with cluster(OFTEN) as region, cluster(OFTEN) as top, simulated_host() as host:
        await region.files.write("ctl", f"mount {host.address}")
        with pytest.raises(Error, match="is no host: mount it with a name"):
            await top.files.write("ctl", f"mount {region.address}")
        assert not top.orchestrator._members.hosts


@story
async def test_a_loop_that_was_made_at_one_moment_ends() -> None:
    async with cluster(OFTEN) as a, cluster(OFTEN) as b:
        await asyncio.gather(
            a.files.write("ctl", f"mount {b.address} b"),
            b.files.write("ctl", f"mount {a.address} a"),
            return_exceptions=True,
        )

        def mounted(running: RunningCluster) -> int:
            return sum(not host.lost for host in running.orchestrator._members.hosts)

        # one of them, or for a moment none
        await until(lambda: mounted(a) + mounted(b) < 2)
        assert "status" in await a.files.ls()


# -- failures -------------------------------------------------------------------------


async def begin(top: RunningCluster, gate: Gate, tokens: int) -> None:
    """Ask, and let the only host say so many tokens that are passed on to the top."""
    await top.files.write("prompt", "go")
    out = await top.files.open("tokens")
    seen = b""
    while seen.count(b"\n") < tokens:
        more = reading(out, len(seen))
        await until(lambda more=more: more.done() or (gate.entered(0) and gate.allow()))
        seen += (await more).data
    await out.clunk()


async def check_whole(files: Files) -> None:
    """The answer and its tokens are as if nothing had happened."""
    assert await files.read("out") == ANSWER
    lines = (await files.read("tokens")).splitlines()
    assert bytes(int(line.split()[0]) for line in lines) == ANSWER.encode()
    usage = await files.attrs("usage")
    assert (usage["given_tokens"], usage["finish_reason"]) == ("0", "stop")
    assert int(usage["completion_tokens"]) == len(ANSWER.encode())


@pytest.mark.parametrize("tokens", [1, 12, 30])
@story
async def test_an_answer_whose_leaf_is_lost_goes_on_in_its_region(tokens: int) -> None:
    gate = Gate()
    async with (
        cluster(OFTEN) as region,
        cluster(OFTEN) as top,
        simulated_host(1, gate=gate, answer=answer) as fails,
        simulated_host(1, 1, answer=answer) as goes_on,
    ):
        await region.files.write("ctl", f"mount {fails.address}")
        await top.files.write("ctl", f"mount {region.address} region1")
        await begin(top, gate, tokens)
        await region.files.write("ctl", f"mount {goes_on.address}")
        fails.kill()
        gate.open()
        await check_whole(top.files)
        assert int((await top.files.attrs("region1/worker-0001/0/usage"))["given_tokens"]) >= tokens
        assert "request.failover" in await first_events(region.files)
        assert "request.failover" not in await first_events(top.files)


async def first_events(files: Files) -> str:
    async with await files.open("events") as events:
        return (await events.read(0)).decode()


@pytest.mark.parametrize("tokens", [1, 12, 30])
@story
async def test_an_answer_whose_region_is_lost_goes_on_in_another(tokens: int) -> None:
    """By the tokens, which go down two levels."""
    gate = Gate()
    async with (
        cluster(OFTEN) as one,
        cluster(OFTEN) as two,
        cluster(OFTEN) as top,
        simulated_host(1, gate=gate, answer=answer) as a,
        simulated_host(1, answer=answer) as b,
    ):
        await one.files.write("ctl", f"mount {a.address}")
        await two.files.write("ctl", f"mount {b.address}")
        await top.files.write("ctl", f"mount {one.address} one")
        await begin(top, gate, tokens)
        await top.files.write("ctl", f"mount {two.address} two")
        for connection in list(one.server.connections):
            connection.abort()
        await check_whole(top.files)
        usage = await top.files.attrs("two/worker-0000/0/usage")
        assert int(usage["given_tokens"]) >= tokens, "it was continued, not answered again"
        gate.open()


@story
async def test_a_region_comes_back_under_its_name_and_stays_drained() -> None:
    async with cluster(OFTEN) as region, cluster(OFTEN) as top, simulated_host() as host:
        await region.files.write("ctl", f"mount {host.address}")
        await top.files.write("ctl", f"mount {region.address} region1")
        await top.files.write("ctl", "drain region1")
        [before] = top.orchestrator._members.hosts
        before.client.close()
        await until(lambda: before not in top.orchestrator._members.hosts)
        assert await health(top, "region1") == "draining"
        await top.files.write("ctl", "resume region1")
        assert await top.files.ask("hello") == "simulated: hello"


@story
async def test_tokens_of_one_model_are_refused_by_a_cluster_of_several() -> None:
    async with cluster() as running, simulated_host() as a, simulated_host(1, 1) as b:
        await running.files.write("ctl", f"mount {a.address}\nmount {b.address}")
        running.orchestrator._balancer.remove("worker-0001")
        running.orchestrator._balancer.add("worker-0001", "there", model="another")
        await running.files.write("tokens", "65\n66\n")
        with pytest.raises(Error, match="tokens are one model's"):
            await running.files.ask("go")


# -- users ----------------------------------------------------------------------------


@story
async def test_a_user_is_himself_two_levels_down(tmp_path: Path) -> None:
    at = {name: parse(f"unix!{tmp_path}/{name}") for name in ("host", "region", "top")}
    async with contextlib.AsyncExitStack() as stack:
        host = await stack.enter_async_context(simulated_host(1, at=at["host"]))
        region, region_at = await stack.enter_async_context(on_unix(at["region"]))
        _, top_at = await stack.enter_async_context(on_unix(at["top"]))
        me, alice, bob = [
            await stack.enter_async_context(files_of(top_at, uname=name))
            for name in ("", "alice", "bob")
        ]
        at_region = await stack.enter_async_context(files_of(region_at))
        await at_region.write("ctl", f"mount {host.address}")
        await me.write("ctl", f"mount {region_at} region1")
        assert await alice.ask("a secret") == "simulated: a secret"
        assert await alice.ask("hers", "region1/worker-0000") == "simulated: hers"
        assert "a secret" in await alice.read("region1/worker-0000/0/history")
        for other in (bob, me, at_region):
            prefix = "" if other is at_region else "region1/"
            assert await other.read(f"{prefix}worker-0000/prompt") == ""
            assert "0" not in await other.ls(f"{prefix}worker-0000")
        assert len(region._roots) == 3


@contextlib.asynccontextmanager
async def on_unix(at: Address) -> AsyncIterator[tuple[Orchestrator, Address]]:
    orchestrator = Orchestrator(OFTEN, lambda: None)
    server = Server(orchestrator.attach)
    address = await server.listen(at)
    try:
        yield orchestrator, address
    finally:
        await orchestrator.close()
        await server.close()


# -- a client that is cut off ---------------------------------------------------------


async def cut_off_while_writing(top: RunningCluster, path: str, text: bytes) -> None:
    """What it left open is ended in the region, too, when this returns."""
    connections = len(top.server.connections)
    async with files_of(top.address) as files:
        await (await files.open(path, c.OWRITE)).write(text)
    await until(lambda: len(top.server.connections) == connections)
    await top.files.read("region1/status")  # goes the same way, behind


@story
async def test_what_was_half_written_is_submitted_at_no_level() -> None:
    async with cluster(OFTEN) as region, cluster(OFTEN) as top, simulated_host(1) as host:
        await region.files.write("ctl", f"mount {host.address}")
        await top.files.write("ctl", f"mount {region.address} region1")
        for path in ("region1", "region1/worker-0000", "region1/fusion"):
            await cut_off_while_writing(top, f"{path}/prompt", b"half a pro")
            await cut_off_while_writing(top, f"{path}/history", b'{"role":')
            await cut_off_while_writing(top, f"{path}/system", b"You are")
            for name in ("prompt", "history", "system"):
                assert await top.files.read(f"{path}/{name}") == ""
            assert "error" not in await top.files.attrs(f"{path}/status")
            assert (await top.files.attrs(f"{path}/status"))["state"] == "idle"


@story
async def test_what_was_half_written_to_a_host_that_is_mounted_whole_is_not_submitted() -> None:
    async with cluster(OFTEN) as top, simulated_host(1) as host:
        await top.files.write("ctl", f"mount {host.address} region1")
        await cut_off_while_writing(top, "region1/worker-0000/prompt", b"half a pro")
        assert await top.files.read("region1/worker-0000/prompt") == ""
        assert host.host.workers["worker-0000"].requests == 0


@story
async def test_what_can_be_removed_in_a_region_stays_when_its_writer_is_cut_off() -> None:
    note = Note(Tree(), "note", 0o666)
    root = Directory(note.tree, "/")
    root.add(note)
    server = Server(lambda user, aname: root)
    at = await server.listen(ANYWHERE)
    async with cluster(OFTEN) as region, cluster(OFTEN) as top, simulated_host(1) as host:
        async with await region.files.open("registry/new", c.ORDWR) as lease:
            await lease.write(f"{host.address} epoch 1".encode())
            await region.files.write("ctl", f"mount {at} notes")
            await top.files.write("ctl", f"mount {region.address} region1")
            await cut_off_while_writing(top, f"region1/registry/{host.address}", b"note a")
            await cut_off_while_writing(top, "region1/notes/note", b"milk, bread")
            await until(lambda: note.ended)
            assert not note.removed
            assert " note a\n" in await top.files.read("region1/registry/index")
            fid, _ = await top.files.walk("region1/notes/note")
            await top.files.client.remove(fid)
            assert note.removed, "by who wants that"
    await server.close()


class Note(SyntheticFile):
    """Of another 9P server, which removes what it is told to."""

    removed = False
    ended = False

    def open(self, mode: int) -> OpenFile:
        return OpenNote(self)

    def remove(self) -> None:
        self.removed = True


class OpenNote(OpenFile):
    def __init__(self, note: Note) -> None:
        self._note = note

    def write(self, offset: int, data: bytes) -> int:
        return len(data)

    def drop(self) -> None:
        self._note.ended = True
