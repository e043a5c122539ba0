"""Ray as a newcomer starts it, `ray start --head` on one machine, goes away and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llambo9p.cluster import fleet
from llambo9p.cluster.config import Cluster
from llambo9p.cluster.launchers.base import HostSpec
from llambo9p.cluster.launchers.on_ray import launcher, places
from llambo9p.errors import Error
from llambo9p.net.address import parse
from tests.files import Files, files_of, story, turns_of_the_loop

from .harness import cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]

CONFIG = Cluster.model_validate(
    {
        "nodes": {
            "sim": {
                "workers_per_host": 2,
                "resources": {
                    "model": "simulated", "cpu": "0.5 core", "memory": "1MB", "threads": 1
                },
            },
            "one": {
                "workers_per_host": 1,
                "resources": {"model": "simulated", "cpu": "1 core", "memory": "1MB"},
            },
        },
        "orchestrator": {"engine": "ray"},
        "load_balancer": {"health_check_interval": 200, "timeout": 20_000},
    }
)  # fmt: skip


class Ray:
    """A head on this machine, as `ray start --head` makes it, with all that belongs to it in a
    directory of its own."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.directory = tempfile.mkdtemp(prefix="ray-")

    def start(self, cpus: int = 2) -> None:
        program = Path(sys.executable).with_name("ray")
        done = subprocess.run(
            [
                *(program, "start", "--head", "--port", str(self.port), "--num-cpus", str(cpus)),
                *("--temp-dir", self.directory, "--include-dashboard", "false"),
                *("--object-store-memory", str(100 * 2**20)),
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def kill(self) -> None:
        """All of it, at once."""
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdigit() and self._has((process / "cmdline").read_bytes()):
                    os.kill(int(process.name), signal.SIGKILL)

    def _has(self, command: bytes) -> bool:
        # a directory, and not this test's word for it
        return b"/ray/" in command and self.directory.encode() in command


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ray]:
    made = Ray()
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{made.port}")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(fleet, "LONGEST_S", 2.0)
    monkeypatch.setattr(launcher, "_CONNECT_S", 5.0)
    try:
        yield made
    finally:
        made.kill()
        shutil.rmtree(made.directory, ignore_errors=True)


async def states(files: Files) -> dict[str, str]:
    names = await files.ls("nodes")
    return {name: (await files.attrs(f"nodes/{name}"))["state"] for name in names}


async def all_are(files: Files, state: str) -> dict[str, str]:
    """All nodes, when they are."""
    while set((found := await states(files)).values()) != {state}:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return found


@contextlib.asynccontextmanager
async def no_long_turns() -> AsyncIterator[None]:
    """Ray's library may block for as long as it likes; our event loop goes on."""
    time = asyncio.get_running_loop().time
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time()
            await asyncio.sleep(0.01)
            longest = max(longest, time() - before)

    watching = asyncio.create_task(watch())
    yield
    watching.cancel()
    assert longest < 1, "as long as this machine may be busy with others"


@story
async def test_workers_are_lost_with_ray_and_come_back_with_it(
    ray: Ray, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(CONFIG) as running, no_long_turns():
        files = running.files
        with pytest.raises(Error, match="Ray does not answer"):
            await files.write("ctl", "spawn --count 3")
        await asyncio.to_thread(ray.start)
        await files.write("ctl", "spawn --count 3")
        names = ["worker-0000", "worker-0001", "worker-0002"]
        assert sorted(await files.ls("nodes")) == names
        for name in names:  # without a certificate, and nobody else can connect
            assert (await files.attrs(f"nodes/{name}"))["addr"].startswith("unix!")
        assert await files.ask("hello", "worker-0000") == "simulated: hello"

        ray.kill()
        assert sorted(await all_are(files, "lost")) == names
        with pytest.raises(Error, match=r"Ray is gone|no Ray answers at|Ray does not answer"):
            await files.write("ctl", "spawn --count 1")
        for verb in ("drain", "resume"):
            with pytest.raises(Error, match="worker is lost"):
                await files.write("ctl", f"{verb} worker-0000")
        await files.write("ctl", "kill worker-0002")
        await files.write("ctl", "spawn --count 1 --engine local")  # and is none of Ray's business
        assert await files.ask("to whom?") == "simulated: to whom?"
        asked = asyncio.create_task(files.ask("are you back?", "worker-0001"))
        with pytest.raises(Error):
            await asked

        await asyncio.to_thread(ray.start)
        assert sorted(await all_are(files, "idle")) == names
        for name in names:
            assert await files.ask("again", name) == "simulated: again"
        assert (await files.attrs("nodes/worker-0002"))["host"] == "host-0002"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said)), "nothing is said for as long as it lasts"


