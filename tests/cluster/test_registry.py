"""`registry/`: its files, leases, who may register, and what becomes of the hosts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llambo9p.cluster.config import Cluster
from llambo9p.cluster.health import Health
from llambo9p.cluster.members import Members
from llambo9p.cluster.namespace import Orchestrator
from llambo9p.errors import Error, PermissionDenied, Stale
from llambo9p.fs.user import owner
from llambo9p.net.address import parse
from llambo9p.net.client import RemoteOpen
from llambo9p.net.security import Security
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.node import Node
from tests.files import ANYWHERE, Files, files_of, reading, story, turns_of_the_loop, until

from .harness import RunningCluster, cluster, simulated_host


def members_of(running: RunningCluster) -> Members:
    return running.orchestrator._members


async def lease(files: Files, words: str) -> RemoteOpen:
    """Register; the open file is the lease."""
    opened = await files.open("registry/new", c.ORDWR)
    try:
        await opened.write(words.encode())
    except BaseException:
        opened.forget()
        raise
    return opened


async def found(files: Files, words: str) -> list[str]:
    """The addresses that `find` gives."""
    async with await files.open("registry/find", c.ORDWR) as find:
        await find.write(words.encode())
        return [line.split()[0] for line in (await find.read_all()).decode().splitlines()]


@story
async def test_a_host_that_registers_is_mounted_and_lost_with_its_lease() -> None:
    async with cluster() as running, simulated_host(2, epoch=3) as host:
        files = running.files
        held = await lease(files, f"{host.address} type tiny epoch 3 note 'two words'")
        assert await files.ls("nodes") == ["worker-0000", "worker-0001"]
        line = f"{host.address} type tiny epoch 3 note 'two words' first 0\n"
        assert await files.read("registry/index") == line
        assert (await held.read_all()).decode() == line
        assert await files.read(f"registry/{host.address}") == line
        assert await files.ls("registry") == ["new", "index", "find", "event", str(host.address)]
        await held.clunk()
        assert members_of(running).counts[Health.LOST] == 2, "at once"
        assert await files.read("registry/index") == ""
        assert await files.ls("registry") == ["new", "index", "find", "event"]
        with pytest.raises(Error, match="closed|lost"):
            await files.read("worker-0000/status")
        assert not members_of(running).discovery._trying, "it comes by itself"


@story
async def test_a_connection_that_is_cut_ends_the_lease() -> None:
    async with cluster() as running, simulated_host(1) as host:
        async with files_of(running.address) as registers:
            await lease(registers, f"{host.address} epoch 1")
        await until(lambda: members_of(running).counts[Health.LOST])


@story
async def test_a_host_that_keeps_its_lease_is_connected_again() -> None:
    async with cluster() as running, simulated_host(2) as host:
        members = members_of(running)
        held = await lease(running.files, f"{host.address} epoch 1")
        [before] = members.hosts
        for connection in list(host.server.connections):
            connection.abort()
        await until(lambda: before not in members.hosts)
        await until(lambda: members.counts[Health.HEALTHY] == 2)
        assert await running.files.ls("nodes") == ["worker-0000", "worker-0001"]
        await held.clunk()
        assert members.counts[Health.LOST] == 2
        assert not members.discovery._trying


@story
async def test_two_hosts_that_both_begin_with_worker_0000_have_their_names_again() -> None:
    async with cluster() as running, contextlib.AsyncExitStack() as hosts:
        files = running.files
        one = await hosts.enter_async_context(simulated_host(2))
        two = await hosts.enter_async_context(simulated_host(2, epoch=5))
        await lease(files, f"{one.address} epoch 1 first 0")
        held = await lease(files, f"{two.address} epoch 5 first 0")
        assert (await held.read_all()).decode().endswith(" first 2\n")
        names = [f"worker-000{i}" for i in range(4)]
        assert await files.ls("nodes") == names
        assert await files.ask("who?", "worker-0003") == "simulated: who?"
        assert two.host.workers["worker-0001"].requests == 1
        two.kill()
        await held.clunk()
        again = await hosts.enter_async_context(simulated_host(2, at=two.address, epoch=6))
        held = await lease(files, f"{two.address} epoch 6 first 0")
        assert sorted(await files.ls("nodes")) == names
        assert (await files.attrs("nodes/worker-0003"))["epoch"] == "6"
        assert await files.ask("who?", "worker-0003") == "simulated: who?"
        assert again.host.workers["worker-0001"].requests == 1


@story
async def test_names_are_kept_though_the_own_ones_are_free_meanwhile() -> None:
    async with cluster() as running, simulated_host(1) as one, simulated_host(1) as two:
        files = running.files
        await lease(files, f"{one.address} epoch 1")
        held = await lease(files, f"{two.address} epoch 1")
        await held.clunk()
        await files.write("ctl", "unmount worker-0000")
        await lease(files, f"{two.address} epoch 1 first 0")
        assert await files.ls("nodes") == ["worker-0001"]


@story
async def test_nobody_looks_for_a_host_whose_lease_is_over() -> None:
    async with cluster() as running, simulated_host(1) as host:
        held = await lease(running.files, f"{host.address} epoch 1")
        host.kill()
        await until(lambda: members_of(running).discovery._trying)
        await held.clunk()
        assert not members_of(running).discovery._trying


@story
async def test_a_host_wishes_for_the_names_that_it_had_before() -> None:
    async with cluster() as running, simulated_host(2) as host:
        await lease(running.files, f"{host.address} epoch 1 first 8")
        assert await running.files.ls("nodes") == ["worker-0008", "worker-0009"]


@story
async def test_an_orphan_is_refused_and_a_successor_takes_its_place() -> None:
    async with cluster() as running, simulated_host(1, epoch=5) as host:
        files = running.files
        held = await lease(files, f"{host.address} epoch 5")
        with pytest.raises(Stale, match="stale epoch 4, tcp!.* was last mounted with epoch 5"):
            await lease(files, f"{host.address} epoch 4")
        with pytest.raises(Stale, match="stale epoch 6, this host's is 5"):
            await lease(files, f"{host.address} epoch 6")  # it is not who listens there
        assert (await files.attrs("nodes/worker-0000"))["health"] == "healthy", "all the same"
        host.host.epoch = 7
        with pytest.raises(Error, match="is registered already"):
            await lease(files, str(host.address))
        successor = await lease(files, f"{host.address} epoch 7")
        await held.clunk()  # its lease was not the host's any more
        assert (await files.attrs("nodes/worker-0000"))["health"] == "healthy"
        await successor.clunk()
        assert (await files.attrs("nodes/worker-0000"))["health"] == "lost"


@story
async def test_a_host_that_is_mounted_gets_a_lease_and_keeps_its_connections() -> None:
    async with cluster() as running, simulated_host(1) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        [mounted] = members_of(running).hosts
        held = await lease(files, str(host.address))
        assert members_of(running).hosts == [mounted] and not mounted.lost
        await held.clunk()
        assert mounted.lost and not members_of(running).discovery._trying


@story
async def test_who_was_started_here_is_not_registered_by_hand() -> None:
    config = {"nodes": {"one": {"resources": {"model": "simulated"}}}}
    async with cluster(Cluster.model_validate(config)) as running:
        files = running.files
        await files.write("ctl", "spawn --count 1")
        address = (await files.attrs("nodes/worker-0000"))["addr"]
        with pytest.raises(Error, match=f"{address} was started here, and is mounted"):
            await lease(files, address)
        assert await files.ask("hello", "worker-0000") == "simulated: hello"
        assert (await files.attrs("nodes/worker-0000"))["health"] == "healthy"


@story
async def test_find_selects_by_attributes_for_each_open_by_itself() -> None:
    async with cluster() as running, simulated_host(1) as a, simulated_host(1) as b:
        files = running.files
        await lease(files, f"{a.address} type tiny site 'here and there' epoch 1")
        await lease(files, f"{b.address} type large epoch 1")
        both = [str(a.address), str(b.address)]
        assert await found(files, "type large") == both[1:]
        assert await found(files, "type '*' epoch 1") == both
        assert await found(files, "site '*'") == both[:1]
        assert await found(files, "site 'here and there'") == both[:1]
        assert await found(files, "type tiny site elsewhere") == []
        assert await found(files, "") == both
        async with await files.open("registry/find", c.ORDWR) as one:
            async with await files.open("registry/find", c.ORDWR) as two:
                await one.write(b"type tiny")
                await two.write(b"type large")
                # a Linux fd reads on from what it wrote, plan9port's reads at 0
                assert str(a.address) in (await one.read(len("type tiny"))).decode()
                assert str(b.address) in (await two.read(0)).decode()
                await one.write(b"type large")
                assert str(b.address) in (await one.read(0)).decode()
        with pytest.raises(Error, match="registry: 'odd' has no value"):
            await found(files, "type tiny odd")


@story
async def test_event_wakes_every_reader_at_each_change() -> None:
    async with (
        cluster() as running,
        simulated_host(1) as host,
        files_of(running.address) as other,
    ):
        files = running.files
        events = [await each.open("registry/event") for each in (files, other)]
        reads = [reading(event) for event in events]
        await turns_of_the_loop()
        assert not any(read.done() for read in reads)
        held = await lease(files, f"{host.address} epoch 1")
        assert [(await read).data for read in reads] == [b"1\n", b"1\n"]
        await files.write(f"registry/{host.address}", "note x")
        await held.clunk()
        assert await events[0].read(2) == b"3\n", "what happened meanwhile is one event"
        waits = reading(events[0])
        waits.cancel()
        await turns_of_the_loop()
        assert not running.orchestrator._registry._sleepers


@story
async def test_attributes_are_changed_by_the_lease_and_by_the_file() -> None:
    async with cluster() as running, simulated_host(1) as host:
        files = running.files
        held = await lease(files, f"{host.address} epoch 1 type tiny")
        await held.write(b"type medium note a")
        await files.write(f"registry/{host.address}", "note b")
        assert " type medium first 0 note b\n" in await files.read("registry/index")
        with pytest.raises(Error, match="first is only said when a host registers"):
            await held.write(b"first 7")
        with pytest.raises(Error, match="more than 64 attributes"):
            await held.write(" ".join(f"a{i} b" for i in range(65)).encode())
        fid, _ = await files.walk(f"registry/{host.address}")
        await files.client.call(m.Tremove(0, fid), m.Rremove)
        assert await files.read("registry/index") == ""
        assert members_of(running).counts[Health.LOST] == 1
        with pytest.raises(Error, match="is not registered any more"):
            await held.write(b"note c")
        await held.clunk()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("nonsense", "bad address 'nonsense'"),
        ("", "write ADDR attr value"),
        ("tcp!127.0.0.1!9 type", "'type' has no value"),
        ("tcp!127.0.0.1!9 epoch soon", f"epoch must be a whole number 0..{2**63 - 1}, not 'soon'"),
        ("tcp!127.0.0.1!9 epoch 9999999999999999999", "epoch must be a whole number 0..9223"),
        ("tcp!127.0.0.1!9 first 10001", "first must be a whole number 0..10000, not '10001'"),
        ("tcp!127.0.0.1!9 persist 1", "no persist: mount the host, or hold the lease"),
        ("tcp!127.0.0.1!9 epoch 1", "cannot connect to tcp!127.0.0.1!9"),
        ("tcp!127.0.0.1!9 'open", "quote is not closed"),
    ],
)
@story
async def test_what_cannot_be_registered_is_refused_with_the_reason(words: str, why: str) -> None:
    async with cluster() as running:
        before = await running.files.ls("registry")
        with pytest.raises(Error) as refused:
            # an empty write would not be sent
            await lease(running.files, words or " ")
        assert why in str(refused.value)
        assert await running.files.ls("registry") == before
        assert members_of(running).hosts == []


@contextlib.asynccontextmanager
async def shared(directory: Path) -> AsyncIterator[tuple[Orchestrator, Files, Files, Files]]:
    """An orchestrator whose clients are the owner, alice and bob, an administrator."""
    orchestrator = Orchestrator(Cluster(), lambda: None)
    server = Server(orchestrator.attach, security=Security(admins=["bob"]))
    address = await server.listen(parse(f"unix!{directory}/orchestrator"))
    try:
        async with (
            files_of(address) as me,
            files_of(address, uname="alice") as alice,
            files_of(address, uname="bob") as bob,
        ):
            yield orchestrator, me, alice, bob
    finally:
        await orchestrator.close()
        await server.close()


@story
async def test_only_administrators_register_and_everybody_looks(tmp_path: Path) -> None:
    async with shared(tmp_path) as (_, me, alice, bob):
        async with simulated_host(1, at=parse(f"unix!{tmp_path}/host")) as host:
            with pytest.raises(PermissionDenied, match="registry/new is for the owner and sec"):
                await alice.open("registry/new", c.ORDWR)
            with pytest.raises(PermissionDenied, match="unix socket is for the owner of the proc"):
                await lease(bob, f"{host.address} epoch 1")
            held = await lease(me, f"{host.address} epoch 1")
            for files in (me, alice, bob):
                assert str(host.address) in await files.read("registry/index")
            [entry] = [e for e in await alice.entries("registry") if "!" in e.name]
            assert (entry.uid, entry.mode) == (owner().name, 0o444)
            assert entry.name == f"unix!{tmp_path}/host".replace("/", "%2F")
            assert await alice.read(f"registry/{entry.name}") == await me.read("registry/index")
            with pytest.raises(PermissionDenied):
                await alice.open(f"registry/{entry.name}", c.OWRITE)
            fid, _ = await alice.walk(f"registry/{entry.name}")
            with pytest.raises(PermissionDenied):
                await alice.client.call(m.Tremove(0, fid), m.Rremove)
            assert await alice.ask("hello", "worker-0000") == "simulated: hello"
            await held.clunk()


@story
async def test_a_host_whose_registration_is_given_up_is_not_mounted() -> None:
    """Whoever writes `new` leaves before the host has answered."""
    server = Server(lambda user, aname: _never())
    address = await server.listen(ANYWHERE)
    async with cluster() as running:
        async with files_of(running.address) as registers:
            opened = await registers.open("registry/new", c.ORDWR)
            written = registers.client.call(
                m.Twrite(0, opened.fid, 0, f"{address} epoch 1".encode()), m.Rwrite
            )
            await until(lambda: server.connections)
            assert not written.done()
            written.cancel()
        await until(lambda: not server.connections)
        assert members_of(running).hosts == []
        assert await running.files.read("registry/index") == ""
    await server.close()


async def _never() -> Node:
    await asyncio.Event().wait()
    raise AssertionError


@story
async def test_the_version_of_the_directory_counts_the_changes() -> None:
    async with cluster() as running, simulated_host() as host:
        files = running.files

        async def version() -> int:
            fid, walk = await files.walk("registry")
            stat = (await files.client.call(m.Tstat(0, fid), m.Rstat)).stat
            await files.client.clunk(fid)
            [listed] = [entry.qid for entry in await files.entries() if entry.name == "registry"]
            assert stat.qid == walk.wqid[-1] == listed
            return stat.qid.vers

        assert await version() == 0
        held = await lease(files, f"{host.address} epoch 1")
        assert await version() == 1
        await held.write(b"note new")
        assert await version() == 2
        await held.clunk()
        assert await version() == 3


@story
async def test_a_refused_registration_leaves_no_trace() -> None:
    async with cluster() as running, simulated_host(epoch=1) as host:
        before = await running.files.read("status")
        with pytest.raises(Error, match="epoch"):
            await lease(running.files, f"{host.address} epoch 2")
        with pytest.raises(Error):
            await lease(running.files, "tcp!127.0.0.1!1 epoch 2")
        assert await running.files.read("status") == before, "and there was no event"
