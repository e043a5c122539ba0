"""`LoadBalancer` over real nodes: who answers, what is told of it, and what a lost node costs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from llambo9p import ClusterNode, InferenceRequest, LoadBalancer, errors

HELLO = InferenceRequest("hello", max_tokens=200)


@pytest.fixture
def nodes() -> Iterator[list[ClusterNode]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(ClusterNode.spawn("tcp!127.0.0.1!0", 4, "simulated"))
            for _ in range(2)
        ]


def balancer_of(nodes: list[ClusterNode], strategy: int | str) -> LoadBalancer:
    balancer = LoadBalancer(strategy)
    for node in nodes:
        balancer.register(node)
    return balancer


def dispatched(balancer: LoadBalancer, node: ClusterNode) -> int:
    [count] = re.findall(rf"^worker {node.id} .*dispatched (\d+)$", balancer.getstats(), re.M)
    return int(count)


@pytest.mark.parametrize(
    ("number", "name"), [(0, "round-robin"), (1, "least-loaded"), (2, "random")]
)
def test_strategies_go_by_number_and_by_name(nodes, number: int, name: str) -> None:
    for strategy in (number, name):
        balancer = balancer_of(nodes, strategy)
        for _ in range(3):
            assert balancer.balance(HELLO).text == "simulated: hello"
        assert f"strategy {name}\n" in balancer.getstats()
        assert f"decisions {name} 3\n" in balancer.getstats()
    with pytest.raises(errors.InvalidArgument, match="strategies are 0 round-robin, 1 least-lo"):
        LoadBalancer(-1)


def test_round_robin_takes_turns(nodes) -> None:
    balancer = balancer_of(nodes, 0)
    for _ in range(6):
        balancer.balance(HELLO)
    assert [dispatched(balancer, node) for node in nodes] == [3, 3]


def test_threads_share_it_and_nothing_stays_counted(nodes) -> None:
    balancer = balancer_of(nodes, 1)
    prompts = [f"number {i}" for i in range(40)]
    with ThreadPoolExecutor(10) as pool:
        requests = [InferenceRequest(prompt, max_tokens=200) for prompt in prompts]
        texts = [response.text for response in pool.map(balancer.balance, requests)]
    assert texts == [f"simulated: {prompt}" for prompt in prompts]
    assert sum(dispatched(balancer, node) for node in nodes) == 40
    assert all(dispatched(balancer, node) for node in nodes)
    with pytest.raises(errors.RemoteError, match="the context holds 512"):
        balancer.balance(InferenceRequest("long " * 600))
    with pytest.raises(errors.InvalidArgument, match="temperature is out of range"):
        balancer.balance(InferenceRequest("x", temperature=-1))
    stats = balancer.getstats()
    assert "\nrequests 0\n" in stats
    assert "pending_prefill 0\npending_decode 0\n" in stats


def test_only_registered_nodes_answer(nodes) -> None:
    one, other = nodes
    balancer = LoadBalancer(0)
    with pytest.raises(errors.WorkerLost, match="no node that answers is registered"):
        balancer.balance(HELLO)
    balancer.register(one)
    with pytest.raises(errors.Exists, match=f"node {one.id} is registered"):
        balancer.register(one)
    balancer.register(other)
    assert balancer.nodes == [one, other]
    balancer.unregister(one.id)
    for _ in range(3):
        balancer.balance(HELLO)
    assert dispatched(balancer, other) == 3
    with pytest.raises(errors.NotFound, match="no node 'node-id' is registered"):
        balancer.unregister("node-id")
    assert balancer.nodes == [other]


def test_what_a_lost_node_was_sent_goes_to_another(nodes) -> None:
    one, other = nodes
    balancer = balancer_of(nodes, 0)
    os.kill(one._process.pid, signal.SIGKILL)
    for _ in range(4):
        assert balancer.balance(HELLO).text == "simulated: hello"
    assert dispatched(balancer, one) == 1
    assert f"worker {one.id} type tiny eligible no" in balancer.getstats()
    other.shutdown()
    with pytest.raises(errors.WorkerLost, match="no node that answers is registered"):
        balancer.balance(HELLO)
    with ClusterNode.spawn(one.id, 4, "simulated") as again:
        balancer.unregister(one.id)
        balancer.register(again)
        assert balancer.balance(HELLO).text == "simulated: hello"
