"""llamboctl's commands against a real orchestrator with scripted answers: what people see, in a
pipe and on a terminal, what programs see, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from llambo9p_tools.llamboctl import cli
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from tests.zoo import quantizing

from .cluster import COMMAND, Cluster, Terminal, environment

SEED = (
    "llambo_inference_latency_ms", "llambo_token_throughput", "llambo_node_utilization_percent",
    "llambo_active_nodes", "llambo_total_requests", "llambo_failed_requests",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three workers, which every test leaves as they are."""
    directory = tmp_path_factory.mktemp("commands")
    (directory / "models").mkdir()
    (directory / "models/broken.gguf").write_bytes(b"no model")
    made = Cluster(directory, LLAMBO_MODELS=str(directory / "models"))
    made.out("init", "--listen", "tcp!127.0.0.1!0")
    made.out("spawn", "--count", "3", "--type", "tiny")
    yield made
    made.out("shutdown")


def run(cluster: Cluster, line: str) -> tuple[int, str, str]:
    """Exit code, output and errors, in this process: dozens of others would take long."""
    done = CliRunner().invoke(cli, shlex.split(line), env={"LLAMBO_ADDR": "", **cluster.env})
    return done.exit_code, done.stdout, done.stderr


def out(cluster: Cluster, line: str) -> str:
    code, said, errors = run(cluster, line)
    assert (code, errors) == (0, "")
    return said


def error(cluster: Cluster, line: str) -> str:
    code, said, errors = run(cluster, line)
    assert (code, said) == (1, "")
    assert errors.startswith("Error: ") and errors.count("\n") == 1
    return errors.removeprefix("Error: ")


def health(cluster: Cluster) -> tuple[int, list[str]]:
    code, said, errors = run(cluster, "health")
    assert errors == ""
    return code, said.splitlines()


def test_health_is_the_quick_reference_s_lines_and_an_exit_code(cluster: Cluster) -> None:
    well = [
        "✓ Orchestrator:    HEALTHY",
        "✓ Load Balancer:   HEALTHY",
        "✓ Node Health:     3/3 HEALTHY",
    ]
    assert health(cluster) == (0, well)
    out(cluster, "nodes drain worker-0000 worker-0002")
    some = ["✓ Node Health:     1/3 HEALTHY", "⚠ Node Health:     2/3 DRAINING"]
    assert health(cluster) == (3, [*well[:2], *some])
    out(cluster, "nodes drain worker-0001")
    nobody = ["✗ Load Balancer:   UNHEALTHY", "⚠ Node Health:     3/3 DRAINING"]
    assert health(cluster) == (1, [well[0], *nobody])
    assert run(cluster, "health --json")[0] == 1
    out(cluster, "nodes resume worker-0000 worker-0001 worker-0002")
    assert health(cluster) == (0, well)


def test_without_workers_nothing_can_answer(tmp_path: Path) -> None:
    empty = Cluster(tmp_path)
    empty.out("init", "--listen", "tcp!127.0.0.1!0")
    try:
        done = empty.run("health")  # its own program: the exit code is what `run` makes of it
        assert done.returncode == 1 and b"llamboctl spawn" in done.stderr
        assert done.stdout.decode().splitlines()[1:] == [
            "✗ Load Balancer:   UNHEALTHY",
            "✗ Node Health:     NO WORKERS",
        ]
        for line in ("events", "events --json"):
            assert out(empty, line) == ""
        assert out(empty, "version").splitlines()[-1].split()[0] == "cluster"
        code, said, errors = run(empty, "nodes list")
        assert (code, said) == (0, "") and "llamboctl spawn" in errors
    finally:
        empty.out("shutdown")


def test_the_balancer(cluster: Cluster) -> None:
    for line in ("balancer", "balancer stats"):
        said = out(cluster, line)
        assert re.search(r"^strategy +least-loaded$", said, re.MULTILINE)
        assert re.search(r"^worker-0001 +tiny +yes +\d+$", said, re.MULTILINE)
    out(cluster, "balancer --strategy random")
    assert json.loads(out(cluster, "balancer --json"))["strategy"] == "random"
    out(cluster, "balancer --strategy least-loaded")
    said = error(cluster, "balancer --strategy fastest")
    assert said.startswith("balancer: no strategy 'fastest'; strategies are round-robin")


