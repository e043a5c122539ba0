"""Which hosts are started for a `spawn`, and what becomes of those that die."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster import fleet
from llambo9p.cluster.config import Cluster
from llambo9p.cluster.fleet import Fleet, Part, divide, runs
from llambo9p.cluster.health import Health
from llambo9p.cluster.host import Host
from llambo9p.cluster.launchers.base import HostSpec, Launched, Progress
from llambo9p.cluster.launchers.local import LocalHost
from llambo9p.cluster.members import Members
from llambo9p.cluster.names import WholeTree
from llambo9p.errors import Error
from llambo9p.p9 import constants as c
from tests.files import story, turns_of_the_loop, until

from .harness import RunningCluster, cluster, simulated_host

NODES = {
    "spread": {"workers_per_host": 3, "resources": {"model": "simulated", "threads": 1}},
    "one": {"resources": {"model": "simulated", "threads": 1}},
    "bad": {"workers_per_host": 2, "resources": {"model": "/nowhere.gguf"}},
}


def config(**orchestrator: object) -> Cluster:
    return Cluster.model_validate(
        {
            "nodes": NODES,
            "orchestrator": orchestrator,
            "load_balancer": {"health_check_interval": 50},
        }
    )


def processes(running: RunningCluster) -> dict[str, LocalHost]:
    """Of the hosts that run, by name."""
    found = {}
    for host in running.orchestrator._members.hosts:
        if host.process is not None and not host.process.ended.done():
            assert isinstance(host.process, LocalHost)
            found[host.process.spec.name] = host.process
    return found


# -- pure -------------------------------------------------------------------------


@given(st.integers(1, 300), st.lists(st.integers(0, 20)), st.none() | st.integers(1, 20))
def test_workers_fill_the_room_there_is_and_then_new_hosts(count, rooms, each):
    parts = divide(count, rooms, each)
    assert sum(parts) == count
    old, new = parts[: len(rooms)], parts[len(rooms) :]
    assert all(part <= room for part, room in zip(old, rooms, strict=True))
    assert not new or old == rooms, "a new host though there was room"
    assert all(0 < part <= (each or count) for part in new)
    assert len(new) <= 1 or all(part == each for part in new[:-1])


@given(st.sets(st.integers(0, 60)))
def test_runs_are_the_numbers_and_as_few_as_can_be(numbers):
    found = runs(list(numbers))
    assert [n for run in found for n in run] == sorted(numbers)
    assert all(a.stop < b.start for a, b in zip(found, found[1:], strict=False))


# -- real hosts -------------------------------------------------------------------


@story
async def test_workers_are_spread_over_hosts_and_room_is_filled_first() -> None:
    async with cluster(config()) as running:
        files = running.files
        await files.write("ctl", "spawn --count 5 --type spread")
        assert {name: host.spec.count for name, host in processes(running).items()} == {
            "host-0000": 3, "host-0003": 2
        }  # fmt: skip
        await files.write("ctl", "spawn --count 3 --type spread")
        assert set(processes(running)) == {"host-0000", "host-0003", "host-0006"}
        await files.write("ctl", "spawn --count 4 --type one")
        assert set(processes(running)) == {"host-0000", "host-0003", "host-0006", "host-0008"}
        attrs = await files.attrs("status")
        assert (attrs["healthy"], attrs["hosts"]) == ("12", "4")
        for number in range(12):
            assert (await files.attrs(f"worker-{number:04d}/status"))["state"] == "idle"


@story
async def test_a_spawn_that_fails_leaves_nothing() -> None:
    async with cluster(config(max_nodes=6)) as running:
        files = running.files
        await files.write("ctl", "spawn --count 2 --type spread")
        with pytest.raises(Error, match="/nowhere.gguf: no such file"):
            await files.write("ctl", "spawn --count 3 --type bad")
        with pytest.raises(Error, match="5 more workers would be more than max_nodes 6"):
            await files.write("ctl", "spawn --count 5 --type spread")
        with pytest.raises(Error, match="no engine 'slurm'; engines are local ray"):
            await files.write("ctl", "spawn --count 1 --type one --engine slurm")
        assert await files.ls("nodes") == ["worker-0000", "worker-0001"]
        assert set(processes(running)) == {"host-0000"}


@story
async def test_what_was_started_is_undone_when_one_of_several_hosts_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The new host fails; the old one has grown by then."""
    async with cluster(config()) as running:
        files = running.files
        await files.write("ctl", "spawn --count 1 --type spread")
        launcher = running.orchestrator._fleet._launchers["local"]

        async def start(*args: object) -> None:
            names = running.orchestrator._members.workers
            await until(lambda: len(names) == 3)
            raise Error("no room")

        monkeypatch.setattr(launcher, "start", start)
        with pytest.raises(Error, match="no room"):
            await files.write("ctl", "spawn --count 4 --type spread")
        assert await files.ls("nodes") == ["worker-0000"]
        monkeypatch.undo()
        await files.write("ctl", "spawn --count 4 --type spread")
        assert {name: host.spec.first for name, host in processes(running).items()} == {
            "host-0000": 0, "host-0003": 3
        }  # fmt: skip


