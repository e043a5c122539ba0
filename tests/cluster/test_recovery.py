"""An orchestrator is killed and another one takes over: real processes, with scripted answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llambo9p.cluster import checkpoints
from llambo9p.cluster.checkpoints import load
from llambo9p.cluster.state import State
from llambo9p.errors import Error, NoSpace
from llambo9p.fs.user import User
from llambo9p.net.address import parse
from llambo9p.p9 import constants as c
from tests.files import Files, files_of, story, until

from .harness import cluster as running_cluster
from .harness import simulated_host

pytestmark = pytest.mark.timeout(60)

CONFIG = """
cluster:
  nodes:
    one: {resources: {model: simulated, threads: 1}}
    two: {workers_per_host: 2, resources: {model: simulated, threads: 1}}
  load_balancer: {health_check_interval: 100, strategy: round-robin}
"""


class Cluster:
    """A state file, and orchestrators with it, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        (directory / "config.yaml").write_text(CONFIG)

    def saved(self) -> dict[str, Any]:
        saved = json.loads(self.state.read_text())
        assert isinstance(saved, dict)
        return saved

    def pids(self) -> dict[str, int]:
        """Of the hosts that were started, by name."""
        started = [host["started"] for host in self.saved()["hosts"]]
        return {each["spec"]["name"]: int(each["handle"]) for each in started if each}

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "llambo9p_nodes.orchestrator", "--state", str(self.state)),
            *("--config", str(self.directory / "config.yaml"), "--listen", "tcp!127.0.0.1!0"),
        ]

    @contextlib.asynccontextmanager
    async def orchestrator(self) -> AsyncIterator[Orchestrator]:
        """It is stopped at the end, in an orderly way if it lives."""
        process = await asyncio.create_subprocess_exec(
            *self.command(),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        try:
            line = (await process.stdout.readline()).decode()
            async with files_of(parse(line.removeprefix("listening ").strip())) as files:
                yield Orchestrator(process, files)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

    def refusal(self) -> str:
        """What an orchestrator says that does not start."""
        done = subprocess.run(self.command(), capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        return line


class Orchestrator:
    def __init__(self, process: asyncio.subprocess.Process, files: Files) -> None:
        self.files = files
        self._process = process

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()

    async def nodes(self) -> dict[str, dict[str, str]]:
        names = await self.files.ls("nodes")
        return {name: await self.files.attrs(f"nodes/{name}") for name in names}

    async def until(self, status: str, value: str) -> None:
        while (await self.files.attrs("status"))[status] != value:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def runs(pid: int) -> bool:
    """Whether it does; a zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


SAME = ("id", "addr", "type", "state", "model", "capacity", "epoch", "health")


@story
async def test_hosts_that_live_are_mounted_again_as_they_are(cluster: Cluster) -> None:
    async with cluster.orchestrator() as first:
        files = first.files
        await files.write("ctl", "spawn --count 3 --type two\nspawn --count 2 --type one")
        await files.write("ctl", "unmount worker-0001\nstrategy affinity\nmax_tokens 5")
        await files.write("ctl", "drain worker-0003")
        clone = await files.open("worker-0000/clone", c.ORDWR)
        assert await clone.read(0) == b"0\n"
        await first.until("degraded", "0")  # as workers are on a machine that is busy
        before = await first.nodes()
        pids = cluster.pids()
        asking = [asyncio.ensure_future(files.ask("x" * 5000, name)) for name in before]
        await first.kill()
        await asyncio.gather(*asking, return_exceptions=True)
    assert all(map(runs, pids.values()))
    async with cluster.orchestrator() as second:
        files = second.files
        after = await second.nodes()
        assert set(after) == {"worker-0000", "worker-0002", "worker-0003", "worker-0004"}
        for name, attrs in after.items():
            assert {k: attrs[k] for k in SAME} == {k: before[name][k] for k in SAME}
        assert cluster.pids() == pids and all(map(runs, pids.values()))
        assert (await files.attrs("status"))["strategy"] == "affinity"
        assert (await files.attrs("ctl"))["max_tokens"] == "5"
        assert await files.ask("hello") == "simul"
        assert await files.ask("hello", "worker-0002") == "simulated: hello"
        # what the new one has is as good as what it had started itself
        os.kill(pids["host-0000"], signal.SIGKILL)
        await second.until("lost", "1")
        await second.until("lost", "0")
        assert await files.ask("hello", "worker-0000") == "simulated: hello"
        await files.write("ctl", "unmount worker-0002\nspawn --count 1 --type one")
        assert "worker-0001" in await second.nodes()
        pids = cluster.pids()
    assert not any(map(runs, pids.values())), "an orderly end stops those that were adopted, too"
    assert not cluster.state.exists()


@story
async def test_those_that_died_meanwhile_are_started_again_with_their_names(
    cluster: Cluster,
) -> None:
    async with cluster.orchestrator() as first:
        await first.files.write("ctl", "spawn --count 4 --type two\nspawn --count 3 --type one")
        await first.files.write("ctl", "unmount worker-0005\ndrain worker-0006")
        before, pids = await first.nodes(), cluster.pids()
        await first.kill()
        os.kill(pids["host-0000"], signal.SIGKILL)
        os.kill(pids["host-0004"], signal.SIGKILL)
        await until(lambda: not runs(pids["host-0000"]) and not runs(pids["host-0004"]))
    async with cluster.orchestrator() as second:
        answers = [await second.files.ask("hello") for _ in range(3)]  # at once
        assert answers == ["simulated: hello"] * 3
        await second.until("lost", "0")
        after = await second.nodes()
        assert set(after) == set(before)
        changed = {name for name in after if after[name]["epoch"] != before[name]["epoch"]}
        assert changed == {"worker-0000", "worker-0001", "worker-0004", "worker-0006"}
        assert {name for name in after if after[name]["health"] != "healthy"} == {"worker-0006"}
        while (await second.files.attrs("worker-0006/status"))["draining"] == "no":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await second.files.write("ctl", "resume worker-0006")
        for name in after:
            assert await second.files.ask(name, name) == f"simulated: {name}"
        sockets = list((cluster.directory / "state.hosts").glob("[0-9]*-*"))
        assert len(sockets) == 3, "those of the dead are gone"


@story
async def test_neither_a_number_nor_an_address_is_believed_without_the_epoch(
    cluster: Cluster,
) -> None:
    async with cluster.orchestrator() as first:
        await first.files.write("ctl", "spawn --count 4 --type two")
        pids = cluster.pids()
        await first.kill()
    saved = cluster.saved()
    hosts = {host["started"]["spec"]["name"]: host for host in saved["hosts"]}
    # the process of that number is now another
    hosts["host-0000"]["started"]["handle"] = str(os.getpid())
    # and at that address there is one of another epoch
    hosts["host-0002"]["address"] = hosts["host-0000"]["address"]
    cluster.state.write_text(json.dumps(saved))
    async with cluster.orchestrator() as second:
        await second.until("lost", "0")
        assert len(await second.nodes()) == 4
        await until(lambda: not set(cluster.pids().values()) & set(pids.values()))
        assert not runs(pids["host-0002"]), "it is ours to end"
    os.kill(pids["host-0000"], signal.SIGKILL)


@story
async def test_what_was_mounted_is_mounted_again_under_its_names(cluster: Cluster) -> None:
    async with (
        simulated_host(3, epoch=5) as host,
        simulated_host(1, epoch=6) as other,
        simulated_host(1, epoch=7) as named,
    ):
        async with cluster.orchestrator() as first:
            await first.files.write(
                "ctl",
                f"spawn --count 1 --type one\nmount {host.address}\nmount {other.address}\n"
                f"mount {named.address} region1",
            )
            await first.files.write("ctl", "unmount worker-0002")
            before = await first.nodes()
            numbered = {f"worker-{number:04d}" for number in (0, 1, 3, 4)}
            assert set(before) == {*numbered, "region1"}
            await first.kill()
        other.kill()
        async with simulated_host(1, epoch=60, at=other.address):
            async with cluster.orchestrator() as second:
                await second.until("lost", "0")
                after = await second.nodes()
                assert {name: a["addr"] for name, a in after.items()} == {
                    name: a["addr"] for name, a in before.items()
                }
                assert after["worker-0004"]["epoch"] == "60", "whoever is there was meant"
                assert await second.files.ask("hello", "worker-0001") == "simulated: hello"
                assert await second.files.ask("hello", "region1/worker-0000") == "simulated: hello"
        assert host.host.workers and not cluster.state.exists()


@story
async def test_a_nested_orchestrator_is_remembered_and_stays_drained(cluster: Cluster) -> None:
    async with running_cluster() as region, simulated_host(2) as host:
        await region.files.write("ctl", f"mount {host.address}")
        async with cluster.orchestrator() as first:
            await first.files.write("ctl", f"mount {region.address} region1")
            await first.files.write("ctl", "drain region1")
            await first.kill()
        async with cluster.orchestrator() as second:
            node = (await second.nodes())["region1"]
            assert (node["addr"], node["health"]) == (str(region.address), "draining")
            await second.files.write("ctl", "resume region1")
            assert await second.files.ask("hello") == "simulated: hello"


@story
async def test_settings_wait_for_their_user(cluster: Cluster) -> None:
    """And what cannot be restored keeps nothing else from it."""
    settings = {"glenda": "max_tokens 7\n", "ken": "no_setting 1\n", "dmr": "top_k 3\n"}
    before = State("tcp!h!1", 1, strategy="gone", settings=settings)
    async with running_cluster() as running:
        orchestrator = running.orchestrator
        await orchestrator.recovery.begin(running.address, before)
        roots = {name: orchestrator.attach(User(name), "") for name in ("glenda", "ken")}
        assert len(roots) == 2
        saved = load(orchestrator.config.state.path)
        assert saved is not None and saved.settings == settings
        now = orchestrator.recovery.describe()
        assert now.strategy is None and set(now.settings) == {"glenda", "dmr"}
        assert "max_tokens 7\n" in now.settings["glenda"] and now.settings["dmr"] == "top_k 3\n"


@story
async def test_a_host_that_registered_comes_back_under_its_names(cluster: Cluster) -> None:
    async with cluster.orchestrator() as first, simulated_host(2, epoch=5) as host:
        await first.files.write("ctl", "spawn --count 2 --type one")
        async with await first.files.open("registry/new", c.ORDWR) as lease:
            await lease.write(f"{host.address} epoch 5 first 0".encode())
            await until(lambda: len(cluster.saved()["hosts"]) == 2)
            await first.kill()
        async with cluster.orchestrator() as second:
            for _ in range(2):
                nodes = await second.nodes()
                addresses = [nodes[f"worker-{n:04d}"]["addr"] for n in (2, 3)]
                assert addresses == [str(host.address)] * 2
                lease = await second.files.open("registry/new", c.ORDWR)
                await lease.write(f"{host.address} epoch 5 first 2".encode())
            with pytest.raises(Error, match="stale epoch 4"):
                late = await second.files.open("registry/new", c.ORDWR)
                await late.write(f"{host.address} epoch 4 first 2".encode())


@story
async def test_one_that_registered_and_went_has_its_names_when_it_is_back(cluster: Cluster) -> None:
    """Also if who had lower ones has gone, too."""
    async with simulated_host(1, epoch=5) as one, simulated_host(1, epoch=6) as two:
        async with cluster.orchestrator() as first:
            async with contextlib.AsyncExitStack() as leases:
                for host, epoch in ((one, 5), (two, 6)):
                    new = await first.files.open("registry/new", c.ORDWR)
                    lease = await leases.enter_async_context(new)
                    await lease.write(f"{host.address} epoch {epoch} first 0".encode())
            await until(lambda: [each["gone"] for each in cluster.saved()["hosts"]] == [True] * 2)
            await first.kill()
        async with cluster.orchestrator() as second:
            assert (await second.files.attrs("status"))["lost"] == "2", "nobody asked them back"
            async with await second.files.open("registry/new", c.ORDWR) as lease:
                await lease.write(f"{two.address} epoch 6 first 0".encode())
                assert (await second.nodes())["worker-0001"]["addr"] == str(two.address)


@story
async def test_a_second_orchestrator_on_the_file_is_refused(cluster: Cluster) -> None:
    async with cluster.orchestrator() as first:
        await first.files.write("ctl", "spawn --count 1 --type one")
        saved = cluster.saved()
        assert f"running orchestrator (pid {saved['pid']}): stop it, or set" in cluster.refusal()
        assert cluster.saved() == saved and await first.files.ask("hello") == "simulated: hello"


@story
async def test_what_is_no_state_file_is_refused_and_left(cluster: Cluster) -> None:
    for text in ("", "[]", '{"name": "left-pad"}'):
        cluster.state.write_text(text)
        assert f"state file {cluster.state} is damaged, or not ours" in cluster.refusal()
        assert cluster.state.read_text() == text
    cluster.state.unlink()
    (cluster.directory / "precious").write_text("precious")
    cluster.state.symlink_to("precious")
    assert "symbolic link" in cluster.refusal()
    assert cluster.state.is_symlink()


@story
async def test_who_cannot_listen_leaves_hosts_and_file_alone(cluster: Cluster) -> None:
    async with cluster.orchestrator() as first:
        await first.files.write("ctl", "spawn --count 1 --type one")
        pids, saved = cluster.pids(), cluster.saved()
        await first.kill()
    taken = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    command = [*cluster.command(), "--listen", f"tcp!127.0.0.1!{port}"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 1
    taken.close()
    assert cluster.saved() == saved and all(map(runs, pids.values()))
    async with cluster.orchestrator() as second:
        assert await second.files.ask("hello") == "simulated: hello"
        assert cluster.pids() == pids


@story
async def test_a_checkpoint_is_restored_after_an_orderly_end(cluster: Cluster) -> None:
    checkpoint = cluster.directory / "checkpoint"
    async with cluster.orchestrator() as first:
        files = first.files
        await files.write("ctl", f"spawn --count 3 --type two\nsave {checkpoint}")
        await files.write("ctl", "unmount worker-0001")
        await files.write("ctl", "strategy affinity\nsave")
        await files.write("ctl", f"save {checkpoint}")
        (cluster.directory / "precious").write_text("precious")
        with pytest.raises(Error, match="precious is damaged, or not ours"):
            await files.write("ctl", f"save {cluster.directory}/precious")
        with pytest.raises(Error, match="'./state.json' is not an absolute path"):
            await files.write("ctl", "save ./state.json")
        await files.write("ctl", "restore")
        assert len(await first.nodes()) == 2, "all of it is there"
    assert (cluster.directory / "precious").read_text() == "precious"
    async with cluster.orchestrator() as second:
        files = second.files
        assert not await second.nodes()
        with pytest.raises(Error, match="file does not exist: /nowhere"):
            await files.write("ctl", "restore /nowhere")
        await files.write("ctl", "spawn --count 1 --type one")
        await files.write("ctl", f"restore {checkpoint}")
        nodes = await second.nodes()
        assert {name: attrs["type"] for name, attrs in nodes.items()} == {
            "worker-0000": "one", "worker-0002": "two"
        }, "a name that is taken stays with who has it"  # fmt: skip
        assert all(attrs["state"] == "idle" for attrs in nodes.values())
        assert (await files.attrs("status"))["strategy"] == "affinity"


@story
async def test_what_could_not_be_saved_is_told_by_the_verb(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running_cluster() as running, simulated_host() as host:
        await running.orchestrator.recovery.begin(running.address, None)
        assert "unsaved" not in await running.files.attrs("status")

        def full(path: Path, state: object) -> None:
            raise NoSpace(f"cannot write {path}: {NoSpace.ename}")

        with monkeypatch.context() as disk:
            disk.setattr(checkpoints, "write", full)
            with pytest.raises(Error, match="^mount is done and not saved.*No space left"):
                await running.files.write("ctl", f"mount {host.address}")
            assert await running.files.ls("nodes") == ["worker-0000"]
            assert "No space" in (await running.files.attrs("status"))["unsaved"]
        await running.files.write("ctl", "unmount worker-0000")
        assert "unsaved" not in await running.files.attrs("status")
