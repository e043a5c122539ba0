"""Nodes and orchestrators: what they answer, what they refuse, and that nothing is left."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llambo9p import ClusterNode, Context, InferenceRequest, Message, Orchestrator, errors
from llambo9p.api.connection import Connection
from llambo9p.engine.gguf import default_model
from tests.chaos.processes import children

LOCAL = "tcp!127.0.0.1!0"
SIMPLE = InferenceRequest("hello", max_tokens=200)
LONG = InferenceRequest("Tell me a story.", max_tokens=450, temperature=0)


@pytest.fixture(scope="module")
def node() -> Iterator[ClusterNode]:
    """The real model."""
    with ClusterNode.spawn(LOCAL, 4, default_model(), n_threads=1) as node:
        yield node


@pytest.fixture
def simulated() -> Iterator[ClusterNode]:
    with ClusterNode.spawn(LOCAL, 4, "simulated") as node:
        yield node


@pytest.fixture
def cluster() -> Iterator[Orchestrator]:
    with Orchestrator(8, 1) as orchestrator:
        yield orchestrator


def read(served: ClusterNode | Orchestrator, path: str) -> str:
    with Connection(served.address) as connection:
        return connection.read(path)


def write(served: ClusterNode | Orchestrator, path: str, text: str) -> None:
    with Connection(served.address) as connection:
        connection.write(path, text)


def has_ended(pid: int) -> bool:
    """A zombie has: where PID 1 reaps nobody it stays."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    except FileNotFoundError:
        return True


def until_ended(*pids: int) -> None:
    while not all(map(has_ended, pids)):
        time.sleep(0.02)


# -- answers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        InferenceRequest("What is a file?", max_tokens=16, temperature=0),
        InferenceRequest("Count.\n\n", max_tokens=16, temperature=0, logprobs=True),
        InferenceRequest("", max_tokens=4, temperature=0),
        InferenceRequest("Invent a name.", max_tokens=12, seed=7, temperature=1.5),
        InferenceRequest(
            [
                Message("system", "You are a parrot.\n"),
                Message("user", "Say: seven."),
                Message("assistant", "Seven."),
                Message("user", "Say: eight."),
            ],
            max_tokens=8,
            temperature=0,
        ),
        InferenceRequest("1, 2, 3, 4,\n", max_tokens=9, temperature=0, mode="complete"),
        InferenceRequest("1, 2, 3, 4,", max_tokens=16, temperature=0, mode="complete",
                         stop=["7, 8", "'x y'"]),
        InferenceRequest("A name?", max_tokens=8, grammar='root ::= "Ada" | "Bob"', seed=1),
        InferenceRequest("A number?", max_tokens=16, schema='{"enum": [1, 2]}', temperature=0),
    ],
    ids=lambda request_: repr(request_)[17:60],
)  # fmt: skip
def test_an_answer_is_that_of_this_process(
    node: ClusterNode, ctx: Context, request_: InferenceRequest
) -> None:
    there, here = node.submit(request_), ctx.infer(request_)
    assert there.text == here.text
    assert there.tokens == here.tokens
    assert there.token_count == here.token_count
    assert there.usage.prompt_tokens == here.usage.prompt_tokens
    assert there.finish_reason == here.finish_reason
    assert there.completion_time > 0
    assert there.mean_logprob == pytest.approx(here.mean_logprob)


def test_a_node_says_what_it_is(node: ClusterNode) -> None:
    assert (node.type, node.capacity, node.n_ctx) == ("tiny", 4, 512)
    assert node.model == default_model().stem
    assert node.id == str(node.address)
    assert repr(node) == f"<ClusterNode {node.id}>"


def test_a_short_answer_need_not_wait_for_a_long_one(node: ClusterNode) -> None:
    with ThreadPoolExecutor() as pool:
        long = pool.submit(node.submit, LONG)
        while "active 1" not in read(node, "status"):
            time.sleep(0.01)
        assert node.submit(InferenceRequest("Hi", max_tokens=1)).token_count == 1
        assert not long.done()
        assert long.result().token_count > 100


def test_many_threads_share_a_node_and_a_cluster(
    simulated: ClusterNode, cluster: Orchestrator
) -> None:
    cluster.spawn_cluster(3, "simulated")
    prompts = [f"number {i}" for i in range(60)]
    requests = [InferenceRequest(prompt, max_tokens=200) for prompt in prompts]
    with ThreadPoolExecutor(20) as pool:
        for served in (simulated, cluster):
            texts = [response.text for response in pool.map(served.submit, requests)]
            assert texts == [f"simulated: {prompt}" for prompt in prompts]


