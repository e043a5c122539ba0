"""cluster-config.yaml: the shipped file is good; bad ones say line, key and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llambo9p.cluster import config, environment
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
        ("cluster:\n  nodes: {}", "f:2: cluster.nodes: must have a node type"),
        (
            "cluster:\n  load_balancer:\n    strategy: fastest",
            "f:3: cluster.load_balancer.strategy: "
            "must be one of round-robin, least-loaded, random, affinity, not 'fastest'",
        ),
        (
            "cluster:\n  deploy:\n    hosts:\n      a: {listen: tcp!a!1, tipe: tiny}",
            "f:4: cluster.deploy.hosts.a.tipe: unknown key, did you mean 'type'?",
        ),
        (
            "cluster:\n  deploy:\n    hosts:\n      a: {listen: tcp!a!1, type: small}",
            "f:1: cluster: deploy.hosts.a: no node type 'small'; types are tiny",
        ),
        (
            "cluster:\n  orchestrator:\n    auto_scale: perhaps",
            "f:3: cluster.orchestrator.auto_scale: Input should be a valid boolean, "
            "unable to interpret input, not 'perhaps'",
        ),
        (
            "cluster:\n  orchestrator:\n    engine: slurm",
            "f:3: cluster.orchestrator.engine: Input should be 'local' or 'ray', not 'slurm'",
        ),
        (
            "cluster:\n  load_balancer:\n    timeout: 30 seconds",
            "f:3: cluster.load_balancer.timeout: "
            "must be a time like \"30s\" (ms, s, m, h) or a number of ms, not '30 seconds'",
        ),
        (
            "cluster:\n  orchestrator: {min_nodes: 5, max_nodes: 4}",
            "f:2: cluster.orchestrator: min_nodes 5 is more than max_nodes 4",
        ),
        (
            "cluster:\n  orchestrator: {scale_up_threshold: 0.2}",
            "f:2: cluster.orchestrator: "
            "scale_down_threshold 0.2 is not below scale_up_threshold 0.2",
        ),
        (
            "cluster:\n  network: {base_port: 65000}",
            "f:2: cluster.network: base_port 65000 and port_range 2000 go beyond port 65535",
        ),
        (
            "cluster:\n  network: {cluster_id: a b}",
            "f:2: cluster.network.cluster_id: "
            "must be letters, digits, '.', '_' and '-', at most 64 in all, not 'a b'",
        ),
        (
            "cluster:\n  network: {discovery: [nowhere]}",
            "f:2: cluster.network.discovery.0: "
            "bad address 'nowhere': use tcp!HOST!PORT, tls!HOST!PORT or unix!PATH, not 'nowhere'",
        ),
        (
            "cluster:\n  monitoring: {export_prot: 1}",
            "f:2: cluster.monitoring.export_prot: unknown key, did you mean 'export_port'?",
        ),
        ("cluster: [", "f:1: expected the node content, but found '<stream end>'"),
        ("- a", "f:1: file: Input should be a valid dictionary or instance of _File, not ['a']"),
    ],
)
def test_bad_text_is_named_by_line_and_key(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as e:
        config.parse(text, "f")
    assert str(e.value) == problem


SEED = """
cluster:
  nodes:
    tiny:
      count: 1000
      resources:
        cpu: "0.1 core"
        memory: "128MB"
        model: "llama-1b-quantized.gguf"
        context_size: 512
        threads: 1
  load_balancer:
    strategy: "least-loaded"
    health_check_interval: 1000
    max_retries: 3
    timeout: 30000
  orchestrator:
    auto_scale: true
    min_nodes: 100
    max_nodes: 10000
    scale_up_threshold: 0.8
    scale_down_threshold: 0.2
"""


def test_the_seeds_sections_are_understood() -> None:
    cluster = config.parse(SEED, "f")
    assert cluster.nodes["tiny"].count == 1000
    assert cluster.load_balancer.timeout == 30_000
    scaling = cluster.orchestrator
    assert (scaling.auto_scale, scaling.min_nodes, scaling.max_nodes) == (True, 100, 10_000)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("500ms", 500), ("30s", 30_000), ("1.5 m", 90_000), ("2h", 7_200_000), ("1500", 1500)],
)
def test_times_have_units_or_are_milliseconds(text: str, milliseconds: int) -> None:
    cluster = config.parse(f"cluster: {{load_balancer: {{timeout: {text}}}}}", "f")
    assert cluster.load_balancer.timeout == milliseconds


def test_every_section_has_its_keys_in_the_shipped_file() -> None:
    """Commented out or not, so that one need not look elsewhere for what there is."""
    text = SHIPPED.read_text()
    for name in (
        "load_balancer", "orchestrator", "network", "models", "monitoring", "state", "deploy"
    ):  # fmt: skip
        section = getattr(config.Cluster(), name)
        for key in type(section).model_fields:
            assert re.search(rf"^ *(# *)?{key}:", text, re.MULTILINE), f"{name}.{key}"


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


def test_files_and_directories_start_where_the_configuration_is(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("cluster: {models: {path: [a, /b]}, state: {path: s}}")
    loaded = config.load(path)
    assert loaded.models.path == [tmp_path / "a", Path("/b")]
    assert loaded.state.path == tmp_path / "s"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="none.yaml: No such file"):
        config.load(tmp_path / "none.yaml")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$LLAMBO_ROOT, and nothing else in the environment."""
    for name in ("CLUSTER_CONFIG", "LLAMBO_MODELS", "LLAMBO_CLUSTER_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LLAMBO_ROOT", str(tmp_path))
    return tmp_path


