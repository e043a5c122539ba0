"""README.md is true: every command in it runs, and what it shows is what is shown.

Owns the reading of README: its ``` blocks, by language.  `sh` blocks run as they stand
under `bash -e`, in an environment where `$PATH` has the programs and the cluster of
`init` listens on a free port; `python` blocks run too, beside a cluster where they speak 9P.
A `console` block is a session: each line after `$ ` is a command, and what it says must be
what is shown below it, but for answers of the model, and what is said on terminals only; of what
tells of a moment the numbers, paths and states are not compared.  A cluster with two workers runs
where the session starts none.  A `yaml` block is the file that its first line names.  (Sessions
whose prompt is `# ` or `llambo> ` have tests of their own.)
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from llambo9p_tools import llamboctl

from llambo9p.cluster import config as configuration

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PORTS = ("5640", "5641", "5642", "9000", "9001", "9090")
"""the ports that README names; each becomes a free one"""
BENCHES = {
    "throughput": ("--rounds 1 --tokens 4 --clients 1", "files/bare"),
    "structured": ("--rounds 1 --tokens 4 --clients 2", "costly"),
    "latency": (
        "--rounds 1 --clients 2 --tokens 4 --prompt 12 --long 120 --running 400", "root"
    ),
    "prefix": ("--rounds 1 --clients 2 --prefix 60 --tokens 4", "cached"),
    "workers": ("--rounds 1 --workers 4 --clients 2 --idle 0.1", "workers spawned"),
    "cluster": ("--rounds 1 --prompts 3 --rate 50 --slowness 1,1", "round-robin"),
    "simulated": ("--workers 12 --hosts 2 --repeat 1 --idle 0.1 --decisions 10", "nodes list"),
    "nested": (
        "--rounds 1 --regions 2 --workers 2 --prompts 4 --tokens 12 --clients 2",
        "nested / one level",
    ),
    "fairness": (
        "--rounds 1 --requests 3 --slots 2 --tokens 2 --cases alone,behind", "behind"
    ),
    "restart": ("--rounds 1 --workers 4 --hosts 2", "all healthy"),
    "decode": ("--rounds 1 --tokens 4 --sequences 1", "unified/bare"),
    "fusion": ("--questions 1 --n 2 --max-tokens 4", "majority-vote"),
    "fuzz": ("--minutes 0.1", "coverage"),
    "p9ops": (
        "--rounds 1 --seconds 0.05 --ops read --depths 1 --connections 1", "diod"
    ),
}  # fmt: skip
"""a bench -> what is appended to its command, as only that it runs is of interest, and what it
says"""
FIRST = ("throughput", "structured", "p9ops")
"""the benches that run in the first tier"""
THIS = "tools/test"
"""what runs this test"""
OURS = re.compile(r"> .*|What was done.*|  ctl .*|  worker-0000/.*|[a-z]+|worker-\d+")
"""lines of the first session that depend on neither model nor moment"""
ANSWER = re.compile(r"\b(out|ask)$|cat <&3|infer|fuse |limbot|quickstart|spawn --count")
"""commands of a session whose output is the model's, or is for terminals"""
MOMENT = re.compile(
    r"usage|nodes list|votes|metrics\.legacy|conversation/|registry/index|decisions"
)
"""those that tell of the moment, by `timeless`"""
MASKS = {
    r"\b(tcp|tls|unix)!\S+": "ADDR",
    r"\b(idle|queued|prefill|decode)\b": "STATE",
    r"\b(yes|no)\b": "VOTE",
    r"\bworker-\d+": "WORKER",
    r"\d+(\.\d+)?": "N",
    r"[ -]{2,}": " ",
}
"""what differs from one moment to another -> what stands for it"""
END_JOBS = "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"
NEEDS_FUSE = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="/dev/fuse cannot be opened here"
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [block for tag, block in fenced if tag == language]


SESSIONS = [block for block in blocks("console")[1:] if block.startswith("$ ")]


def timeless(text: str) -> str:
    for pattern, word in MASKS.items():
        text = re.sub(pattern, word, text)
    return text


