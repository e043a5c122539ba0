"""Hosts as the local launcher starts them: real processes, with scripted answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llambo9p.cluster.config import Cluster, Resources
from llambo9p.cluster.launchers import local
from llambo9p.cluster.launchers.base import HostSpec
from llambo9p.cluster.launchers.local import LocalHost, LocalLauncher
from llambo9p.cluster.launchers.log import LOG_BYTES, FileLog
from llambo9p.errors import Error, InvalidArgument
from tests.chaos.processes import children
from tests.files import files_of, story, until

SPEC = HostSpec("host-0003", "tiny", Resources(threads=1), "simulated", count=2, first=3, epoch=7)


@contextlib.asynccontextmanager
async def launcher(directory: Path, **sections: object) -> AsyncIterator[LocalLauncher]:
    made = LocalLauncher(directory / "hosts", Cluster.model_validate(sections))
    try:
        yield made
    finally:
        await made.close()
        assert not made.hosts


async def start(launcher: LocalLauncher, spec: HostSpec = SPEC) -> LocalHost:
    host = await launcher.start(spec, lambda percent: None)
    assert isinstance(host, LocalHost)
    return host


def runs(pid: int) -> bool:
    """Whether it does; a zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@story
async def test_a_host_answers_and_is_listed_until_it_is_stopped(tmp_path: Path) -> None:
    async with launcher(tmp_path) as local_hosts:
        percents: list[int] = []
        host = await local_hosts.start(SPEC, percents.append)
        assert local_hosts.hosts == {"host-0003": host}
        async with files_of(host.address) as files:
            assert await files.ask("hello", "worker-0004") == "simulated: hello"
            assert (await files.attrs("status"))["type"] == "tiny"
        await host.stop()
        assert await host.ended == ("host ended with 0", False)
        assert not local_hosts.hosts and not os.access(host.address.path, os.F_OK)
        await host.stop()
        await host.kill()


@story
async def test_what_is_killed_is_told_by_its_signal_and_may_be_started_again(
    tmp_path: Path,
) -> None:
    async with launcher(tmp_path) as hosts:
        host = await start(hosts)
        os.kill(host.pid, signal.SIGKILL)
        assert await host.ended == ("SIGKILL", None)
        assert not hosts.hosts and not os.access(host.address.path, os.F_OK)
        again = await start(hosts)
        os.kill(again.pid, signal.SIGSTOP)  # it could not even end by itself
        await again.kill()
        assert await again.ended == ("SIGKILL", None)


@story
async def test_a_host_that_cannot_start_is_told_in_its_own_words(tmp_path: Path) -> None:
    async with launcher(tmp_path) as hosts:
        for name in ("one", "two"):  # and not in those of the one before
            nowhere = HostSpec("host-0003", "t", Resources(), f"/{name}.gguf", 1, 3, 1)
            with pytest.raises(Error, match=rf"^/{name}.gguf: no such file"):
                await start(hosts, nowhere)
        assert not hosts.hosts
        assert (tmp_path / "hosts/host-0003.log").read_text().count("no such file") == 2


@story
async def test_whoever_is_cancelled_leaves_no_host(tmp_path: Path) -> None:
    async with launcher(tmp_path) as hosts:
        starting = asyncio.create_task(start(hosts))
        await until(running)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not running()


def running() -> list[int]:
    """Processes that we started and that run."""
    return [pid for pid in children(os.getpid()) if runs(pid)]


@story
async def test_what_is_of_hosts_is_ours_alone(tmp_path: Path) -> None:
    async with launcher(tmp_path) as hosts:
        await start(hosts)
        assert stat.S_IMODE((tmp_path / "hosts").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "hosts/host-0003.log").stat().st_mode) == 0o600
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("hosts")
    for name, why in (("open", "its mode must be 0700"), ("link", "not a directory of ours")):
        with pytest.raises(Error, match=why):
            await LocalLauncher(tmp_path / name, Cluster()).start(SPEC, print)