@story
async def test_each_part_of_a_spawn_that_is_flushed_undoes_what_it_did() -> None:
    """However long another takes for that."""
    async with cluster(config()) as running:
        undone: list[int] = []

        async def place(part: Part) -> Host:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                await turns_of_the_loop(part.first)
                undone.append(part.first)
                raise
            raise AssertionError

        parts = [Part(None, f"host-{first}", first, 1) for first in (0, 9)]
        placing = asyncio.create_task(running.orchestrator._fleet._place_all(parts, place))
        await turns_of_the_loop()
        placing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await placing
        assert undone == [0, 9]


@story
async def test_only_what_a_spawn_started_is_undone_whoever_has_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the second host starts, another comes that calls its workers as the first does."""
    async with cluster(config()) as running, simulated_host(3) as other:
        files = running.files
        await files.write("ctl", "spawn --count 1 --type one")
        await files.write("ctl", "unmount worker-0000")
        launcher = running.orchestrator._fleet._launchers["local"]
        members = running.orchestrator._members
        start = launcher.start

        async def starting(spec: HostSpec, progress: Progress) -> Launched:
            if spec.first == 0:
                await files.write("ctl", f"mount {other.address}")
                return await start(spec, progress)
            await until(lambda: len(members.workers) == 6)
            raise Error("no room")

        monkeypatch.setattr(launcher, "start", starting)
        with pytest.raises(Error, match="no room"):
            await files.write("ctl", "spawn --count 4 --type spread")
        assert await files.ls("nodes") == ["worker-0004", "worker-0005", "worker-0006"]
        assert {str(host.address) for host in members.hosts} == {str(other.address)}


@story
async def test_names_are_a_hosts_from_the_moment_that_it_is_to_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others come while it starts: one that registers, and one that is mounted by that name."""
    async with cluster(config()) as running, simulated_host(1) as other, simulated_host() as tree:
        files = running.files
        await files.write("ctl", "spawn --count 1 --type spread")
        launcher = running.orchestrator._fleet._launchers["local"]
        members = running.orchestrator._members
        start = launcher.start

        async def starting(spec: HostSpec, progress: Progress) -> Launched:
            for name in ("worker-0001", "worker-0003"):  # on the host that grows, and the new one
                if name not in members.workers:
                    with pytest.raises(Error, match=f"{name} is being started"):
                        await members.mount(tree.address, WholeTree(name))
            await members.join(other.address, epoch=1, first=3)
            return await start(spec, progress)

        monkeypatch.setattr(launcher, "start", starting)
        await files.write("ctl", "spawn --count 3 --type spread")
        here = {name: worker.there for name, worker in members.workers.items()}
        other_name = here.pop("worker-0004")
        assert other_name == "worker-0000"
        assert sorted(here) == [f"worker-{number:04d}" for number in range(4)]
        assert all(name == there for name, there in here.items())


@story
async def test_a_start_whose_model_does_not_go_on_loading_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "hangs"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\necho loading 10\nexec sleep 60\n")
    program.chmod(0o755)
    async with cluster(config(start_timeout=500)) as running:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", str(program))
            with pytest.raises(Error, match="host-0000 made no progress for 0.5 s while it was"):
                await running.files.write("ctl", "spawn --count 1 --type one")
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
        assert not running.orchestrator._fleet.loading
        running.orchestrator._fleet._config = config()
        await running.files.write("ctl", "spawn --count 1 --type one")
        assert await running.files.ask("hello", "worker-0000") == "simulated: hello"


@story
async def test_a_model_that_goes_on_loading_has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(config(start_timeout=600)) as running:
        fleet = running.orchestrator._fleet
        launcher = fleet._launcher_of("local")
        loop = asyncio.get_running_loop()

        async def start(spec: HostSpec, progress: Progress) -> Launched:
            began = loop.time()
            for percent in range(100):
                progress(percent)
                if loop.time() - began > 0.9:
                    break
                await asyncio.sleep(0.02)
            raise Error("it is loaded")

        monkeypatch.setattr(launcher, "start", start)
        with pytest.raises(Error, match="it is loaded"):
            await running.files.write("ctl", "spawn --count 1 --type one")


