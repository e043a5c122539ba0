"""A real orchestrator and a real host with scripted answers, from `init` to `shutdown`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llambo9p.engine.gguf import default_model
from llambo9p.net.address import parse

from .cluster import COMMAND, Cluster, environment


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    if made.state.exists():
        made.run("shutdown")


@pytest.fixture
def running(cluster: Cluster) -> Cluster:
    cluster.out("init", "--listen", "tcp!127.0.0.1!0")
    return cluster


def test_from_init_to_shutdown(cluster):
    address = parse(cluster.out("init", "--listen", "tcp!127.0.0.1!0").strip())
    assert address.port != 0
    pid = cluster.pid()

    assert cluster.out("nodes", "list", "--json") == "[]\n"
    cluster.out("spawn", "--count", "3", "--type", "tiny")
    nodes = json.loads(cluster.out("nodes", "list", "--json"))
    assert [(n["id"], n["type"]) for n in nodes] == [(f"worker-{i:04d}", "tiny") for i in range(3)]
    assert json.loads(cluster.out("status", "--json"))["workers"] == 3
    assert "worker-0001" in cluster.out("ls").splitlines()

    cluster.out("write", "worker-0001/prompt", "are you there?\n")
    answer = cluster.out("cat", "worker-0001/out")
    assert answer.startswith("simulated: ") and "are you there?" in answer
    assert cluster.out("cat", "worker-0001/out") == answer

    cluster.out("shutdown")
    assert not cluster.state.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port))
    with pytest.raises((ProcessLookupError, AssertionError)):
        os.kill(pid, 0)
        # where PID 1 reaps nobody, a zombie may be left
        assert " Z " not in Path(f"/proc/{pid}/stat").read_text()


def test_spawn_without_options_is_what_the_configuration_says(running):
    running.out("spawn")
    assert len(json.loads(running.out("nodes", "list", "--json"))) == 2


def test_an_unmounted_worker_ends_and_its_name_is_free(running):
    running.out("spawn", "--count", "2")
    running.out("write", "ctl", "unmount worker-0000")
    assert "worker-0000" not in running.out("ls").split()
    running.out("spawn", "--count", "1")
    assert "worker-0000" in running.out("ls").split()
    assert running.out("status", "--json").count('"hosts": 1') == 1


@pytest.mark.parametrize("seconds", [0.4, 0.5, 0.6, 0.8])
def test_an_interrupted_spawn_leaves_nothing_behind(running, seconds):
    running.out("spawn", "--count", "1")
    process = subprocess.Popen(
        ["env", "--default-signal=INT", *COMMAND, "spawn", "--count", "3000"],
        env=environment(**running.env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    process.wait()
    running.out("spawn", "--count", "5")
    spawned = {name for name in running.out("ls").split() if name.startswith("worker-")}
    assert len(spawned) in (6, 3006), "all of the first spawn or nothing"


def test_infer_with_and_without_options(running):
    running.out("spawn", "--count", "1")
    whole = running.out("infer", "what do you say?")
    assert whole.startswith("simulated: ")
    # one token of the scripted engine is one byte
    assert running.out("infer", "--max-tokens", "4", "what do you say?") == whole[:4]
    asked = ("--system", "Be kind.", "--temperature", "0", "--seed", "12345678")
    assert running.out("infer", *asked, "what?").startswith("simulated: ")
    # the conversations are gone again
    assert not [name for name in running.out("ls").splitlines() if name.isdigit()]
    assert running.out("infer", "what do you say?") == whole


def test_fuse_asks_several_and_prints_one_answer(running):
    running.out("spawn", "--count", "3")
    assert running.out("fuse", "yes") == "simulated: yes"
    asked = ("--strategy", "best-of-n", "--n", "2", "--timeout", "9999", "--min-consensus", "2")
    done = running.run("fuse", *asked, "--max-tokens", "9", "--votes", stdin=b"is it?\n")
    assert (done.returncode, done.stdout) == (0, b"simulated")
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 2 and len({line.split()[0] for line in lines}) == 2
    assert all(line.split()[3:] == ["voted", "simulated", "simulated"] for line in lines)
    said = running.error("fuse", "a long question that holds nothing which anybody could count")
    assert said.startswith("llamboctl: no consensus: majority-vote: 0 of 3 answers")
    assert running.run("fuse", "--strategy", "best", "?").returncode == 2
    # the conversations are gone again
    assert not [name for name in running.out("ls", "fusion").splitlines() if name.isdigit()]
    assert "strategy majority-vote\n" in running.out("cat", "fusion/ctl")


def test_a_second_init_leaves_the_first_cluster_alone(running):
    pid = running.pid()
    said = running.error("init")
    assert f"(pid {pid})" in said and "llamboctl shutdown" in said
    assert running.pid() == pid


def test_init_takes_over_what_a_crash_left(cluster):
    cluster.state.write_text(json.dumps({"address": "tcp!127.0.0.1!1", "pid": 1}))
    cluster.out("init", "--listen", "tcp!127.0.0.1!0")
    assert cluster.pid() != 1


def test_init_says_why_the_orchestrator_ended(cluster):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"tcp!127.0.0.1!{taken.getsockname()[1]}"
        said = cluster.error("init", "--listen", listen)
        assert said == f"llamboctl: cannot listen on {listen}: Address already in use"
    cluster.config.write_text("cluster:\n  nods: {}\n")
    said = cluster.error("init")
    assert said.startswith(f"llamboctl: {cluster.config}:2: ") and "nods" in said
    assert "No such file" in cluster.error("init", "--config", "/nowhere/at-all.yaml")
    assert "bad address" in cluster.error("init", "--listen", "5640")
    assert not cluster.state.exists()


def test_the_log_is_never_written_through_a_link(cluster, tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "state.log").symlink_to("precious")
    assert "symbolic link; set $LLAMBO_STATE" in cluster.error("init")
    assert (tmp_path / "precious").read_text() == "precious"


def test_26_spawn_that_fails_says_why(running):
    said = running.error("spawn", "--count", "1", "--type", "broken")
    assert said.startswith("llamboctl: ctl: ") and "/nowhere/model.gguf" in said
    assert "huge" in running.error("spawn", "--type", "huge")


def test_in_the_foreground(cluster):
    process = subprocess.Popen(
        [*COMMAND, "init", "--listen", "tcp!127.0.0.1!0", "--foreground"],
        stdout=subprocess.PIPE,
        env=environment(**cluster.env, PYTHONUNBUFFERED="1"),
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"listening ")
        assert cluster.pid() == process.pid
        cluster.out("shutdown")
    assert process.returncode == 0


def test_spawn_takes_a_model_by_its_name_or_its_path(running):
    path = running.state.parent / "link.gguf"
    path.symlink_to(default_model())
    running.out("spawn", "--count", "1", "--model", str(path))
    running.out("spawn", "--count", "1", "--model", "simulated")
    nodes = json.loads(running.out("nodes", "list", "--json"))
    assert [node["model"] for node in nodes] == ["link", "simulated"]
    assert "no model 'none'" in running.error("spawn", "--model", "none")
