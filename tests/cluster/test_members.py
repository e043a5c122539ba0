"""Hosts that come, fail and come back; workers that are drained, resumed and killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llambo9p.cluster.config import Cluster
from llambo9p.cluster.health import FAILURES, Circuit, Health, Rules
from llambo9p.cluster.host import Host as Mounted
from llambo9p.cluster.labels import Labels
from llambo9p.cluster.members import Members
from llambo9p.cluster.names import WholeTree
from llambo9p.cluster.remote_conversation import RemoteConversation
from llambo9p.cluster.state import SavedHost
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Busy, Error, Stale, WorkerLost
from llambo9p.fs.file import OpenFile
from llambo9p.fs.tree import Directory, OpenSnapshot, SyntheticFile, TextFile, Tree
from llambo9p.fs.user import owner
from llambo9p.net.address import Address
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from llambo9p.p9.node import Maybe
from llambo9p.worker.host import Host
from tests.files import ANYWHERE, Files, files_of, story, until

from .harness import RunningCluster, SimulatedHost, cluster, simulated_host

OFTEN = Cluster.model_validate(
    {"load_balancer": {"health_check_interval": 20, "strategy": "round-robin"}}
)
RARELY = Cluster.model_validate(
    {"load_balancer": {"health_check_interval": 60_000, "strategy": "round-robin"}}
)


def members_of(running: RunningCluster) -> Members:
    return running.orchestrator._members


async def query(files: Files, text: str) -> str:
    async with await files.open("data", c.ORDWR) as data:
        await data.write(text.encode())
        return (await data.read_all()).decode()


async def nodes(files: Files) -> dict[str, str]:
    """The health of each worker."""
    names = await files.ls("nodes")
    return {name: (await files.attrs(f"nodes/{name}"))["health"] for name in names}


@contextlib.asynccontextmanager
async def a_tree() -> AsyncIterator[Address]:
    """Where a server has an empty root that is no worker."""
    tree = Tree("glenda")
    server = Server(lambda user, aname: Directory(tree, "/"))
    yield await server.listen(ANYWHERE)
    await server.close()


# -- verbs ------------------------------------------------------------------------


@story
async def test_a_drained_worker_ends_what_it_has_and_gets_nothing_new() -> None:
    gate = Gate()
    async with cluster(RARELY) as running, simulated_host(2, gate=gate) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        await files.write("prompt", "the last one")
        await until(lambda: host.engine.load.active)
        [busy] = [name for name, w in host.host.workers.items() if w.active]
        await files.write("ctl", f"drain {busy}")
        assert (await files.attrs(f"nodes/{busy}"))["state"] == "draining"
        assert "draining 1\n" in await files.read("status")
        gate.open()
        assert "the last one" in await files.read("out")
        for i in range(4):
            await query(files, f"{i}")
        assert host.host.workers[busy].requests == 1
        await files.write("ctl", f"resume {busy}")
        assert set((await nodes(files)).values()) == {"healthy"}
        for i in range(4):
            await query(files, f"{i}")
        assert host.host.workers[busy].requests == 3


@story
async def test_one_verb_about_several_workers_is_all_or_nothing() -> None:
    async with cluster(RARELY) as running, simulated_host(3) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        with pytest.raises(Error, match="nothing is mounted as worker-0009"):
            await files.write("ctl", "drain worker-0000 worker-0009")
        assert not any(w.draining for w in host.host.workers.values())
        await files.write("ctl", "drain worker-0000 worker-0002 worker-0000")
        assert [w.draining for w in host.host.workers.values()] == [True, False, True]
        with pytest.raises(Error, match="usage: drain NAME ..."):
            await files.write("ctl", "drain")


@story
async def test_a_killed_worker_ends_at_once_and_its_request_goes_elsewhere() -> None:
    gate = Gate()
    async with (
        cluster(RARELY) as running,
        simulated_host(1, gate=gate) as dies,
        simulated_host(1) as lives,
    ):
        files = running.files
        await files.write("ctl", f"mount {dies.address}")
        await files.write("prompt", "to whom?")
        await until(lambda: dies.engine.load.active)
        await files.write("ctl", f"mount {lives.address}")
        out = await files.open("out")
        await files.write("ctl", "kill worker-0000")
        assert await files.ls("nodes") == ["worker-0001"]
        gate.open()
        assert "to whom?" in (await out.read_all()).decode()
        assert dies.host.workers == {}
        assert lives.host.workers["worker-0000"].requests == 1


@story
async def test_a_tree_that_is_no_worker_cannot_be_drained_or_killed() -> None:
    async with cluster() as running, a_tree() as address:
        await running.files.write("ctl", f"mount {address} disk")
        for verb in ("drain", "resume", "kill"):
            with pytest.raises(Error, match="disk is no worker"):
                await running.files.write("ctl", f"{verb} disk")


@story
async def test_a_lost_worker_cannot_be_drained_but_killed() -> None:
    async with cluster(OFTEN) as running, simulated_host(1) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        host.kill()
        await until(lambda: members_of(running).counts[Health.LOST])
        with pytest.raises(Error, match="worker is lost: worker-0000"):
            await files.write("ctl", "drain worker-0000")
        await files.write("ctl", "kill worker-0000")
        assert await files.ls("nodes") == []
        assert members_of(running).hosts == []
        assert sum(members_of(running).counts.values()) == 0


# -- coming back ------------------------------------------------------------------


async def again(running: RunningCluster, before: object) -> None:
    """Until a host other than `before` is there, whole."""
    members = members_of(running)
    await until(
        lambda: any(host is not before and host.has_workers_file for host in members.hosts)
    )


@story
async def test_a_mounted_host_that_comes_back_has_its_names_and_its_new_epoch() -> None:
    async with cluster(OFTEN) as running, contextlib.AsyncExitStack() as hosts:
        files = running.files
        other = await hosts.enter_async_context(simulated_host(2))
        first = await hosts.enter_async_context(simulated_host(2, epoch=5))
        await files.write("ctl", f"mount {other.address}\nmount {first.address}")
        names = [f"worker-000{i}" for i in range(4)]
        assert await files.ls("nodes") == names
        [_, mounted] = members_of(running).hosts
        assert (await files.attrs("nodes/worker-0002"))["epoch"] == "5"
        first.kill()
        await until(lambda: members_of(running).counts[Health.LOST] == 2)
        with pytest.raises(Error, match="lost|closed"):
            await files.read("worker-0002/status")
        await hosts.enter_async_context(simulated_host(2, at=first.address, epoch=6))
        await again(running, mounted)
        await until(lambda: members_of(running).counts[Health.HEALTHY] == 4)
        assert sorted(await files.ls("nodes")) == names
        assert (await files.attrs("nodes/worker-0003"))["epoch"] == "6"
        assert await files.ask("hello", "worker-0003") == "simulated: hello"
        await until(lambda: not members_of(running).discovery._trying)


@story
async def test_a_lost_worker_stays_until_the_one_that_takes_its_place_answers() -> None:
    async with cluster(OFTEN) as running, simulated_host(1, epoch=5) as host:
        files, members = running.files, members_of(running)
        await files.write("ctl", f"mount {host.address}")
        host.kill()
        await until(lambda: members.counts[Health.LOST])
        async with simulated_host(1) as comes:
            root = comes.host.attach(owner(), "")
            assert isinstance(root, Directory)
            root.discard("status")
            root.add(TextFile(root.tree, "status", lambda: "epoch 99\n"))  # which it is not
            with pytest.raises(Stale):
                await files.write("ctl", f"mount {comes.address}")
            assert await nodes(files) == {"worker-0000": "lost"}
            assert (await files.attrs("nodes/worker-0000"))["epoch"] == "5"


@story
async def test_a_lost_worker_that_is_expected_keeps_its_name() -> None:
    async with cluster(OFTEN) as running, simulated_host(1, epoch=5) as host:
        files, members = running.files, members_of(running)
        await files.write("ctl", f"mount {host.address}")
        host.kill()
        await until(lambda: members.counts[Health.LOST])
        async with simulated_host(1) as comes, simulated_host(1, at=host.address, epoch=6):
            await files.write("ctl", f"mount {comes.address}")
            await until(lambda: not members.counts[Health.LOST])
            assert {name: each.host.address for name, each in members.workers.items()} == {
                "worker-0000": host.address,
                "worker-0001": comes.address,
            }


@story
async def test_a_host_whose_workers_have_all_ended_is_not_there_any_more() -> None:
    async with cluster(OFTEN) as running, simulated_host(2) as host:
        files, members = running.files, members_of(running)
        await files.write("ctl", f"mount {host.address}")
        for name in ("worker-0000", "worker-0001"):
            await files.write(f"{name}/ctl", "shutdown")
        await until(lambda: not members.hosts)
        assert await nodes(files) == {} and not members.discovery._trying
        host.host.grow(1)
        await files.write("ctl", f"mount {host.address}")
        assert await files.ask("hello", "worker-0002") == "simulated: hello"


@story
async def test_a_worker_is_attached_when_it_is_first_looked_into() -> None:
    """And one that was never looked into is the same when its host is back, for everybody."""
    async with cluster(OFTEN) as running, simulated_host(3, epoch=5) as host:
        files, members = running.files, members_of(running)
        await files.write("ctl", f"mount {host.address}")
        await files.read("worker-0001/status")
        before = dict(members.workers)
        assert [w.mount.attached for w in before.values()] == [False, True, False]
        listed = {entry.name: entry.qid for entry in await files.entries()}
        host.kill()
        await until(lambda: members.counts[Health.LOST] == 3)
        async with simulated_host(3, epoch=5, at=host.address):
            await until(lambda: members.counts[Health.HEALTHY] == 3)
            same = [members.workers[name] is worker for name, worker in before.items()]
            assert same == [True, False, True]
            for name in before:
                assert await files.ask(name, name) == f"simulated: {name}"
            again = {entry.name: entry.qid for entry in await files.entries()}
            changed = {name for name in listed if again[name] != listed[name]}
            assert changed == {"worker-0001"}, "what was open there is of the lost connection"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("status", b"slots many\n"),
        ("status", b"type \xff\n"),
        ("workers", b"worker-0000 idle\n"),
        ("workers", b"\n"),
        ("workers", b"worker-0000 idle 0 0 0 0 none\n"),
    ],
)
@story
async def test_a_host_that_talks_nonsense_is_refused_and_named(file: str, text: bytes) -> None:
    async with cluster() as running, simulated_host(1) as host:
        root = host.host.attach(owner(), "")
        assert isinstance(root, Directory)
        root.discard(file)
        root.add(Nonsense(root.tree, file, text))
        with pytest.raises(Error, match=f"{host.address}: its {file} file is not understood"):
            await running.files.write("ctl", f"mount {host.address}")
        assert not members_of(running).hosts and await nodes(running.files) == {}


class Nonsense(SyntheticFile):
    def __init__(self, tree: Tree, name: str, text: bytes) -> None:
        super().__init__(tree, name, 0o444)
        self._text = text

    def open(self, mode: int) -> OpenFile:
        return OpenSnapshot(self._text)


@story
async def test_a_tree_that_comes_back_is_mounted_under_its_name() -> None:
    async def serve(text: str, at: Address) -> tuple[Server, Address]:
        tree = Tree("glenda")
        root = Directory(tree, "/")
        root.add(TextFile(tree, "motd", lambda: text))
        server = Server(lambda user, aname: root)
        return server, await server.listen(at)

    async with cluster(OFTEN) as running:
        server, address = await serve("old", ANYWHERE)
        await running.files.write("ctl", f"mount {address} disk")
        assert await running.files.read("disk/motd") == "old"
        await server.close()
        await until(lambda: members_of(running).counts[Health.LOST])
        server, _ = await serve("new", address)
        await until(lambda: members_of(running).counts[Health.HEALTHY])
        assert await running.files.read("disk/motd") == "new"
        await server.close()


@story
async def test_a_tree_that_somebody_mounts_again_first_is_not_expected_any_more() -> None:
    async with cluster(OFTEN) as running, a_tree() as address:
        members = members_of(running)
        await running.files.write("ctl", f"mount {address} disk")
        members.discovery.expect(address, WholeTree("disk"))
        await until(lambda: not members.discovery._trying)
        assert members.counts[Health.HEALTHY] == 1


@story
async def test_who_was_sent_to_a_worker_that_is_unmounted_at_that_moment_gets_no_other() -> None:
    async with cluster(OFTEN) as running, simulated_host(2) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        worker = members_of(running).workers["worker-0000"]
        await files.read("worker-0000/status")
        await files.write("ctl", "unmount worker-0000")
        await files.read("worker-0001/status")  # its fid may have the number of the other's
        with pytest.raises(WorkerLost, match="worker-0000 was unmounted"):
            await RemoteConversation.make(worker, owner().name, Labels())
        assert await files.ask("hello", "worker-0001") == "simulated: hello"


@story
async def test_a_host_that_is_unmounted_while_it_is_lost_is_not_expected() -> None:
    async with cluster(OFTEN) as running, simulated_host(1) as host:
        await running.files.write("ctl", f"mount {host.address}")
        host.kill()
        await until(lambda: members_of(running).counts[Health.LOST])
        assert members_of(running).discovery._trying
        await running.files.write("ctl", "unmount worker-0000")
        assert not members_of(running).discovery._trying


@story
async def test_a_host_of_the_configuration_may_come_later() -> None:
    async with simulated_host(1) as gone:
        at = gone.address
    config = OFTEN.model_copy(
        update={"network": OFTEN.network.model_copy(update={"discovery": [str(at)]})}
    )
    async with cluster(config) as running:
        with pytest.raises(Error, match="no healthy worker"):
            await query(running.files, "anybody?")
        async with simulated_host(2, at=at):
            await until(lambda: members_of(running).counts[Health.HEALTHY] == 2)
            assert "hello" in await query(running.files, "hello")


# -- lost at once -----------------------------------------------------------------


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> list[SimulatedHost]:
    """Those in it die when their workers are mounted, before the first heartbeat."""
    hosts: list[SimulatedHost] = []
    mount_workers = Members.mount_workers

    async def mount_and_die(members: Members, host: Mounted, *args: Any) -> None:
        await mount_workers(members, host, *args)
        for each in hosts:
            if each.address == host.address:
                each.kill()
                await host.control.lost

    monkeypatch.setattr(Members, "mount_workers", mount_and_die)
    return hosts


@pytest.mark.parametrize("registers", [False, True])
@story
async def test_a_host_that_is_lost_before_its_first_heartbeat_is_lost_like_any_other(
    registers: bool, dying: list[SimulatedHost]
) -> None:
    async with cluster(OFTEN) as running, simulated_host(2) as host:
        files, members = running.files, members_of(running)
        dying.append(host)
        if registers:
            lease = await files.open("registry/new", c.ORDWR)
            await lease.write(f"{host.address} epoch 1".encode())
        else:
            await files.write("ctl", f"mount {host.address}")
        dying.clear()
        assert await nodes(files) == {"worker-0000": "lost", "worker-0001": "lost"}
        async with simulated_host(2, at=host.address, epoch=2):
            await until(lambda: members.counts[Health.HEALTHY] == 2)
            assert await files.ask("hello", "worker-0001") == "simulated: hello"
            await until(lambda: not members.discovery._trying)


@story
async def test_a_host_that_is_lost_while_it_comes_back_is_expected_further(
    dying: list[SimulatedHost],
) -> None:
    async with cluster(OFTEN) as running, simulated_host(1) as host:
        members = members_of(running)
        await running.files.write("ctl", f"mount {host.address}")
        host.kill()
        async with simulated_host(1, at=host.address, epoch=2) as second:
            dying.append(second)
            await until(lambda: any(each.epoch == 2 and each.lost for each in members.hosts))
        async with simulated_host(1, at=host.address, epoch=3):
            await until(lambda: members.counts[Health.HEALTHY])
        assert await running.files.ls("nodes") == ["worker-0000"]


@story
async def test_a_host_that_comes_back_is_saved_at_any_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with cluster(OFTEN) as running, simulated_host(1) as host:
        members = members_of(running)
        await running.files.write("ctl", f"mount {host.address}")
        mount_workers = Members.mount_workers
        saved: list[list[SavedHost]] = []

        async def noted(members: Members, host: Mounted, *args: Any) -> None:
            saved.append(running.orchestrator.recovery.describe().hosts)
            await mount_workers(members, host, *args)
            saved.append(running.orchestrator.recovery.describe().hosts)

        monkeypatch.setattr(Members, "mount_workers", noted)
        host.kill()
        async with simulated_host(1, at=host.address, epoch=2):
            await until(lambda: members.counts[Health.HEALTHY] and len(saved) == 2)
        assert [[(each.epoch, each.expected) for each in hosts] for hosts in saved] == [
            [(1, True)],
            [(2, True)],
        ]


@story
async def test_each_mount_of_an_address_is_remembered_and_none_twice() -> None:
    async with cluster(RARELY) as running:
        members = members_of(running)

        def saved(name: str, port: int) -> SavedHost:
            return SavedHost(f"tcp!127.0.0.1!{port}", None, [], "-", 0, False, {"": name})

        assert members.remember(saved("disk", 9)) and members.remember(saved("again", 9))
        assert members.remember(saved("disk", 9)) is None
        assert members.remember(saved("disk", 10)) is None, "who has the name keeps it"
        assert set(members.workers) == {"disk", "again"}
        assert members.counts[Health.LOST] == 2


# -- epochs -----------------------------------------------------------------------


@story
async def test_a_host_of_another_epoch_at_the_address_is_refused() -> None:
    async with cluster(RARELY) as running, simulated_host(1, epoch=7) as host:
        members = members_of(running)
        with pytest.raises(Stale, match="stale epoch 8, this host's is 7"):
            await members.join(host.address, 8, None)
        assert members.hosts == []
        await members.join(host.address, 7, None)
        with pytest.raises(Stale, match="stale epoch 6, tcp!.* was last mounted with epoch 7"):
            await members.join(host.address, 6, None)
        assert await running.files.ls("nodes") == ["worker-0000"]
        # whoever took its place meanwhile is refused by name, too
        host.host.epoch = 9
        with pytest.raises(Stale, match="stale epoch 7, this host's is 9"):
            async with files_of(host.address, "worker-0000@7"):
                pass


# -- health -----------------------------------------------------------------------


class Hanging(TextFile):
    """A host's `workers` that is not answered while it `hangs`."""

    def __init__(self, host: Host) -> None:
        root = host.attach(owner(), "")
        assert isinstance(root, Directory)
        super().__init__(root.tree, "workers", lambda: host.workers_text(True))
        root.discard("workers")
        root.add(self)
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0
        """that wait"""

    def open(self, mode: int) -> Maybe[OpenFile]:
        opened = super().open(mode)
        assert isinstance(opened, OpenFile)
        return opened if self.answers.is_set() else self.later(opened)

    async def later(self, opened: OpenFile) -> OpenFile:
        self.asked += 1
        await self.answers.wait()
        self.asked -= 1
        return opened