@story
async def test_no_two_hosts_have_one_name() -> None:
    """The launchers know hosts by it, and one on Ray would end the other."""
    async with cluster(config()) as running:
        files = running.files
        await files.write("ctl", "spawn --count 2 --type one")
        await files.write("ctl", "unmount worker-0000")
        await files.write("ctl", "spawn --count 1 --type spread")
        assert set(processes(running)) == {"host-0000", "host-0000-2"}
        assert await files.ask("hello", "worker-0001") == "simulated: hello"


@story
async def test_workers_are_kept_when_their_host_dies_while_they_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet, "FIRST_S", 0.05)
    async with cluster(config()) as running:
        files = running.files
        await files.write("ctl", "spawn --count 3 --type spread")
        members = running.orchestrator._members
        learn = Host.learn
        came: list[Host] = []

        async def learn_and_die(host: Host) -> int:
            slots = await learn(host)
            came.append(host)
            if len(came) == 1:
                assert isinstance(host.process, LocalHost)
                os.kill(host.process.pid, signal.SIGKILL)
                await host.process.ended
            return slots

        os.kill(processes(running)["host-0000"].pid, signal.SIGKILL)
        monkeypatch.setattr(Host, "learn", learn_and_die)
        await until(lambda: len(came) > 1)
        await until(lambda: members.counts[Health.HEALTHY] == 3)
        assert await files.ls("nodes") == ["worker-0000", "worker-0001", "worker-0002"]
        for name in members.workers:
            assert await files.ask("hello", name) == "simulated: hello"


@story
async def test_workers_are_kept_when_their_host_dies_before_its_first_heartbeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet, "FIRST_S", 0.05)
    async with cluster(config()) as running:
        await running.files.write("ctl", "spawn --count 2 --type spread")
        members = running.orchestrator._members
        mount_workers = Members.mount_workers
        mounted: list[Host] = []

        async def mount_and_die(self: Members, host: Host, *args: Any) -> None:
            await mount_workers(self, host, *args)
            mounted.append(host)
            if len(mounted) == 1:
                assert isinstance(host.process, LocalHost)
                os.kill(host.process.pid, signal.SIGKILL)
                await host.control.lost

        monkeypatch.setattr(Members, "mount_workers", mount_and_die)
        os.kill(processes(running)["host-0000"].pid, signal.SIGKILL)
        await until(lambda: len(mounted) == 2)
        await until(lambda: members.counts[Health.HEALTHY] == 2)
        assert await running.files.ls("nodes") == ["worker-0000", "worker-0001"]