@pytest.mark.parametrize(
    ("prompt", "mode", "reason"),
    [
        ("", "complete", "in mode complete the prompt must not be empty"),
        ([], "chat", "the last message of the prompt must be the user's"),
        ([Message("assistant", "x")], "chat", "the last message of the prompt must be the user's"),
        ([Message("user", "x"), Message("system", "y"), Message("user", "z")], "chat",
         "history line 2 is not"),
        ("x", "talk", "mode must be chat or complete, not talk"),
    ],
)  # fmt: skip
def test_a_request_without_sense_is_refused_and_the_next_is_answered(
    simulated: ClusterNode, prompt, mode, reason
) -> None:
    with pytest.raises(errors.Error, match=reason) as caught:
        simulated.submit(InferenceRequest(prompt, mode=mode))
    assert caught.value.errno == errno.EINVAL
    assert simulated.submit(SIMPLE).text == "simulated: hello"


def test_a_prompt_that_does_not_fit_is_refused_by_the_node(node: ClusterNode) -> None:
    with pytest.raises(errors.RemoteError, match="tokens, the context holds 512"):
        node.submit(InferenceRequest("word " * 600))


# -- starting -------------------------------------------------------------------------


def test_what_cannot_be_started_says_why(simulated: ClusterNode, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument, match="bad address 'localhost:9000'"):
        ClusterNode.spawn("localhost:9000", 4, "simulated")
    with pytest.raises(errors.Error, match=f"{simulated.id}: Address already in use"):
        ClusterNode.spawn(simulated.id, 4, "simulated")
    with pytest.raises(errors.Error, match="/nowhere/x.gguf: no such file"):
        ClusterNode.spawn(LOCAL, 4, "/nowhere/x.gguf")
    with pytest.raises(errors.Error, match="n_seq must be 1 to 256, not 257"):
        ClusterNode.spawn(LOCAL, 257)
    with pytest.raises(errors.Error, match="is not a loopback address"):
        ClusterNode.spawn("tcp!192.0.2.1!9000", 4, "simulated")
    with pytest.raises(errors.InvalidArgument, match="max_nodes must be 1..10000, not 0"):
        Orchestrator(0)
    with pytest.raises(errors.InvalidArgument, match="no strategy 3; strategies are 0 round-robin"):
        Orchestrator(8, 3)
    with pytest.raises(errors.InvalidArgument, match="no strategy 'fastest'"):
        Orchestrator(8, "fastest")
    with pytest.raises(errors.Error, match=f"{simulated.id}: Address already in use"):
        Orchestrator(8, listen=simulated.id)
    bad = tmp_path / "bad.yaml"
    bad.write_text("cluster:\n  nodse: {}\n")
    with pytest.raises(errors.InvalidArgument, match="bad.yaml:2: cluster.nodse: unknown key"):
        Orchestrator(8, config=bad)


def test_a_relative_path_of_a_model_starts_here(cluster: Orchestrator, tmp_path, monkeypatch):
    (tmp_path / "model.gguf").symlink_to(default_model())
    monkeypatch.chdir(tmp_path)
    assert cluster.spawn_cluster(1, "model.gguf") == 1
    with ClusterNode.spawn(f"unix!{tmp_path}/node", 1, Path("model.gguf")) as node:
        assert node.model == "model"
    assert "model model\n" in read(cluster, "nodes/worker-0000")


# -- clusters -------------------------------------------------------------------------


def test_a_cluster_is_what_its_numbers_and_its_configuration_say(tmp_path: Path) -> None:
    config = tmp_path / "cluster-config.yaml"
    config.write_text(
        "cluster:\n"
        "  nodes:\n"
        "    tiny: {resources: {model: simulated, context_size: 300}}\n"
        "    huge: {resources: {model: simulated, cpu: 0.5 core, memory: 1GB}}\n"
        "  load_balancer: {strategy: affinity, timeout: 5s}\n"
        "  orchestrator: {max_nodes: 2}\n"
    )
    with Orchestrator(4, 0, config=config) as cluster:
        assert "workers 0\n" in cluster.status()
        assert cluster.spawn_cluster(2) == 2
        assert cluster.spawn_cluster(1, node_type="huge") == 1
        assert "workers 3\nhealthy 3\n" in cluster.status()
        assert "type tiny\n" in read(cluster, "nodes/worker-0001")
        assert "type huge\n" in read(cluster, "nodes/worker-0002")
        assert "strategy round-robin\n" in read(cluster, "balancer")
        with pytest.raises(errors.RemoteError, match="more than max_nodes 4") as caught:
            cluster.spawn_cluster(2)
        assert caught.value.errno == errno.EBUSY
        with pytest.raises(errors.Error, match="no node type 'small'; types are tiny huge"):
            cluster.spawn_cluster(1, node_type="small")
        with pytest.raises(errors.Error, match="/nowhere/x.gguf: no such file"):
            cluster.spawn_cluster(1, "/nowhere/x.gguf")
        assert "workers 3\nhealthy 3\n" in cluster.status()