@story
async def test_a_degraded_host_gets_requests_only_when_no_other_is_healthy() -> None:
    async with (
        cluster(OFTEN) as running,
        simulated_host(1) as slow,
        simulated_host(1) as well,
    ):
        files = running.files
        workers = Hanging(slow.host)
        await files.write("ctl", f"mount {slow.address}\nmount {well.address}")
        workers.answers.clear()
        await until(lambda: members_of(running).counts[Health.DEGRADED] == 1)
        assert await nodes(files) == {"worker-0000": "degraded", "worker-0001": "healthy"}
        for i in range(4):
            await query(files, f"{i}")
        assert slow.host.workers["worker-0000"].requests == 0
        await files.write("ctl", "drain worker-0001")
        assert "hello" in await query(files, "hello")
        assert slow.host.workers["worker-0000"].requests == 1
        await files.write("ctl", "resume worker-0001")
        workers.answers.set()
        await until(lambda: members_of(running).counts[Health.HEALTHY] == 2)


@story
async def test_a_host_that_stays_silent_is_lost_and_comes_back_when_it_speaks() -> None:
    async with cluster(OFTEN) as running, simulated_host(1) as host:
        files, members = running.files, members_of(running)
        members._rules = Rules(0.02, 2, 3, patience=0.2)
        workers = Hanging(host.host)
        await files.write("ctl", f"mount {host.address}")
        workers.answers.clear()
        await until(lambda: members.counts[Health.LOST] == 1)
        with pytest.raises(Error, match="lost|closed"):
            await files.read("worker-0000/status")
        workers.answers.set()
        await until(lambda: members.counts[Health.HEALTHY] == 1)
        assert await files.ask("hello", "worker-0000") == "simulated: hello"


