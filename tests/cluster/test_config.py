"""cluster-config.yaml: the shipped file is good; bad ones say line, key and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from llambo9p.cluster import config
from llambo9p.errors import InvalidArgument

SHIPPED = Path(__file__).parents[2] / "cluster-config.yaml"


def test_shipped_file_has_the_seeds_types_on_the_bundled_model() -> None:
    cluster = config.load(SHIPPED)
    assert list(cluster.nodes) == ["tiny", "medium", "large"]
    assert {node.resources.model for node in cluster.nodes.values()} == {"default"}
    assert cluster.nodes["tiny"].resources.memory == 128 * 2**20
    assert cluster.nodes["tiny"].resources.cpu == 0.1
    assert cluster.orchestrator.auto_scale is False


def test_empty_file_is_the_defaults() -> None:
    assert config.parse("", "f") == config.Cluster()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cluster:\n  nodez: {}", "f:2: cluster.nodez: unknown key, did you mean 'nodes'?"),
        (
            "cluster:\n  nodes:\n    tiny:\n      resources:\n        context_sise: 1",
            "f:5: cluster.nodes.tiny.resources.context_sise: "
            "unknown key, did you mean 'context_size'?",
        ),
        (
            "cluster:\n  nodes:\n    tiny:\n      resources:\n        memory: 12XB",
            "f:5: cluster.nodes.tiny.resources.memory: "
            "must be a size like \"128MB\" (B, KB, MB, GB, TB), not '12XB'",
        ),
        (
            'cluster:\n  nodes:\n    tiny:\n      resources:\n        model: "a\\0b"',
            "f:5: cluster.nodes.tiny.resources.model: must be the name or path of a model, "
            "not 'a\\x00b'",
        ),
        (
            "cluster:\n  load_balancer:\n    strategy: fastest",
            "f:3: cluster.load_balancer.strategy: "
            "must be one of round-robin, least-loaded, random, affinity, not 'fastest'",
        ),
        (
            "cluster:\n  orchestrator:\n    auto_scale: true",
            "f:3: cluster.orchestrator.auto_scale: Input should be False, not True",
        ),
        ("cluster: [", "f:1: expected the node content, but found '<stream end>'"),
        ("- a", "f:1: file: Input should be a valid dictionary or instance of _File, not ['a']"),
    ],
)
def test_bad_text_is_named_by_line_and_key(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as e:
        config.parse(text, "f")
    assert str(e.value) == problem


def test_every_problem_of_a_file_is_told() -> None:
    text = "cluster:\n  network:\n    listen: x\n  limits:\n    queue: 0\n"
    with pytest.raises(InvalidArgument) as e:
        config.parse(text, "f")
    assert [line.split(":")[1] for line in str(e.value).splitlines()] == ["3", "5"]


def test_a_model_is_a_name_or_a_path_from_where_the_file_is(tmp_path: Path) -> None:
    models = {
        "a": "default", "b": "simulated", "c": "llama-1b", "d": "x.gguf", "e": "./x", "f": "/m"
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    lines = (f"    {name}: {{resources: {{model: {model}}}}}\n" for name, model in models.items())
    path.write_text(f"cluster:\n  nodes:\n{''.join(lines)}")
    assert {name: node.resources.model for name, node in config.load(path).nodes.items()} == {
        **models, "d": f"{tmp_path}/x.gguf", "e": f"{tmp_path}/x"
    }  # fmt: skip


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="none.yaml: No such file"):
        config.load(tmp_path / "none.yaml")