def heading(block: str) -> str:
    """What a block stands below."""
    return re.findall(r"^##+ (.*)$", README[: README.index(block)], re.MULTILINE)[-1]


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Shell:
    """bash as a newcomer's who stands in the checkout with `.venv/bin` in $PATH."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = {port: str(free_port()) for port in PORTS}
        scripts = sysconfig.get_path("scripts")
        config = directory / "cluster-config.yaml"
        config.write_text(self.own((ROOT / "cluster-config.yaml").read_text()))
        for text in blocks("yaml"):
            (directory / text.split()[1]).write_text(self.own(text))
        own = {"LLAMBO_ADDR", "LLAMBO_CERT", "LLAMBO_CA"}
        self.env = {
            **{name: value for name, value in os.environ.items() if name not in own},
            "PATH": f"{scripts}:{os.environ['PATH']}",
            "LLAMBO_VENV": sys.prefix,
            "LLAMBO_STATE": str(directory / "state"),
            "CLUSTER_CONFIG": str(config),
        }

    def own(self, text: str) -> str:
        """`text` with our ports and paths in the place of README's."""
        for port, ours in self.ports.items():
            text = re.sub(rf"\b{port}\b", ours, text)
        text = text.replace("/n/llambo", f"{self.directory}/n")
        text = text.replace("/tmp/llambo-cluster.state", f"{self.directory}/state")
        return text.replace("/srv/llambo/socket", f"{self.directory}/socket")

    def session(self, commands: list[str]) -> list[str]:
        """What each of the commands of one shell says."""
        marked = [
            f"printf '\\036'\n{self.own(command)}" for command in commands
        ]
        done = subprocess.run(
            ["bash", "-c", "\n".join(["exec 2>&1", END_JOBS, *marked])],
            cwd=self.directory, env=self.env, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        said = [re.sub(r"bash: line \d+: ", "bash: ", part) for part in done.stdout.split("\036")]
        return said[1:]

    def __call__(self, script: str, status: int = 0) -> str:
        """Run it; what it said.  Its background jobs end with it."""
        script = f"{END_JOBS}\n{self.own(script)}"
        done = subprocess.run(
            ["bash", "-ec", script], cwd=ROOT, env=self.env, capture_output=True, text=True
        )
        assert done.returncode == status, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    yield made
    if (tmp_path / "state").exists():
        made("llamboctl shutdown")


SAID = {
    "tools/quickstart": ["A cluster serves 9P at tcp!", "> What is a file?", "What was done"],
    "limbot": ['"text": "', '"finish_reason": "', "completion_tokens "],
    "llamboctl dish": ["worker-0000: ", "worker-0001: "],
    "tools/deploy.sh check": ["Python ", "C++ compiler", "node type large", "open files"],
    "llamboctl top": ["WORKER ", "worker-0001 ", '"workers": [', "orchestrator ", "host-0000 "],
}  # fmt: skip
"""blocks by their beginnings -> what their commands say, one after the other; the rest is the
model's, or the machine's"""


BENCH = "python -m llambo9p_tools.bench."
COMMANDS = [block for block in blocks("sh") if not block.startswith(BENCH)]


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.splitlines()[0])
def test_commands_say_what_they_are_for(shell: Shell, block: str) -> None:
    [wanted] = [words for begin, words in SAID.items() if block.startswith(begin)]
    commands = [line for line in block.splitlines() if line != THIS]
    if "llamboctl" in block and "llamboctl init" not in block:
        commands = ["llamboctl init", "llamboctl spawn --count 2", *commands]
    said = shell("\n".join(commands))
    assert [words for words in wanted if words not in said] == [], said