@story
async def test_workers_are_kept_when_their_host_dies_with_only_some_of_them_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their numbers have a gap, so it is started with the first and grows by the others."""
    monkeypatch.setattr(fleet, "FIRST_S", 0.05)
    async with cluster(config()) as running:
        files, members = running.files, running.orchestrator._members
        await files.write("ctl", "spawn --count 4 --type one")
        await files.write("ctl", "unmount worker-0001\ndrain worker-0003")
        grow = Fleet._grow
        grew: list[Host] = []

        async def die_and_grow(self: Fleet, host: Host, part: Part) -> None:
            grew.append(host)
            if len(grew) == 1:
                assert isinstance(host.process, LocalHost)
                os.kill(host.process.pid, signal.SIGKILL)
                await host.control.lost
            await grow(self, host, part)

        monkeypatch.setattr(Fleet, "_grow", die_and_grow)
        os.kill(processes(running)["host-0000"].pid, signal.SIGKILL)
        await until(lambda: len(grew) == 2 and not members.counts[Health.LOST])
        assert list(processes(running)) == ["host-0000"] and len(members.hosts) == 1
        assert sorted(members.workers) == ["worker-0000", "worker-0002", "worker-0003"]
        assert members.workers["worker-0003"].health is Health.DRAINING
        for name in ("worker-0000", "worker-0002"):
            assert await files.ask("hello", name) == "simulated: hello"


@story
async def test_a_host_that_cannot_be_started_says_why() -> None:
    async with cluster(config()) as running:
        files = running.files
        directory = f"{running.orchestrator.config.state.path}.hosts"
        os.mkdir(directory, 0o700)
        os.mkdir(f"{directory}/host.yaml")
        with pytest.raises(Error, match="cannot start host-0000: .*host.yaml: Is a directory"):
            await files.write("ctl", "spawn --count 1 --type one")


@story
async def test_a_host_that_dies_comes_back_with_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "FIRST_S", 0.3)
    async with cluster(config()) as running:
        files = running.files
        await files.write("ctl", "spawn --count 4 --type one")
        await files.write("ctl", "unmount worker-0001")
        before = processes(running)["host-0000"]
        workers = running.orchestrator._members.workers
        for number in (signal.SIGKILL, signal.SIGTERM):
            os.kill(processes(running)["host-0000"].pid, number)
            await until(lambda: all(worker.state == "lost" for worker in workers.values()))
            await files.write("ctl", "spawn --count 2 --type spread")  # other names, then
            await until(lambda: not any(worker.state == "lost" for worker in workers.values()))
            await files.write("ctl", "unmount worker-0004")
            await files.write("ctl", "unmount worker-0005")
        after = processes(running)["host-0000"]
        assert after.spec.epoch > before.spec.epoch
        assert sorted(workers) == ["worker-0000", "worker-0002", "worker-0003"]
        for name in workers:
            assert await files.ask("hello", name) == "simulated: hello"
        assert (await files.attrs("status"))["hosts"] == "1"


@story
async def test_whoever_was_drained_is_drained_when_its_host_was_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet, "FIRST_S", 0.3)
    async with cluster(config()) as running:
        files, members = running.files, running.orchestrator._members
        await files.write("ctl", "spawn --count 4 --type one")
        await files.write("ctl", "unmount worker-0001\ndrain worker-0000 worker-0003")
        os.kill(processes(running)["host-0000"].pid, signal.SIGKILL)
        await until(lambda: members.counts[Health.LOST] == 3)
        assert (await files.attrs("nodes/worker-0003"))["state"] == "lost"
        await until(lambda: not members.counts[Health.LOST])
        assert (members.counts[Health.DRAINING], members.counts[Health.HEALTHY]) == (2, 1)
        assert members.workers["worker-0002"].health is Health.HEALTHY
        for name in ("worker-0000", "worker-0003"):  # the new process is told, too
            await until(lambda name=name: members.workers[name].state == "draining")
        assert await files.ask("hello") == "simulated: hello"
        await files.write("ctl", "resume worker-0000")
        await files.write("worker-0003/ctl", "resume")
        await until(lambda: members.counts[Health.HEALTHY] == 3)


@story
async def test_workers_of_a_type_are_counted_while_their_host_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or what `spawn` asked for would be forgotten."""
    monkeypatch.setattr(fleet, "FIRST_S", 0.05)
    counts: list[int] = []
    async with cluster(config()) as running:
        members, ours = running.orchestrator._members, running.orchestrator._fleet
        await running.files.write("ctl", "spawn --count 3 --type spread")
        heartbeat = members._heartbeats.hear

        async def counted(host: Host) -> None:
            counts.append(sum(len(each.workers) for each in ours.hosts("spread")))
            ours.lower_floor("spread")
            await heartbeat(host)

        monkeypatch.setattr(members._heartbeats, "hear", counted)
        os.kill(processes(running)["host-0000"].pid, signal.SIGKILL)
        await until(lambda: members.counts[Health.LOST])
        before = len(counts)
        await until(lambda: len(counts) > before + 1)
        assert set(counts) == {3} and ours.floors["spread"] == 3


@story
async def test_the_floor_of_what_comes_back_is_not_lowered_at_any_moment() -> None:
    async with cluster(config()) as running:
        fleet, recovery = running.orchestrator._fleet, running.orchestrator.recovery
        await running.files.write("ctl", "spawn --count 3 --type one")
        saved = recovery.describe()
        await running.files.write("ctl", "scale 0 one")
        for task in recovery._restore(saved):
            fleet.lower_floor("one")
            assert fleet.floors["one"] == 3
            await task
        fleet.lower_floor("one")
        assert fleet.floors["one"] == 3


@story
async def test_names_of_a_host_that_gave_up_its_lease_are_free() -> None:
    """And not drained, whatever the one was that had them."""
    async with cluster(config()) as running, simulated_host() as host:
        async with await running.files.open("registry/new", c.ORDWR) as lease:
            await lease.write(f"{host.address} epoch 1".encode())
            await running.files.write("ctl", "drain worker-0000")
        workers = running.orchestrator._members.workers
        await until(lambda: workers["worker-0000"].state == "lost")
        await running.files.write("ctl", "spawn --count 1 --type one")
        assert await running.files.ls("nodes") == ["worker-0000"]
        assert workers["worker-0000"].health is Health.HEALTHY