@story
async def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    async with launcher(tmp_path / ("d" * 100)) as hosts:
        hosts._directory.parent.mkdir()
        with pytest.raises(InvalidArgument, match="too long for a unix socket: set .LLAMBO_STATE"):
            await start(hosts)


@story
async def test_hosts_on_tcp_take_the_first_free_ports_of_the_range(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = min(taken.getsockname()[1], 65_000)
        network = {"hosts": "tcp", "base_port": port, "port_range": 8}
        async with launcher(tmp_path, network=network) as hosts:
            one = await start(hosts)
            two = await start(hosts, HostSpec("b", "t", Resources(), "simulated", 1, 9, 1))
            assert port <= one.address.port < two.address.port < port + 8
        network["port_range"] = 1
        if port == taken.getsockname()[1]:
            async with launcher(tmp_path, network=network) as hosts:
                with pytest.raises(Error, match=f"{port}: Address already in use"):
                    await start(hosts)


@story
async def test_where_loopback_is_off_no_host_listens_there(tmp_path: Path) -> None:
    sections = {"network": {"hosts": "tcp"}, "security": {"loopback": False}}
    async with launcher(tmp_path, **sections) as hosts:
        with pytest.raises(Error, match="security.loopback is off"):
            await start(hosts)


ORCHESTRATOR = """
import asyncio, sys
from pathlib import Path
from llambo9p.cluster.config import Cluster
from llambo9p.cluster.launchers.local import LocalLauncher
from tests.cluster.test_launchers import SPEC

async def main():
    state = {"orphan_timeout": int(sys.argv[2])}
    hosts = LocalLauncher(Path(sys.argv[1]), Cluster.model_validate({"state": state}))
    host = await hosts.start(SPEC, lambda percent: None)
    print(host.pid, host.address.path, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


def orphan(directory: Path, timeout_ms: int) -> tuple[int, str]:
    """A host whose orchestrator was killed: its pid and socket."""
    program = [sys.executable, "-c", textwrap.dedent(ORCHESTRATOR)]
    with subprocess.Popen(
        [*program, str(directory / "hosts"), str(timeout_ms)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid, path = process.stdout.readline().split()
        process.kill()
    return int(pid), path


@story
async def test_a_host_outlives_its_orchestrator_and_ends_when_nobody_comes(tmp_path: Path) -> None:
    pid, path = orphan(tmp_path, 1000)
    async with files_of(local.Address("unix", path=path)) as files:
        for _ in range(3):  # as long as there is somebody
            await asyncio.sleep(0.7)
            assert await files.ask("still there?", "worker-0003") == "simulated: still there?"
        assert runs(pid)
    await until(lambda: not runs(pid))
    assert not os.access(path, os.F_OK)
    said = (tmp_path / "hosts/host-0003.log").read_text()
    assert "nobody was connected for 1 s" in said and "Traceback" not in said


def test_a_host_whose_orchestrator_dies_while_it_loads_is_not_disturbed(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "llambo9p_nodes.worker", "--model", "simulated"),
            *("--listen", f"unix!{tmp_path}/socket", "--orphan-timeout", "0.5"),
        ],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(writer)
        os.close(reader)  # before it says anything
        began = time.monotonic()
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 0 and time.monotonic() - began > 0.4
    assert "nobody was connected for 0.5 s" in said and "Traceback" not in said


def test_a_log_is_bounded_and_its_last_lines_are_of_the_newest_host(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "log")
    with log.open() as file:
        file.write(b"first\n" * (LOG_BYTES // 6))
    with log.open() as file:
        file.write(b"second\n")
        file.flush()
        assert log.lines() == ["second"]
        log.bound()
        file.write(b"third\n" * 10)
        file.flush()
        assert log.lines() == ["third"] * 10
        file.write(b"4\n" * LOG_BYTES)
        file.flush()
        FileLog(log.path).bound()  # by somebody else
        file.write(b"5\n")
    assert log.path.read_text() == "5\n" and log.lines() == ["5"]
    assert (tmp_path / "log.1").stat().st_size > LOG_BYTES