def benches() -> dict[str, str]:
    """By their names, as README has them."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    found = [line for line in lines if line.startswith(BENCH)]
    return {line.removeprefix(BENCH).split()[0]: line for line in found}


@pytest.mark.parametrize(
    "name",
    [
        name if name in FIRST else pytest.param(name, marks=pytest.mark.second_tier)
        for name in BENCHES
    ],
)
def test_a_bench_runs(shell: Shell, name: str) -> None:
    options, says = BENCHES[name]
    said = shell(f"{benches()[name]} {options}")
    assert says in said, said


def test_every_bench_is_run() -> None:
    assert set(benches()) == set(BENCHES)


def test_the_session_is_one(shell: Shell) -> None:
    """The same commands say the same, but for answers, addresses and times."""
    session = blocks("console")[0]
    said = shell("\n".join(re.findall(r"^\$ (.*)", session, re.MULTILINE)))
    shown = [line for line in session.splitlines() if OURS.fullmatch(line)]
    assert len(shown) > 10
    for line in shown:
        assert line in said.splitlines(), f"README shows {line!r}, but what came is\n{said}"


@pytest.mark.parametrize(
    "session",
    [
        pytest.param(
            session, id=heading(session), marks=[NEEDS_FUSE] if "mount /n" in session else []
        )
        for session in SESSIONS
    ],
)
def test_every_command_of_a_session_says_what_is_shown(shell: Shell, session: str) -> None:
    if "llamboctl init" not in session:
        shell("llamboctl init\nllamboctl spawn --count 2")
    shown = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    commands = [command for command, _ in shown]
    said = shell.session(commands)
    assert len(said) == len(shown)
    for (command, output), came in zip(shown, said, strict=True):
        if ANSWER.search(command):
            assert bool(came.strip()) == bool(output.strip()), f"{command}: {came!r}"
        elif MOMENT.search(command):
            assert timeless(came) == timeless(output), f"{command}: {came}"
        else:
            assert came == shell.own(output), f"{command}: {said}"


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_python_code_runs(shell: Shell, code: str) -> None:
    if "py9p" in code:
        shell("llamboctl init\nllamboctl spawn --count 1")
    done = subprocess.run(
        [sys.executable, "-c", shell.own(code)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert bool(done.stdout.strip()) == ("print" in code)


def test_a_mistake_in_the_configuration_is_told_as_shown(shell: Shell, tmp_path: Path) -> None:
    [shown] = [block for block in blocks("") if block.startswith("bad.yaml:")]
    (tmp_path / "bad.yaml").write_text("cluster:\n  load_balancer:\n    strategy: fastest\n")
    said = shell(f"cd {tmp_path}; llamboctl init --config bad.yaml", status=1)
    assert said == f"llamboctl: {tmp_path}/{shown}"


def test_the_settings_of_monitoring_are_a_configuration() -> None:
    [shown] = [block for block in blocks("") if "  monitoring:\n" in block]
    monitoring = configuration.parse(shown, "README").monitoring
    assert monitoring.model_fields_set == set(type(monitoring).model_fields), "all are shown"


def test_the_hosts_to_deploy_to_are_a_configuration() -> None:
    [shown] = [block for block in blocks("") if "  deploy:\n" in block]
    deploy = configuration.parse(shown, "README").deploy
    assert [host.type for host in deploy.hosts.values()] == ["tiny", None]


def test_prometheus_is_told_where_metrics_are() -> None:
    three, prometheus = (
        next(block for block in blocks("yaml") if block.startswith(f"# {name}.y"))
        for name in ("three", "prometheus")
    )
    port = configuration.parse(three, "README").monitoring.export_port
    [job] = yaml.safe_load(prometheus)["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]


def test_every_section_of_the_contents_exists() -> None:
    titles = re.findall(r"^##+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w\s-]", "", title.lower()).replace(" ", "-") for title in titles}
    linked = set(re.findall(r"\]\(#([\w-]+)\)", README))
    assert linked and linked <= anchors


def test_every_command_that_is_mentioned_exists() -> None:
    mentioned = set(re.findall(r"`llamboctl ([a-z]+)", README))
    mentioned |= set(re.findall(r"^\$ llamboctl ([a-z]+)", README, re.MULTILINE))
    known = set(llamboctl.cli.list_commands(click.Context(llamboctl.cli)))
    assert "infer" in mentioned and mentioned <= known


def test_the_namespace_is_as_listed(shell: Shell) -> None:
    """Every name of the listing exists, and no file of a conversation lacks."""
    shell("llamboctl init\nllamboctl spawn --count 1")
    listing = section("The namespace").split("```")[1]
    for place in ("", "worker-0000"):
        names = set(shell(f"llamboctl ls {place}").split())
        assert {"ctl", "prompt", "out", "data", "clone"} <= names
        for name in names - {"worker-0000"}:
            assert re.search(rf"\b{name}\b", listing), f"README does not list {place}/{name}"