@story
async def test_a_heartbeat_from_before_a_worker_was_mounted_does_not_unmount_it() -> None:
    async with cluster(OFTEN) as running, simulated_host(1) as host:
        members = members_of(running)
        workers = Hanging(host.host)
        await running.files.write("ctl", f"mount {host.address}")
        [mounted] = members.hosts
        workers.answers.clear()
        await until(lambda: workers.asked)
        host.host.grow(1)
        await members.mount_workers(mounted, ["worker-0001"])
        for _ in range(2):
            seen = mounted.heartbeat
            workers.answers.set()
            await until(lambda seen=seen: mounted.heartbeat > seen)
            assert "worker-0001" in members.workers


@story
async def test_a_heartbeat_from_before_a_verb_does_not_undo_it() -> None:
    async with cluster(OFTEN) as running, simulated_host(1) as host:
        members = members_of(running)
        workers = Hanging(host.host)
        await running.files.write("ctl", f"mount {host.address}")
        [mounted] = members.hosts
        for verb, health in ("drain", Health.DRAINING), ("resume", Health.HEALTHY):
            workers.answers.clear()
            await until(lambda: workers.asked)
            await running.files.write("ctl", f"{verb} worker-0000")
            seen = mounted.heartbeat
            workers.answers.set()
            await until(lambda seen=seen: mounted.heartbeat > seen)
            assert members.workers["worker-0000"].health is health