def test_metrics(cluster: Cluster) -> None:
    text = out(cluster, "metrics --export prometheus")
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert names[:6] == list(SEED) and "llambo_requests_total" in names
    assert "llambo_requests" in json.loads(out(cluster, "metrics --export json"))
    header, *rows = out(cluster, "metrics").splitlines()
    assert header.split() == ["METRIC", "OF", "VALUE", "MEANING"]
    assert any(re.fullmatch(r"llambo_nodes +healthy +3  Workers\.", row) for row in rows)


def test_events_until_now_and_from_then_on(cluster: Cluster) -> None:
    known = [json.loads(line) for line in out(cluster, "events --json").splitlines()]
    assert [event["seq"] for event in known] == list(range(len(known)))
    lines = out(cluster, "events").splitlines()
    assert len(lines) == len(known)
    assert re.match(r"\w{3} \d\d \d\d:\d\d:\d\d  worker\.joined +worker worker-0000  ", lines[0])
    following = subprocess.Popen(
        ["env", "--default-signal=INT", *COMMAND, "events", "--follow", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(**cluster.env),
    )  # fmt: skip
    with following:
        assert following.stdout is not None and following.stderr is not None
        for event in known:
            assert json.loads(following.stdout.readline()) == event
        out(cluster, "balancer --strategy least-loaded")
        assert json.loads(following.stdout.readline())["kind"] == "strategy.changed"
        following.send_signal(signal.SIGINT)
        assert following.stderr.read().strip() == b""
    assert following.returncode == 130


def test_models_that_cannot_be_used_say_why(cluster: Cluster) -> None:
    header, *rows = out(cluster, "models").splitlines()
    assert header.split() == [
        "NAME", "KIND", "SIZE", "ARCHITECTURE", "CONTEXT", "QUANTISATION", "TEMPLATE", "EXACT",
        "ERROR",
    ]  # fmt: skip
    shown = {row.split()[0]: row.split()[1:] for row in rows}
    assert shown["default"][0] == "decoder" and shown["default"][2:4] == ["llama", "8192"]
    assert shown["default"][1].endswith("M") and shown["default"][6] in ("unknown", "yes", "no")
    assert shown["broken"][:7] == ["-"] * 7 and len(shown["broken"]) > 7


@pytest.mark.slow
def test_what_was_found_of_a_models_exactness_is_kept(
    tmp_path: Path, model_file: Callable[[str], Path]
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(model_file("qwen3"), models / "tiny.gguf")
    quantizing.wide("qwen2", models / "odd.gguf", "Q4_K_M")
    quantizing.wide("qwen2", models / "never.gguf", "F16")
    made = Cluster(tmp_path, LLAMBO_MODELS=str(models), XDG_CACHE_HOME=str(tmp_path / "cache"))
    made.out("init", "--listen", "tcp!127.0.0.1!0")
    try:
        assert "exact unknown" in made.out("cat", "models/tiny").splitlines()
        assert made.out("models", "--probe", "tiny") == "exact yes\nexact_required yes\n"
        assert made.out("cat", "models/tiny").splitlines()[-2:] == [
            "exact yes", "exact_required yes",
        ]  # fmt: skip
        said = json.loads(made.out("models", "--json", "--probe", str(models / "odd.gguf")))
        assert said["exact"] == "no" and said["differs"] and said["exact_required"] == "yes"
        assert made.out("cat", "models/odd").splitlines()[-2:] == ["exact no", "exact_required yes"]
        assert made.out("models", "--probe", "never").splitlines()[-1] == "exact_required no"
        assert made.out("cat", "models/never").splitlines()[-2:] == [
            "exact no", "exact_required no",
        ]  # fmt: skip
        assert "none" in error(made, "models --probe none")
        (models / "tiny.gguf").write_bytes(b"no model")
        assert "not a GGUF file" in error(made, "models --probe tiny")
    finally:
        made.out("shutdown")


def test_workers_come_and_go(cluster: Cluster) -> None:
    def names() -> list[str]:
        return out(cluster, "ls nodes").split()

    out(cluster, "scale 5 tiny")
    assert len(names()) == 5
    out(cluster, "scale 4")
    out(cluster, f"nodes kill {names()[-1]}")
    assert names() == ["worker-0000", "worker-0001", "worker-0002"]
    assert out(cluster, "nodes show worker-0001").startswith("id worker-0001\naddr ")
    said = error(cluster, "nodes show worker-0009")
    assert said == "nodes/worker-0009: file does not exist\n"
    # all or nothing
    assert "worker-0009" in error(cluster, "nodes drain worker-0001 worker-0009")
    assert health(cluster)[0] == 0
    assert "no node type 'huge'; types are tiny broken" in error(cluster, "scale 1 huge")
    assert "no model 'none'; there are default" in error(cluster, "load worker-0000 none")
    assert "worker-0009" in error(cluster, "load worker-0009 default")


def test_a_checkpoint_is_saved_shown_and_restored(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "saved here"
    relative = shlex.quote(os.path.relpath(file))
    out(cluster, f"checkpoint --save {relative}")
    assert file.stat().st_mode & 0o777 == 0o600
    shown = out(cluster, f"checkpoint --show {relative}")
    assert "strategy  least-loaded" in shown or "that of the configuration" in shown
    assert "worker-0000 worker-0001 worker-0002" in shown
    assert json.loads(out(cluster, "checkpoint --show --json"))["pid"] == cluster.pid()
    out(cluster, f"checkpoint --restore {relative}")
    assert f"{tmp_path}/none" in error(cluster, f"checkpoint --restore {tmp_path}/none")
    assert "--save" in error(cluster, f"checkpoint --show {tmp_path}/none")
    file.write_text("{}")
    assert "is damaged" in error(cluster, f"checkpoint --show {relative}")


def test_a_checkpoint_by_name_lies_beside_the_state_file(cluster: Cluster) -> None:
    out(cluster, "checkpoint --save friday")
    shown = json.loads(out(cluster, "checkpoint --show friday --json"))
    assert shown["pid"] == cluster.pid() and shown["hosts"]
    out(cluster, "checkpoint --restore friday")
    for verb in ("save", "restore"):
        assert "bad name '.x' of a checkpoint" in error(cluster, f"checkpoint --{verb} .x")
    assert "checkpoint --save monday" in error(cluster, "checkpoint --show monday")


class Node(TypedDict):
    id: str
    addr: str
    type: str
    state: str
    model: str
    capacity: int
    load: int
    queued: int
    requests: int
    tokens: int
    errors: int
    heartbeat: float
    epoch: int
    health: Literal["healthy", "degraded", "draining", "lost"]
    circuit: str
    host: str


class Health(TypedDict):
    orchestrator: str
    load_balancer: str
    nodes: int
    healthy: int
    degraded: int
    draining: int
    lost: int


class Usage(TypedDict):
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    given_tokens: int
    queue_ms: float
    ttft_ms: float
    total_ms: float
    interrupted_ms: float
    tokens_per_second: float
    finish_reason: Literal["stop", "length"]


class Answer(TypedDict):
    text: str
    usage: Usage


class Vote(TypedDict):
    worker: str
    weight: float
    ms: int
    state: str
    answer: str
    text: str


class Fused(Answer):
    agreement: float
    votes: list[Vote]


class Totals(TypedDict):
    strategy: str
    strategies: list[str]
    workers: int
    eligible: int
    by_type: list[dict[str, str | int]]
    by_host: list[dict[str, str | int | float]]
    by_worker: list[dict[str, str | int]]


class Sample(TypedDict):
    name: str
    labels: dict[str, str]
    value: float


class Family(TypedDict):
    type: str
    help: str
    samples: list[Sample]


Versions = TypedDict(
    "Versions", {"llambo9p": str, "llama-cpp-python": str, "protocol": str, "cluster": str}
)
SHAPES: dict[str, Any] = {
    "balancer": Totals,
    "config": dict[Literal["cluster"], dict[str, Any]],
    "fuse yes --n 2": Fused,
    "health": Health,
    "infer hello": Answer,
    "ls": list[dict[str, Any]],
    "metrics": dict[str, Family],
    "models": list[dict[str, str | list[str]]],
    "nodes list": list[Node],
    "nodes show worker-0000": list[Node],
    "status": dict[str, str | int],
    "version": Versions,
}


@pytest.mark.parametrize("line", SHAPES)
def test_json_has_its_shape(cluster: Cluster, line: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(SHAPES[line])
    assert adapter.validate_json(out(cluster, f"{line} --json"), strict=True)


def test_colours_are_for_terminals_that_want_them(cluster: Cluster) -> None:
    code, screen = Terminal("health", **cluster.env).finish()
    assert code == 0 and "\x1b[32m✓\x1b[0m Orchestrator:    HEALTHY\r\n".encode() in screen
    code, screen = Terminal("health", NO_COLOR="1", **cluster.env).finish()
    assert code == 0 and "✓ Orchestrator:    HEALTHY\r\n".encode() in screen
    assert b"\x1b" not in screen
    assert b"\x1b" not in cluster.run("ls").stdout


def test_a_narrow_terminal_shows_what_fits_and_no_half_numbers(cluster: Cluster) -> None:
    env = {**cluster.env, "COLUMNS": "60", "NO_COLOR": "1"}
    for line in ("nodes list", "models", "metrics"):
        _, screen = Terminal(*line.split(), **env).finish()
        for row in screen.decode().splitlines():
            assert len(row) <= 60 and not re.search(r"\d…", row), row
    _, screen = Terminal("nodes", "list", **env).finish()
    header, first, *_ = screen.decode().splitlines()
    assert header.split() == ["ID", "TYPE", "STATE", "HEALTH", "LOAD", "QUEUED", "CAPACITY"]
    assert first.split() == ["worker-0000", "tiny", "idle", "healthy", "0", "0", "16"]


def test_on_a_terminal_too_explain_prints_only_lines(cluster: Cluster) -> None:
    code, screen = Terminal("--explain", "spawn", **cluster.env).finish()
    assert (code, screen) == (0, b"ls nodes\r\necho spawn >ctl\r\nls nodes\r\n")


@pytest.mark.parametrize(
    "line",
    [
        "balancer --strategy", "balancer nonsense", "checkpoint", "completion", "completion csh",
        "config --shwo", "events --since 1", "health now", "load worker-0000",
        "metrics --export xml", "metrics --json --export prometheus", "nodes drain", "nodes show",
        "nodes sleep worker-0000", "scale", "scale many", "scale -- -1", "version --short",
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_2_and_says_what_is_right(line: str) -> None:
    done = CliRunner().invoke(cli, line.split(), env={"LLAMBO_ADDR": "tcp!127.0.0.1!1"})
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Error: " in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "balancer", "balancer --strategy random", "cat out", "checkpoint --save x", "events -f",
        "fuse yes", "health", "infer hello", "load a b", "ls", "metrics", "models", "nodes kill a",
        "nodes list", "scale 1", "shutdown", "spawn", "status", "write prompt x",
    ],
)  # fmt: skip
def test_without_a_cluster_it_says_how_to_get_one(line: str, tmp_path: Path) -> None:
    env = {"LLAMBO_STATE": str(tmp_path / "none"), "LLAMBO_ADDR": ""}
    done = CliRunner().invoke(cli, shlex.split(line), env=env)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: no cluster is known: ")
    assert "llamboctl init" in done.stderr


def offered(cluster: Cluster, line: str) -> list[str]:
    """What a shell is given to complete the last word."""
    *args, incomplete = line.split(" ")[1:]
    shell = ShellComplete(cli, {}, "llamboctl", "_LLAMBOCTL_COMPLETE")
    with CliRunner().isolation(env={"LLAMBO_ADDR": "", **cluster.env}):
        return [item.value for item in shell.get_completions(args, incomplete)]


def test_what_the_live_tree_has_is_completed(cluster: Cluster, tmp_path: Path) -> None:
    workers = ["worker-0000", "worker-0001", "worker-0002"]
    for line, words in {
        "llamboctl ch": ["checkpoint"],
        "llamboctl nodes show w": workers,
        "llamboctl nodes drain worker-0001 ": [workers[0], workers[2]],
        "llamboctl load ": workers,
        "llamboctl load worker-0000 d": ["default"],
        "llamboctl spawn --type ": ["tiny", "broken"],
        "llamboctl scale 2 b": ["broken"],
        "llamboctl balancer --strategy r": ["round-robin", "random"],
        "llamboctl cat worker-0001/us": ["worker-0001/usage"],
        "llamboctl write worker-": [f"{name}/" for name in workers],
        # or a shell would begin the next word
        "llamboctl ls nod": ["nodes/", *(f"nodes/{name}" for name in workers)],
        "llamboctl ls --addr tcp!127.0.0.1!1 nod": [],
        "llamboctl --addr nonsense ls nod": [],
        "llamboctl ls no/such/": [],
    }.items():
        assert offered(cluster, line) == words, line
    nowhere = Cluster(tmp_path)
    for line in ("llamboctl nodes show ", "llamboctl spawn --type ", "llamboctl cat wor"):
        assert offered(nowhere, line) == []


def test_bash_completes_by_the_script(cluster: Cluster) -> None:
    path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    script = (
        'eval "$(llamboctl completion bash)"\n'
        "COMP_WORDS=(llamboctl nodes show w) COMP_CWORD=3; _llamboctl_completion llamboctl\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True,
        env=environment(**cluster.env, PATH=path),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "worker-0000 worker-0001 worker-0002\n"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_scripts_too(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell], prog_name="llamboctl")
    assert done.exit_code == 0 and f"_LLAMBOCTL_COMPLETE={shell}_complete" in done.stdout
