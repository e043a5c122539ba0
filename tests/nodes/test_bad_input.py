"""The two programs given what they cannot work with: one clear line, exit status 1."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llambo9p.cluster.config import Cluster
from llambo9p.engine import gguf
from llambo9p.errors import Error
from tests.cluster.harness import cluster


def run(program: str, *words: str) -> str:
    """What it says on stderr; it must end by itself, and without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", f"llambo9p_nodes.{program}", *words],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    assert "listening" not in done.stdout
    return done.stderr


def worker(*words: str) -> str:
    return run("worker", "--listen", "tcp!127.0.0.1!0", *words)


def test_26_missing_model_is_named_before_anything_listens(tmp_path: Path) -> None:
    said = worker("--model", str(tmp_path / "none.gguf"))
    assert said.count("\n") == 1
    assert f"{tmp_path}/none.gguf" in said and "no such file" in said


def test_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    path = tmp_path / "garbage.gguf"
    path.write_bytes(b"\x7fELF" + bytes(5000))
    said = worker("--model", str(path))
    assert said.count("\n") == 1
    assert str(path) in said and "GGUF" in said


def test_truncated_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    with gguf.default_model().open("rb") as whole:
        path.write_bytes(whole.read(3_000_000))
    assert str(path) in worker("--model", str(path)).splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--announce tcp!here!1", "--announce is for a host that is to --register"),
        (
            "--register tcp!127.0.0.1!9 --orphan-timeout 5",
            "--orphan-timeout is for a host that does not --register",
        ),
    ],
)
def test_options_that_would_do_nothing_are_refused(words: str, why: str) -> None:
    assert worker("--model", "simulated", *words.split()) == f"llambo-worker: {why}\n"


def test_context_beyond_the_models_is_refused() -> None:
    said = worker("--context", "1000000")
    assert "1000000" in said and "8192" in said


def test_kv_cache_beyond_the_memory_is_refused_with_the_arithmetic() -> None:
    said = worker("--memory", str(2**20), "--slots", "1")
    assert "the KV cache of 512 tokens takes 8.6 MiB, more than 4 x 1.0 MiB" in said


@pytest.mark.parametrize("program", ["worker", "orchestrator"])
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nowhere", "bad address 'nowhere': use tcp!HOST!PORT, tls!HOST!PORT or unix!PATH"),
        ("tcp!127.0.0.1!http", "port 'http' is not a number"),
        ("tcp!0.0.0.0!5640", "not a loopback address"),
        ("unix!/no/such/directory/socket", "cannot listen on unix!/no/such/directory/socket"),
    ],
)
def test_bad_address_is_refused(program: str, address: str, words: str) -> None:
    said = run(program, "--listen", address)
    assert said.count("\n") == 1 and words in said


@pytest.mark.parametrize("program", ["worker", "orchestrator"])
def test_port_in_use_is_told(program: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp!127.0.0.1!{taken.getsockname()[1]}"
        said = run(program, "--listen", address)
    assert said.count("\n") == 1
    assert f"cannot listen on {address}: Address already in use" in said


def test_bad_configuration_names_file_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("cluster:\n  load_balancer:\n    strategy: fastest\n")
    said = run("orchestrator", "--config", str(path))
    assert f"{path}:3: cluster.load_balancer.strategy: " in said
    assert "must be one of round-robin, least-loaded, random, affinity" in said


def test_state_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "state").symlink_to(tmp_path / "target")
    said = run(
        "orchestrator", "--listen", "tcp!127.0.0.1!0", "--state", str(tmp_path / "state")
    )
    assert "it is a symbolic link" in said
    assert (tmp_path / "target").read_text() == "precious"


def test_spawn_fails_with_the_hosts_own_words(tmp_path: Path) -> None:
    async def spawn() -> None:
        config = Cluster.model_validate(
            {"nodes": {"tiny": {"resources": {"model": str(tmp_path / "none.gguf")}}}}
        )
        async with cluster(config) as running:
            with pytest.raises(Error, match=r"none.gguf: no such file"):
                await running.files.write("ctl", "spawn --count 2 --type tiny")
            status = await running.files.attrs("status")
            assert (status["hosts"], status["workers"]) == ("0", "0")
            assert not await running.files.ls("nodes")

    asyncio.run(spawn())


def test_spawned_hosts_answer_grow_and_end_with_the_cluster() -> None:
    async def spawn() -> None:
        config = Cluster.model_validate({"nodes": {"s": {"resources": {"model": "simulated"}}}})
        async with cluster(config) as running:
            files = running.files
            await files.write("ctl", "spawn --count 3 --type s")
            await files.write("ctl", "spawn --count 2 --type s")
            status = await files.attrs("status")
            assert (status["hosts"], status["healthy"]) == ("1", "5")
            await files.write("worker-0004/prompt", "are you there")
            assert "are you there" in await files.read("worker-0004/out")
            assert (await files.attrs("worker-0004/status"))["model"] == "simulated"
            await files.write("worker-0001/ctl", "shutdown")
            await files.write("ctl", "unmount worker-0000")
            assert "worker-0000" not in await files.ls("nodes")
            (host,) = running.orchestrator._members.hosts
            launched = host.process
            assert launched is not None
        assert (await launched.ended).reason == "host ended with 0"

    asyncio.run(spawn())


@pytest.mark.parametrize("program", ["worker", "orchestrator"])
def test_plain_tcp_is_refused_where_loopback_is_off(tmp_path: Path, program: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("cluster: {security: {loopback: off}}")
    said = run(program, "--listen", "tcp!127.0.0.1!0", "--config", str(config))
    assert "security.loopback is off" in said and "use unix!PATH or tls!HOST!PORT" in said


@pytest.mark.parametrize("program", ["worker", "orchestrator"])
def test_tls_needs_certificates(tmp_path: Path, program: str) -> None:
    assert "needs a certificate: set security.cert and security.ca" in run(
        program, "--listen", "tls!127.0.0.1!0", *(["--model", "simulated"] * (program == "worker"))
    )
    config = tmp_path / "config.yaml"
    config.write_text("cluster: {security: {cert: nowhere.pem}}")
    assert ":1: cluster.security: cert and ca must be given together" in run(
        program, "--config", str(config)
    )
    config.write_text("cluster: {security: {cert: nowhere.pem, ca: ca.pem}}")
    said = run(program, "--listen", "tls!127.0.0.1!0", "--config", str(config))
    assert f"{tmp_path}/nowhere.pem: No such file or directory" in said