def test_workers_with_another_model_have_a_host_of_their_own(cluster: Orchestrator) -> None:
    cluster.spawn_cluster(2, "simulated")
    cluster.spawn_cluster(1, default_model())
    cluster.spawn_cluster(1, "simulated")
    assert "hosts 2\n" in cluster.status()
    models = [
        next(line for line in read(cluster, f"nodes/worker-{i:04d}").splitlines()
             if line.startswith("model "))
        for i in range(4)
    ]  # fmt: skip
    assert models == [
        "model simulated", "model simulated", f"model {default_model().stem}", "model simulated"
    ]  # fmt: skip


def test_others_see_the_same_cluster_at_its_address() -> None:
    with Orchestrator(8, listen=LOCAL) as cluster:
        assert cluster.address.net == "tcp" and cluster.address.port
        write(cluster, "ctl", "spawn --count 2 --model simulated")
        assert "workers 2\n" in cluster.status()
        assert cluster.process("hello").text == "simulated: hello"
        assert "decisions least-loaded 1\n" in read(cluster, "balancer")


def test_a_node_can_be_mounted_in_a_cluster(simulated: ClusterNode, cluster: Orchestrator) -> None:
    with pytest.raises(errors.RemoteError, match="no healthy worker; start some"):
        cluster.process("hello")
    write(cluster, "ctl", f"mount {simulated.address}")
    assert cluster.process("hello").text == "simulated: hello"
    assert "capacity 4\n" in read(cluster, "nodes/worker-0000")


# -- the end --------------------------------------------------------------------------


def test_what_was_shut_down_says_so_and_may_be_shut_down_again(cluster: Orchestrator) -> None:
    cluster.spawn_cluster(1, "simulated")
    pids = [cluster._process.pid, *children(cluster._process.pid)]
    assert len(pids) == 2
    directory = Path(cluster.address.path).parent
    cluster.shutdown_cluster()
    until_ended(*pids)
    assert not directory.exists()
    cluster.shutdown_cluster()
    for use in (cluster.status, lambda: cluster.process("x"), lambda: cluster.spawn_cluster(1)):
        with pytest.raises(errors.WorkerLost, match="was shut down"):
            use()
    node = ClusterNode.spawn(LOCAL, 1, "simulated")
    node.shutdown()
    node.shutdown()
    assert has_ended(node._process.pid)
    assert repr(node) == f"<ClusterNode {node.id}, shut down>"
    with pytest.raises(errors.WorkerLost, match=f"{node.id} was shut down"):
        node.submit(SIMPLE)


def test_the_end_of_a_node_ends_what_is_asked_of_it() -> None:
    for end in (ClusterNode.shutdown, lambda node: os.kill(node._process.pid, signal.SIGKILL)):
        with ClusterNode.spawn(LOCAL, 2, n_threads=1) as node, ThreadPoolExecutor() as pool:
            asked = pool.submit(node.submit, LONG)
            while "active 1" not in read(node, "status"):
                time.sleep(0.01)
            end(node)
            with pytest.raises(errors.Error):
                asked.result()
            with pytest.raises(errors.WorkerLost):
                node.submit(SIMPLE)


def test_what_nobody_refers_to_ends() -> None:
    node = ClusterNode.spawn(LOCAL, 1, "simulated")
    pid = node._process.pid
    del node
    gc.collect()
    assert has_ended(pid)


def test_an_interrupt_stops_the_answer_and_leaves_the_node(node: ClusterNode) -> None:
    def interrupt() -> None:
        while "active 1" not in read(node, "status"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        node.submit(LONG)
    interrupting.join()
    while "active 0" not in read(node, "status"):
        time.sleep(0.01)
    assert node.submit(InferenceRequest("Hi", max_tokens=1)).token_count == 1


PROGRAM = """
from llambo9p import ClusterNode, InferenceRequest, Orchestrator
node = ClusterNode.spawn("tcp!127.0.0.1!0", 1, "simulated")
cluster = Orchestrator(8)
cluster.spawn_cluster(2, "simulated")
print(node._process.pid, cluster._process.pid, flush=True)
input()
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("raise ZeroDivisionError", 1),
        (signal.SIGINT, -signal.SIGINT),
        (signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
    ids=str,
)
def test_no_process_is_left_however_a_program_ends(end: str | signal.Signals, status: int) -> None:
    after = end if isinstance(end, str) else ""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM + after],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as program:  # fmt: skip
        node, orchestrator = map(int, program.stdout.readline().split())
        [host] = children(orchestrator)
        if isinstance(end, signal.Signals):
            program.send_signal(end)
        else:
            program.stdin.write("\n")
            program.stdin.flush()
        assert program.wait() == status
    until_ended(node, orchestrator, host)
