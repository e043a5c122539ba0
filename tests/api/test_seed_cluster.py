"""The example programs of the user's quick reference that concern several machines, in Python.

README has them, too, with the bundled model; tests/test_readme.py runs those.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llambo9p import (
    ClusterNode,
    InferenceRequest,
    InferenceResponse,
    LoadBalancer,
    Orchestrator,
    errors,
    fuse,
)
from llambo9p.engine.gguf import default_model

PROMPTS = ["Explain machine learning", "What is deep learning?", "Describe neural networks"]


@pytest.fixture
def addresses(tmp_path: Path) -> Iterator[str]:
    return (f"unix!{tmp_path}/{i}" for i in range(9))


@pytest.fixture(scope="module")
def orch() -> Iterator[Orchestrator]:
    with Orchestrator(10, 1) as orch:
        orch.spawn_cluster(3, default_model())
        yield orch


def test_cluster_node(addresses: Iterator[str]) -> None:
    node = ClusterNode.spawn(next(addresses), 100, "simulated")
    response = node.submit(InferenceRequest("Your prompt here", max_tokens=128))
    assert response.text == "simulated: Your prompt here"
    node.shutdown()


def test_load_balancer(addresses: Iterator[str]) -> None:
    node1, node2 = (ClusterNode.spawn(next(addresses), 4, "simulated") for _ in range(2))
    lb = LoadBalancer(1)
    lb.register(node1)
    lb.register(node2)
    response = lb.balance(InferenceRequest("Your prompt", max_tokens=128))
    assert response.text == "simulated: Your prompt"
    assert "decisions least-loaded 1" in lb.getstats()
    lb.unregister(node1.id)
    assert lb.nodes == [node2]


def test_distributed_cluster() -> None:
    orch = Orchestrator(1000, 1)
    count = orch.spawn_cluster(100, "simulated")
    assert count == 100
    for prompt in PROMPTS:
        response = orch.process(prompt, 64)
        assert response.text == f"simulated: {prompt}"
    assert "workers 100\n" in orch.status()
    orch.shutdown_cluster()


class ByLength(LoadBalancer):
    """Long prompts go to large nodes, short ones to tiny nodes."""

    def balance(self, request: InferenceRequest) -> InferenceResponse:
        wanted = "large" if len(request.prompt) > 1000 else "tiny"
        node = next(node for node in self.nodes if node.type == wanted)
        return node.submit(request)


def test_custom_load_balancer(addresses: Iterator[str]) -> None:
    with (
        ClusterNode.spawn(next(addresses), 4, "simulated") as tiny,
        ClusterNode.spawn(next(addresses), 1, "simulated", node_type="large", n_ctx=4096) as large,
    ):
        lb = ByLength()
        lb.register(tiny)
        lb.register(large)
        assert lb.balance(InferenceRequest("short")).text == "simulated: short"
        # it would not fit the other
        long = "long " * 300
        assert lb.balance(InferenceRequest(long, max_tokens=2000)).text == f"simulated: {long}"
        assert large.submit(InferenceRequest("x")).text == "simulated: x"


def test_parallel_processing(orch: Orchestrator) -> None:
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda prompt: orch.process(prompt, 8), PROMPTS))
    assert all(0 < response.token_count <= 8 for response in results)
    assert len({response.text for response in results}) == 3


def test_cognitive_fusion(orch: Orchestrator) -> None:
    prompt = "What is 2 + 3? Answer with a number."
    responses = [orch.process(prompt, 24) for _ in range(3)]
    fused = fuse(responses, "majority-vote")
    assert fused.text in [response.text for response in responses]
    assert len(fused.votes) == 3


def test_fusion_by_confidence(orch: Orchestrator) -> None:
    request = InferenceRequest("Is 7 a prime number? Answer yes or no.", 16, logprobs=True)
    with ThreadPoolExecutor() as pool:
        responses = list(pool.map(orch.submit, [request] * 3))
    fused = fuse(responses, "best-of-n")
    assert fused.text == max(responses, key=lambda response: response.mean_logprob).text


def test_error_handling(orch: Orchestrator) -> None:
    try:
        orch.process("word " * 1000, 128)
    except errors.Error as error:
        assert "the context holds 512" in str(error)
    else:
        pytest.fail("the prompt was too long")


def test_fewer_nodes_with_more_memory(tmp_path: Path) -> None:
    config = tmp_path / "cluster-config.yaml"
    config.write_text(
        "cluster: {nodes: {tiny: {resources: {memory: 256MB, model: simulated}}}}\n"
    )
    with Orchestrator(config=config) as orch:
        assert orch.spawn_cluster(10) == 10
