"""`llamboctl top` against a real cluster, on a terminal and off one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from .cluster import COMMAND, llamboctl
from .screen import Screen
from .test_cluster_life import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("top"))
    made.out("init", "--listen", "tcp!127.0.0.1!0")
    made.out("spawn", "--count", "3", "--type", "tiny")
    yield made
    made.run("shutdown")


def address(cluster: Cluster) -> str:
    return str(json.loads(cluster.state.read_text())["address"])


def test_off_a_terminal_it_says_what_is_now(cluster: Cluster) -> None:
    cluster.out("infer", "hello")
    cluster.out("infer", "--max-tokens", "4", "hello")
    text = cluster.out("top", "--interval", "0.1")
    assert text.startswith(f"cluster   {address(cluster)}, healthy, least-loaded\n")
    assert "requests  0 active, 0 waiting, 2 done, 0 failed\n" in text
    assert text.count("\nworker-0") == 3 and "\nhost-0000  tiny  0/16 " in text
    assert "\x1b" not in text

    now = json.loads(cluster.out("top", "--json", "--interval", "0.1"))
    assert now["requests"] == {"active": 0, "waiting": 0, "done": 2, "failed": 0}
    assert [worker["name"] for worker in now["workers"]] == [f"worker-000{n}" for n in range(3)]
    assert (now["hosts"][0]["slots"], now["state"]) == (16, "healthy")
    assert sum(worker["errors"] for worker in now["workers"]) == 0


def test_without_a_cluster_it_ends_at_once() -> None:
    with Screen([*COMMAND, "top"], LLAMBO_ADDR="tcp!127.0.0.1!1") as screen:
        assert screen.finish() == 1
        assert "no cluster answers at tcp!127.0.0.1!1" in screen.text
    done = llamboctl("top", "--interval", "0")
    assert done.returncode == 2


def test_on_a_terminal_it_goes_on_until_q(cluster: Cluster) -> None:
    with Screen([*COMMAND, "top", "--interval", "0.1"], **cluster.env) as screen:
        text = screen.until(lambda text: "worker.joined" in text or "spawn type=tiny" in text)
        assert screen.lines[0].startswith(f"{address(cluster)}  healthy  least-loaded  up ")
        assert "Workers   3 healthy" in text and "1-3 of 3" in screen.lines[23]
        cluster.out("infer", "hello")
        screen.until(lambda text: "3 done" in text)
        screen.type("s")
        screen.until(lambda text: "sort: tokens/s" in text)
        screen.resize(60, 14)
        screen.until(lambda text: "sort: tokens/s" in screen.lines[13] and "TOKENS" not in text)
        assert "HOST" not in screen.text
        screen.resize(140, 40)
        screen.until(lambda text: "MODEL" in text)
        screen.type("q")
        assert screen.finish() == 0
        # the alternate screen and the hidden cursor are over
        assert screen.seen.rfind(b"\x1b[?1049l") > screen.seen.rfind(b"\x1b[?1049h") >= 0
        assert screen.seen.rfind(b"\x1b[?25h") > screen.seen.rfind(b"\x1b[?25l") >= 0


def test_an_interrupt_leaves_the_terminal_as_it_was(cluster: Cluster) -> None:
    with Screen([*COMMAND, "top"], NO_COLOR="1", **cluster.env) as screen:
        screen.until(lambda text: "3 healthy" in text)
        screen.type("\x03")
        assert screen.finish() == 130
        assert screen.seen.rfind(b"\x1b[?1049l") > screen.seen.rfind(b"\x1b[?1049h")
        assert b"\x1b[32m" not in screen.seen and b"\x1b[1;32m" not in screen.seen


def test_one_that_does_not_answer_is_told(cluster: Cluster) -> None:
    with Screen([*COMMAND, "top", "--interval", "0.1"], **cluster.env) as screen:
        screen.until(lambda text: "3 healthy" in text)
        os.kill(cluster.pid(), signal.SIGSTOP)
        try:
            screen.until(lambda text: f"{address(cluster)} has not answered for" in text)
            screen.type("q")
            assert screen.finish() == 0
        finally:
            os.kill(cluster.pid(), signal.SIGCONT)


def test_a_dumb_terminal_gets_lines(cluster: Cluster) -> None:
    with Screen([*COMMAND, "top", "--interval", "0.1"], TERM="dumb", **cluster.env) as screen:
        assert screen.finish() == 0
        assert b"\x1b[?1049h" not in screen.seen and b"worker-0002" in screen.seen


# -- logs -------------------------------------------------------------------------


def test_logs_are_listed_and_printed(cluster: Cluster) -> None:
    header, *lines = cluster.out("logs").splitlines()
    assert header.split() == ["NAME", "TYPE", "WORKERS"]
    assert [line.split() for line in lines] == [
        ["orchestrator", "-", "-"], ["host-0000", "tiny", "3"]
    ]  # fmt: skip
    assert json.loads(cluster.out("logs", "--json"))[1] == {
        "name": "host-0000", "type": "tiny", "workers": 3
    }  # fmt: skip
    for question in ("one", "two"):
        cluster.out("write", "worker-0001/prompt", question)
        cluster.out("cat", "worker-0001/out")
    log = cluster.out("logs", "host-0000")
    assert log.count(" worker=worker-0001 ") >= 2
    assert cluster.out("logs", "worker-0001") == log
    assert cluster.out("logs", "host-0000", "-n", "1") == log.splitlines()[-1] + "\n"
    assert cluster.out("logs", "host-0000", "-n", "0") == ""
    assert cluster.out("logs", "host-0000", "-n", "999") == log
    cluster.out("infer", "through the orchestrator")
    assert "llambo-orchestrator: " in cluster.out("logs", "orchestrator", "-n", "1")


def test_what_has_no_log_is_told(cluster: Cluster) -> None:
    assert cluster.error("logs", "host-0007") == (
        "llamboctl: logs/host-0007: file does not exist; `llamboctl logs` lists the logs"
    )
    for args in (["-f"], ["-n", "3"], ["host-0000", "--json"], ["host-0000", "-n", "-1"]):
        assert cluster.run("logs", *args).returncode == 2


def test_a_log_is_followed_until_an_interrupt(cluster: Cluster) -> None:
    def ask() -> None:
        cluster.out("write", "worker-0001/prompt", "?")
        cluster.out("cat", "worker-0001/out")

    ask()
    follow = [*COMMAND, "logs", "host-0000", "-f", "-n", "1"]
    with Screen(follow, columns=200, **cluster.env) as screen:
        screen.until(lambda text: text.count("worker=worker-0001") == 1)
        ask()
        screen.until(lambda text: text.count("worker=worker-0001") == 2)
        screen.type("\x03")
        assert screen.finish() == 130
    done = llamboctl("--explain", "logs", "host-0000", "-f")
    assert done.stdout == b"exec 3<logs/host-0000\nwhile cat <&3; do sleep 1; done\n"


# -- the last one, for it changes the cluster -------------------------------------


def test_a_cluster_that_goes_away_is_come_back_to(cluster: Cluster) -> None:
    at = address(cluster)
    with Screen([*COMMAND, "top", "--interval", "0.1"], **cluster.env) as screen:
        screen.until(lambda text: "3 healthy" in text)
        os.kill(cluster.pid(), signal.SIGKILL)
        screen.until(lambda text: f"no cluster answers at {at}" in screen.lines[0])
        assert "worker-0002" in screen.text
        cluster.out("init", "--listen", at)
        cluster.out("write", "ctl", "kill worker-0002")
        screen.until(lambda text: "2 healthy" in text and f"{at}  healthy" in screen.lines[0])
        screen.type("q")
        assert screen.finish() == 0