@story
async def test_workers_that_ray_cannot_bring_back_are_given_up_at_a_word(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(ray.start, cpus=3)
    async with cluster(CONFIG) as running:
        files = running.files
        await files.write("ctl", "spawn --count 3 --type one")
        ray.kill()
        await all_are(files, "lost")
        await files.write("ctl", "scale 2 one")
        assert len(await files.ls("nodes")) == 2
        with pytest.raises(Error, match="Ray"):
            await files.write("ctl", "scale 3 one")

        await asyncio.to_thread(ray.start, cpus=1)
        while "idle" not in (await states(files)).values():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        [lost] = [name for name, state in (await states(files)).items() if state == "lost"]
        await asyncio.wait_for(files.write("ctl", "spawn --engine local --count 1"), 10)
        await files.write("ctl", f"unmount {lost}")
        monkeypatch.setattr(launcher, "_PLACE_S", 2.0)
        with pytest.raises(Error, match="no place for .* in 2 s, which needs 1 cores"):
            await files.write("ctl", "spawn --count 1 --type one")
        assert set((await states(files)).values()) == {"idle"}
        assert len(await files.ls("nodes")) == 2


@contextlib.asynccontextmanager
async def orchestrator(directory: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, Files]]:
    """A process, which is killed at the end."""
    config = directory / "config.yaml"
    config.write_text(
        "cluster:\n  nodes: {sim: {resources: {model: simulated, cpu: 0.5 core, memory: 1MB}}}\n"
        "  network: {listen: tcp!127.0.0.1!0}\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llambo9p_nodes.orchestrator", "--config", str(config)),
        *("--state", str(directory / "state"), "--engine", "ray"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        async with files_of(parse(line.removeprefix("listening ").strip())) as files:
            yield process, files
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@story
async def test_an_orchestrator_that_is_started_while_ray_is_away_has_its_workers_back(
    ray: Ray, tmp_path: Path
) -> None:
    await asyncio.to_thread(ray.start)
    async with orchestrator(tmp_path) as (_, files):
        await files.write("ctl", "spawn --count 2")
    ray.kill()
    async with orchestrator(tmp_path) as (process, files):
        assert await states(files) == {"worker-0000": "lost", "worker-0001": "lost"}
        await asyncio.to_thread(ray.start)
        await all_are(files, "idle")
        assert await files.ask("back?", "worker-0001") == "simulated: back?"
        process.terminate()
        assert await process.wait() == 0


@story
async def test_a_host_that_lived_through_a_lost_connection_to_ray_goes_on(
    ray: Ray, tmp_path: Path
) -> None:
    """Of the process that speaks with Ray only."""
    await asyncio.to_thread(ray.start)
    spec = HostSpec(
        "host-0000", "sim", CONFIG.nodes["sim"].resources, "simulated", count=1, first=0, epoch=7
    )
    hosts = launcher.RayLauncher(tmp_path / "hosts", CONFIG, insecure=False)
    host = await hosts.start(spec, lambda percent: None)
    assert hosts._driver is not None
    hosts._driver._process.kill()
    await asyncio.wait([hosts._driver.gone])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(host.ended), 3)
    async with files_of(host.address) as files:
        assert await files.ask("hello", "worker-0000") == "simulated: hello"
        await files.write("ctl", "shutdown")
    assert (await host.ended).reason == "host ended with 0"
    assert not os.path.exists(host.address.path)  # noqa: ASYNC240
    await hosts.close()


HERE = places.Places(
    door="", here=["--here"], base_port=9000, ports=5, certified=False, insecure=False
)


def test_a_host_is_of_this_machine_when_it_can_open_the_door(tmp_path: Path) -> None:
    async def story() -> None:
        door = places.Door(tmp_path / "hosts")
        await door.open()
        here = replace(HERE, door=str(door.path))
        options = await asyncio.to_thread(places.listen_options, here, "192.0.2.7")
        assert options == ["--here"], "whatever the address"
        await turns_of_the_loop()  # the door hangs up
        door.close()
        with pytest.raises(Error, match=r"192\.0\.2\.7 is not the orchestrator's machine"):
            places.listen_options(here, "192.0.2.7")

    asyncio.run(story())


@pytest.mark.parametrize("ip", ["192.0.2.7", "127.0.0.1"])
def test_a_host_of_another_machine_needs_a_certificate_or_that_none_is_meant(ip: str) -> None:
    certified = places.listen_options(replace(HERE, certified=True, insecure=True), ip)
    assert certified == ["--listen", f"tls!{ip}!9000", "--port-range", "5"]
    insecure = places.listen_options(replace(HERE, insecure=True), ip)
    assert insecure == ["--listen", f"tcp!{ip}!9000", "--port-range", "5", "--insecure"]
    with pytest.raises(Error, match=r"security\.cert and security\.ca .* `llamboctl init --insec"):
        places.listen_options(HERE, ip)
