"""Hosts that are started by hand with `--register`, as processes that are killed, stopped and
started again; the clients are py9p's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import py9p
import pytest
from click.testing import CliRunner
from llambo9p_tools.commands.cert import cert

from llambo9p.p9.wire import unpack_dirs
from tests.clients.cluster import Namespace, listening

pytestmark = pytest.mark.timeout(120)

CONFIG = """
cluster:
  load_balancer: {health_check_interval: 100}
"""
TLS = """
cluster:
  load_balancer: {health_check_interval: 100}
  security: {cert: ca/server-127.0.0.1.pem, ca: ca/ca.pem}
"""


class Process:
    """`llambo-worker` with a simulated model."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._log = directory / "host.log"
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "llambo9p_nodes.worker"),
                    *("--model", "simulated", "--count", "2", *options),
                ],
                stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        assert self.process.stdout is not None
        self.address = ""
        for line in self.process.stdout:
            if line.startswith("listening "):
                self.address = line.split()[1]
                break

    @property
    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts hosts that end with the test."""
    with contextlib.ExitStack() as stack:

        def start(orchestrator: object, *options: str) -> Process:
            started = Process(tmp_path, "--register", str(orchestrator), *options)
            stack.callback(started.close)
            return started

        yield start


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


def health(ns: Namespace) -> dict[str, str]:
    """Of each worker; nothing while one gives way to another."""
    names = sorted(entry.name for entry in unpack_dirs(ns.read("nodes")))
    try:
        return {name: ns.attrs(f"nodes/{name}")["health"] for name in names}
    except py9p.RemoteError:
        return {}


def states(*words: str) -> dict[str, str]:
    return {f"worker-{i:04d}": word for i, word in enumerate(words)}


def test_a_host_that_is_killed_and_started_again_has_its_names(
    tmp_path: Path, config: Path, host: Callable[..., Process]
) -> None:
    with listening(tmp_path, config, "tcp!127.0.0.1!0") as (orchestrator,):
        with Namespace(orchestrator.port) as ns:
            host(orchestrator, "--listen", "tcp!127.0.0.1!0")
            until(lambda: health(ns) == states("healthy", "healthy"))
            two = host(orchestrator, "--listen", "tcp!127.0.0.1!0")
            until(lambda: health(ns) == states(*["healthy"] * 4))
            epoch = int(ns.attrs("nodes/worker-0002")["epoch"])
            assert two.address in ns.read("registry/index").decode()
            two.kill()
            until(lambda: health(ns) == states("healthy", "healthy", "lost", "lost"))
            assert two.address not in ns.read("registry/index").decode()
            with pytest.raises(py9p.RemoteError):
                ns.read("worker-0002/status")
            host(orchestrator, "--listen", two.address)
            until(lambda: health(ns) == states(*["healthy"] * 4))
            assert int(ns.attrs("nodes/worker-0002")["epoch"]) > epoch
            ns.write("worker-0003/prompt", b"hello")
            assert ns.read("worker-0003/out") == b"simulated: hello"


def test_a_host_finds_an_orchestrator_that_is_started_again(
    tmp_path: Path, config: Path, host: Callable[..., Process]
) -> None:
    with listening(tmp_path, config, "tcp!127.0.0.1!0") as (orchestrator,):
        with Namespace(orchestrator.port) as ns:
            host(orchestrator, "--listen", "tcp!127.0.0.1!0")
            until(lambda: health(ns) == states("healthy", "healthy"))
            other = host(orchestrator, "--listen", "tcp!127.0.0.1!0")
            until(lambda: health(ns) == states(*["healthy"] * 4))
            epochs = [ns.attrs(f"nodes/worker-000{i}")["epoch"] for i in range(4)]
    with listening(tmp_path, config, str(orchestrator)), Namespace(orchestrator.port) as ns:
        until(lambda: health(ns) == states(*["healthy"] * 4))
        assert [ns.attrs(f"nodes/worker-000{i}")["epoch"] for i in range(4)] == epochs
        assert ns.attrs("nodes/worker-0002")["addr"] == other.address


def test_an_orphan_ends_and_says_why(
    tmp_path: Path, config: Path, host: Callable[..., Process]
) -> None:
    with listening(tmp_path, config, "tcp!127.0.0.1!0") as (orchestrator,):
        with Namespace(orchestrator.port) as ns:
            first = host(orchestrator, "--listen", "tcp!127.0.0.1!0", "--epoch", "7")
            until(lambda: health(ns) == states("healthy", "healthy"))
            first.kill()
            until(lambda: health(ns) == states("lost", "lost"))
            orphan = host(orchestrator, "--listen", first.address, "--epoch", "6")
            assert orphan.process.wait(20) == 1
            assert f"cannot register with {orchestrator}: Stale file handle: stale epoch 6, " in (
                orphan.log
            )
            assert health(ns) == states("lost", "lost")


def test_a_host_that_is_stopped_is_degraded_and_healthy_when_it_goes_on(
    tmp_path: Path, config: Path, host: Callable[..., Process]
) -> None:
    with listening(tmp_path, config, "tcp!127.0.0.1!0") as (orchestrator,):
        with Namespace(orchestrator.port) as ns:
            stopped = host(orchestrator, "--listen", "tcp!127.0.0.1!0")
            until(lambda: health(ns) == states("healthy", "healthy"))
            os.kill(stopped.process.pid, signal.SIGSTOP)
            until(lambda: health(ns) == states("degraded", "degraded"))
            os.kill(stopped.process.pid, signal.SIGCONT)
            until(lambda: health(ns) == states("healthy", "healthy"))


def test_a_host_registers_under_tls(tmp_path: Path, host: Callable[..., Process]) -> None:
    for words in (["ca"], ["server", "127.0.0.1"]):
        made = CliRunner().invoke(cert, [*words, "--dir", str(tmp_path / "ca")])
        assert made.exit_code == 0
    config = tmp_path / "config.yaml"
    config.write_text(TLS)
    plain, secured = "tcp!127.0.0.1!0", "tls!127.0.0.1!0"
    with listening(tmp_path, config, plain, secured) as (own, orchestrator):
        with Namespace(own.port) as ns:
            started = host(orchestrator, "--listen", secured, "--config", str(config))
            until(lambda: health(ns) == states("healthy", "healthy"))
            assert ns.attrs("nodes/worker-0000")["addr"] == started.address
            assert started.address.startswith("tls!")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--listen", "tcp!0.0.0.0!0", "--insecure"], "say with --announce where this host is"),
        (["--listen", "tls!127.0.0.1!0"], "needs a certificate"),
    ],
)
def test_a_host_that_cannot_be_reached_says_so(
    host: Callable[..., Process], options: list[str], why: str
) -> None:
    started = host("tcp!127.0.0.1!1", *options)
    assert started.process.wait(20) == 1
    assert why in started.log


def test_a_host_waits_for_its_orchestrator_and_ends_when_told(
    host: Callable[..., Process],
) -> None:
    started = host("tcp!127.0.0.1!1", "--listen", "tcp!127.0.0.1!0")
    until(lambda: "not registered with tcp!127.0.0.1!1: cannot connect" in started.log)
    started.process.terminate()
    assert started.process.wait(20) == 0