def test_the_configuration_is_the_named_one_or_the_one_in_the_root(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment.config_path() is None
    (root / "cluster-config.yaml").touch()
    assert environment.config_path() == root / "cluster-config.yaml"
    monkeypatch.setenv("CLUSTER_CONFIG", "mine.yaml")
    assert environment.config_path() == root / "mine.yaml", "and that it is missing is told"
    monkeypatch.setenv("CLUSTER_CONFIG", "/etc/mine.yaml")
    assert environment.config_path() == Path("/etc/mine.yaml")
    monkeypatch.delenv("LLAMBO_ROOT")
    monkeypatch.delenv("CLUSTER_CONFIG")
    monkeypatch.chdir(root)
    assert environment.config_path() == root / "cluster-config.yaml"


def test_the_environment_goes_before_the_configuration(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "cluster: {models: {path: /m}, network: {cluster_id: file}}"
    cluster = config.parse(text, "f")
    assert cluster.overridden(environment.models(), environment.cluster_id()) == cluster
    monkeypatch.setenv("LLAMBO_MODELS", "/a::b")
    monkeypatch.setenv("LLAMBO_CLUSTER_ID", "mine")
    changed = cluster.overridden(environment.models(), environment.cluster_id())
    assert changed.models.path == [Path("/a"), root / "b"]
    assert changed.network.cluster_id == "mine"
    with pytest.raises(InvalidArgument, match=r"^\$LLAMBO_CLUSTER_ID: must be .*, not 'a/b'$"):
        cluster.overridden([], "a/b")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "cluster:\n  security: {loopback: off}\n  state: {}\n  security: {admins: [a]}",
            "f:4: cluster.security: it is given twice, in line 2 too",
        ),
        (
            "cluster:\n  network:\n    base_port: 9000\n    base_port: 9000",
            "f:4: cluster.network.base_port: it is given twice, in line 3 too",
        ),
        (
            "cluster:\n  nodes:\n    tiny: {count: 010}",
            "f:3: cluster.nodes.tiny.count: 010 means 8 here: write that, or quotes for a text",
        ),
        (
            "cluster:\n  network: {cluster_id: 0512}",
            "f:2: cluster.network.cluster_id: "
            "0512 means 330 here: write that, or quotes for a text",
        ),
        (
            "cluster:\n  load_balancer: {timeout: 1:30}",
            "f:2: cluster.load_balancer.timeout: "
            "1:30 means 90 here: write that, or quotes for a text",
        ),
        (
            "cluster:\n  nodes:\n    tiny: {count: 1_0}",
            "f:3: cluster.nodes.tiny.count: 1_0 means 10 here: write that, or quotes for a text",
        ),
        (
            "cluster:\n  nodes:\n    tiny: {count: yes}",
            "f:3: cluster.nodes.tiny.count: "
            "yes means true here, where no switch is: write quotes for a text",
        ),
        (
            "cluster:\n  security:\n    admins:\n    - alice\n    - no",
            "f:5: cluster.security.admins: "
            "no means false here, where no switch is: write quotes for a text",
        ),
        (
            "cluster:\n  nodes:\n    on: {}",
            "f:3: cluster.nodes.on: "
            "on means true here, where no switch is: write quotes for a text",
        ),
        (
            "cluster:\n  network: {cluster_id: 2026-11-30}",
            "f:2: cluster.network.cluster_id: "
            "2026-11-30 means a date here: write quotes for a text",
        ),
    ],
)
def test_yaml_means_what_it_says_or_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        config.parse(text, "f")
    assert str(refused.value).splitlines() == [problem]


def test_switches_decimals_and_quotes_are_taken() -> None:
    cluster = config.parse(
        "cluster:\n"
        "  security: {loopback: off, admins: ['no', \"0512\"]}\n"
        "  monitoring: {export_figures: yes}\n"
        "  orchestrator: {auto_scale: True, scale_factor: 1.5, scale_down_threshold: .1}\n"
        "  network: {cluster_id: '010'}\n"
        "  nodes: {'on': {count: 10}}\n",
        "f",
    )
    assert cluster.security.loopback is False
    assert cluster.security.admins == ["no", "0512"]
    assert cluster.monitoring.export_figures is True
    assert cluster.orchestrator.auto_scale is True
    assert cluster.network.cluster_id == "010"
    assert cluster.nodes["on"].count == 10