@story
async def test_what_was_unmounted_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "FIRST_S", 0.2)
    async with cluster(config()) as running:
        files = running.files
        await files.write("ctl", "spawn --count 1 --type spread")
        await files.write("ctl", "unmount worker-0000")
        await files.write("ctl", "spawn --count 2 --type spread")
        (host,) = processes(running).values()
        os.kill(host.pid, signal.SIGKILL)
        await host.ended
        workers = running.orchestrator._members.workers
        await until(lambda: workers["worker-0001"].state == "lost")
        for name in ("worker-0000", "worker-0001"):  # while it is to be started again
            await files.write("ctl", f"unmount {name}")
        keepers = running.orchestrator._fleet._keepers
        await until(lambda: not keepers)
        assert not processes(running) and not await files.ls("nodes")


@story
async def test_a_host_that_cannot_be_started_again_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fleet, "FIRST_S", 0.05)
    async with cluster(config()) as running:
        await running.files.write("ctl", "spawn --count 1 --type one")
        launcher = running.orchestrator._fleet._launchers["local"]
        directory: Path = launcher._directory  # type: ignore[attr-defined]
        start, tries = launcher.start, [0]

        async def starting(spec: HostSpec, progress: Progress) -> Launched:
            tries[0] += 1
            return await start(spec, progress)

        monkeypatch.setattr(launcher, "start", starting)
        os.chmod(directory, 0o755)
        os.kill(processes(running)["host-0000"].pid, signal.SIGKILL)
        await until(lambda: tries[0] > 2)
        assert caplog.text.count("cannot be started again") == 1, "the reason is the same"
        assert "host-0000 ended: SIGKILL; its log is " in caplog.text
        os.chmod(directory, 0o700)
        await until(lambda: "host-0000 was started again" in caplog.text)
        assert await running.files.ask("hello", "worker-0000") == "simulated: hello"


@story
@pytest.mark.parametrize("gone", [{"worker-0001"}, {"worker-0000", "worker-0001"}])
async def test_what_is_unmounted_while_its_host_is_started_again_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch, gone: set[str]
) -> None:
    monkeypatch.setattr(fleet, "FIRST_S", 0.05)
    async with cluster(config()) as running:
        await running.files.write("ctl", "spawn --count 2 --type spread")
        launcher = running.orchestrator._fleet._launchers["local"]
        members, start, is_done = running.orchestrator._members, launcher.start, asyncio.Event()

        async def starting(spec: HostSpec, progress: Progress) -> Launched:
            assert spec.count == 2
            for name in gone:
                await running.files.write("ctl", f"unmount {name}")
            launched = await start(spec, progress)
            is_done.set()
            return launched

        monkeypatch.setattr(launcher, "start", starting)
        os.kill(processes(running)["host-0000"].pid, signal.SIGKILL)
        await is_done.wait()
        left = {"worker-0000", "worker-0001"} - gone
        idle = dict.fromkeys(left, "idle")
        await until(lambda: {w.name: w.state for w in members.workers.values()} == idle)
        await until(lambda: len(launcher.hosts) == len(left))
        await turns_of_the_loop()
        for host in members.hosts:
            assert set(await host.lines_now()) == left


@story
async def test_nothing_that_goes_wrong_ends_the_keeping(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even what nobody thought of: why the host ended, and its first new start."""
    monkeypatch.setattr(fleet, "FIRST_S", 0.05)
    wait = LocalHost._wait

    async def no_reason(host: LocalHost) -> str:
        raise ValueError(await wait(host))

    async with cluster(config()) as running:
        with monkeypatch.context() as patched:
            patched.setattr(LocalHost, "_wait", no_reason)
            await running.files.write("ctl", "spawn --count 1 --type one")
        launcher = running.orchestrator._fleet._launchers["local"]
        with monkeypatch.context() as patched:
            patched.setattr(launcher, "start", None)
            os.kill(processes(running)["host-0000"].pid, signal.SIGKILL)
            await until(lambda: "host-0000 cannot be started again" in caplog.text)
        await until(lambda: "host-0000 was started again" in caplog.text)
        assert "nobody knows why host-0000 ended" in caplog.text
        assert await running.files.ask("hello", "worker-0000") == "simulated: hello"


@story
async def test_nothing_is_started_again_when_the_cluster_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet, "FIRST_S", 0.1)
    async with cluster(config()) as running:
        await running.files.write("ctl", "spawn --count 1 --type one")
        host = processes(running)["host-0000"]
        os.kill(host.pid, signal.SIGKILL)
        await host.ended
    assert not running.orchestrator._fleet._keepers
    await asyncio.sleep(0.3)
    assert not processes(running)
