"""Hosts on Ray: a cluster of a head and two nodes, one of which dies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ray")

import ray
from ray.cluster_utils import Cluster as RayCluster

from llambo9p.cluster.config import Cluster
from llambo9p.cluster.launchers.base import HostSpec
from llambo9p.cluster.launchers.on_ray import launcher, places
from llambo9p.errors import Error, Stale
from tests.files import Files, files_of, story, until

from .harness import RunningCluster, cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

WORKERS, EACH = 200, 50
QUICK = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ADDRESS": "",
}
"""a node that is gone is noticed after about 1.6 s and not 16 s"""
CONFIG = Cluster.model_validate(
    {
        "nodes": {
            "sim": {
                "workers_per_host": EACH,
                "resources": {
                    "model": "simulated", "cpu": "0.01 core", "memory": "1MB", "threads": 1
                },
            },
            "huge": {"resources": {"model": "simulated", "cpu": "1000 cores"}},
            "bad": {"resources": {"model": "/nowhere.gguf", "cpu": "0.01 core", "memory": "1MB"}},
        },
        "orchestrator": {"engine": "ray"},
        "network": {"cluster_id": f"test-{os.getpid()}"},
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK.items():
            patch.setenv(name, value)
        made = RayCluster(initialize_head=True, head_node_args={"num_cpus": 0})
        patch.setenv("RAY_ADDRESS", made.address)
        for _ in range(2):
            made.add_node(num_cpus=2)
        made.wait_for_nodes()
        ray.init(made.address, namespace="test", log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()


def placed(running: RunningCluster) -> dict[str, int]:
    """Epochs of the hosts that run, by name."""
    hosts = running.orchestrator._members.hosts
    return {h.process.spec.name: h.process.spec.epoch for h in hosts if h.process is not None}


async def answers(files: Files) -> list[str]:
    async def ask(number: int) -> str:
        return await files.ask(f"to {number}", f"worker-{number:04d}")

    return list(await asyncio.gather(*(ask(number) for number in range(WORKERS))))


@story
async def test_two_hundred_workers_are_back_after_a_node_died(ray_cluster: RayCluster) -> None:
    expected = [f"simulated: to {number}" for number in range(WORKERS)]
    async with cluster(CONFIG) as running:
        files = running.files
        await files.write("ctl", f"spawn --count {WORKERS}")
        assert await answers(files) == expected
        before = placed(running)
        assert len(before) == WORKERS / EACH
        node = ray_cluster.list_all_nodes()[-1]
        ray_cluster.remove_node(node, allow_graceful=False)
        workers = running.orchestrator._members.workers
        await until(lambda: any(worker.state == "lost" for worker in workers.values()))
        await until(lambda: not any(worker.state == "lost" for worker in workers.values()))
        await until(lambda: len(workers) == WORKERS)
        assert await answers(files) == expected
        after = placed(running)
        moved = [name for name in after if after[name] != before[name]]
        assert 0 < len(moved) < len(after), "the other node's hosts were left alone"
        assert set(await files.ls("logs")) == {"orchestrator", *after}
        for name in (moved[0], (after.keys() - moved).pop()):
            assert " request over " in await files.read(f"logs/{name}")
            log = await files.open(f"logs/{name}")
            with pytest.raises(Stale, match="began anew"):
                await log.read(1 << 40)
        ray_cluster.add_node(num_cpus=2)


@story
async def test_what_cannot_be_started_is_told_and_leaves_no_actor(
    ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_PLACE_S", 5.0)
    async with cluster(CONFIG) as running:
        with pytest.raises(Error, match="^/nowhere.gguf: no such file"):
            await running.files.write("ctl", "spawn --count 1 --type bad")
        with pytest.raises(Error, match="no place for host-0000 in 5 s, which needs 1000 cores"):
            await running.files.write("ctl", "spawn --count 1 --type huge")
        assert not await running.files.ls("nodes")
        await until(lambda: not ray.util.list_named_actors(all_namespaces=True))
        await running.files.write("ctl", "spawn --count 1 --type sim")
        await running.files.write("ctl", "unmount worker-0000")
        await until(lambda: not ray.util.list_named_actors(all_namespaces=True))


@story
async def test_a_host_of_another_machine_listens_there(
    ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nowhere(self: places.Door) -> None:
        """As if Ray's nodes were machines without this one's files."""

    monkeypatch.setattr(places.Door, "open", nowhere)
    ip = ray.util.get_node_ip_address()
    async with cluster(CONFIG) as running:
        with pytest.raises(Error, match=f"node {ip} is not the orchestrator's machine.*: set sec"):
            await running.files.write("ctl", "spawn --count 1 --type sim")
    async with cluster(CONFIG, insecure=True) as running:
        await running.files.write("ctl", "spawn --count 1 --type sim")
        addr = (await running.files.attrs("nodes/worker-0000"))["addr"]
        assert addr.startswith(f"tcp!{ip}!")
        assert await running.files.ask("far?", "worker-0000") == "simulated: far?"


@story
async def test_where_hosts_have_ports_they_are_on_loopback(ray_cluster: RayCluster) -> None:
    values = CONFIG.model_dump()
    values["network"]["hosts"] = "tcp"
    async with cluster(Cluster.model_validate(values)) as running:
        await running.files.write("ctl", "spawn --count 1 --type sim")
        addr = (await running.files.attrs("nodes/worker-0000"))["addr"]
        assert addr.startswith("tcp!127.0.0.1!")
    values["security"]["loopback"] = False
    async with cluster(Cluster.model_validate(values)) as running:
        with pytest.raises(Error, match="security.loopback is off"):
            await running.files.write("ctl", "spawn --count 1 --type sim")
    values["network"]["hosts"] = "unix"
    async with cluster(Cluster.model_validate(values)) as running:
        await running.files.write("ctl", "spawn --count 1 --type sim")


@story
async def test_a_host_is_adopted_by_who_knows_its_epoch(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    resources = CONFIG.nodes["sim"].resources
    spec = HostSpec("host-0000", "sim", resources, "simulated", count=1, first=0, epoch=7)
    first, second = (launcher.RayLauncher(tmp_path, CONFIG, insecure=False) for _ in range(2))
    host = await first.start(spec, lambda percent: None)
    assert await second.adopt(replace(spec, epoch=8), host.address, host.handle) is None
    assert await second.adopt(spec, host.address, "host-0001") is None
    adopted = await second.adopt(spec, host.address, host.handle)
    assert adopted is not None and adopted.address == host.address
    async with files_of(adopted.address) as files:
        assert await files.ask("hello", "worker-0000") == "simulated: hello"
    assert first._driver is not None
    await first._driver.close()  # as if all of its process had been killed
    first._door.close()
    await second.close()
    assert adopted.ended.done()