@story
async def test_a_worker_that_fails_repeatedly_is_passed_over_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llambo9p.cluster.health.FIRST_PAUSE_S", 0.05)
    async with cluster(RARELY) as running, simulated_host(2) as host:
        files, members = running.files, members_of(running)
        await files.write("ctl", f"mount {host.address}")
        bad = members.workers["worker-0000"]
        for _ in range(10):
            members.failed(bad, Busy())  # that is no fault of its own
        assert bad.circuit is Circuit.CLOSED
        for _ in range(FAILURES):
            members.failed(bad, WorkerLost())
        assert (await files.attrs("nodes/worker-0000"))["circuit"] == "open"
        assert await nodes(files) == {"worker-0000": "degraded", "worker-0001": "healthy"}
        await until(lambda: members.counts[Health.HEALTHY] == 2)
        assert bad.circuit is Circuit.HALF_OPEN
        await query(files, "one")
        await query(files, "two")
        assert host.host.workers["worker-0000"].requests == 1
        members.succeeded(bad)
        assert bad.circuit is Circuit.CLOSED


@story
async def test_one_request_decides_about_a_half_open_circuit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llambo9p.cluster.health.FIRST_PAUSE_S", 0.01)
    slow, other = Gate(), Gate()
    async with (
        cluster(RARELY) as running,
        simulated_host(1, gate=slow) as bad_host,
        simulated_host(1, 1, gate=other) as good_host,
    ):
        files, members = running.files, members_of(running)
        await files.write("ctl", f"mount {bad_host.address}\nmount {good_host.address}")
        bad, good = members.workers["worker-0000"], members.workers["worker-0001"]
        for _ in range(FAILURES):
            members.failed(bad, WorkerLost())
        await until(lambda: bad.health is Health.HEALTHY)
        members.sent(bad)
        assert bad.health is Health.DEGRADED
        members.sent(bad, -1)
        assert bad.health is Health.HEALTHY, "it was cancelled, and decided nothing"
        asking = [asyncio.create_task(query(files, f"{i}")) for i in range(4)]
        await until(lambda: bad.asked + good.asked == 4)
        assert (bad.asked, bad.circuit) == (1, Circuit.HALF_OPEN)
        slow.open()
        await until(lambda: bad.circuit is Circuit.CLOSED)
        assert bad.health is Health.HEALTHY
        other.open()
        await asyncio.gather(*asking)


@story
async def test_who_waits_is_not_sent_to_a_worker_that_failed_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llambo9p.cluster.health.FIRST_PAUSE_S", 0.01)
    config = Cluster.model_validate(
        {"load_balancer": {"strategy": "round-robin"}, "limits": {"queue_per_host": 0}}
    )
    gate, fails = Gate(), Gate()
    async with (
        cluster(config) as running,
        simulated_host(1, slots=1, gate=fails, poison=b"poison") as bad_host,
        simulated_host(1, 1, slots=1, gate=gate) as good_host,
    ):
        files, members = running.files, members_of(running)
        await files.write("ctl", f"mount {bad_host.address}\nmount {good_host.address}")
        bad, good = members.workers["worker-0000"], members.workers["worker-0001"]
        for _ in range(FAILURES):
            members.failed(bad, WorkerLost())
        asking = [asyncio.create_task(query(files, "one"))]
        await until(lambda: good.asked)
        await until(lambda: bad.health is Health.HEALTHY)
        bad.breaker._pause = 30.0
        asking.append(asyncio.create_task(query(files, "poison")))
        await until(lambda: bad.asked)
        asking.append(asyncio.create_task(query(files, "two")))
        await until(lambda: len(running.orchestrator._dispatch._waiting) == 1)
        fails.open()
        await until(lambda: bad.circuit is Circuit.OPEN)
        assert not bad.asked and len(running.orchestrator._dispatch._waiting) == 2
        gate.open()
        await asyncio.gather(*asking)
        assert bad_host.host.workers["worker-0000"].requests == 1


@story
async def test_the_counts_are_those_of_the_table() -> None:
    async with cluster(OFTEN) as running, simulated_host(3) as one, simulated_host(2) as two:
        files, members = running.files, members_of(running)
        await files.write("ctl", f"mount {one.address}\nmount {two.address}")
        await files.write("ctl", "drain worker-0001")
        two.kill()
        await until(lambda: members.counts[Health.LOST])
        await files.write("worker-0002/ctl", "shutdown")
        await until(lambda: "worker-0002" not in members.workers)
        counted = {health: count for health, count in members.counts.items() if count}
        assert counted == {Health.HEALTHY: 1, Health.DRAINING: 1, Health.LOST: 2}
        status = await files.read("status")
        assert "workers 4\nhealthy 1\ndegraded 0\ndraining 1\nlost 2\n" in status

