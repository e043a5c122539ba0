"""`llamboctl --explain` is true: its lines, run by sh where the tree is mounted, print and do
what the command prints and does.

Every command of llamboctl is in one of the tables here; those that are not made of files say
so.  The commands run in this process, the cluster and the mount do not.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from llambo9p_tools.llamboctl import cli
from llambo9p_tools.remote import Remote

from llambo9p.net.address import Address, parse

from .cluster import listening
from .mounts import Mount, mounted, needs_fuse

pytestmark = needs_fuse

CONFIG = """
cluster:
  nodes:
    tiny: {resources: {model: simulated, memory: 16MB}}
    spare: {resources: {model: simulated, memory: 16MB}}
"""

PRINTED = [
    "status",
    "config",
    "cat status balancer",
    "infer 'who is there?'",
    "infer 'who is there?' --max-tokens 5 --seed 7 --system 'Be brief.'",
    "fuse yes --n 2 --strategy best-of-n",
]
"""print what the lines print"""

LISTED = {
    "nodes show worker-0001 worker-0002": "nodes show worker-0001 worker-0002 --json",
    "models": "models --json",
    "health": "health --json",
    "balancer": "balancer --json",
    "balancer stats": "balancer stats --json",
}
"""show tables, of which every attribute is in a line"""

CHANGING = {
    "spawn --count 1 --type spare": "scale 1 spare",
    "scale 2 spare": "scale 1 spare",
    "nodes drain worker-0001 worker-0002": "nodes resume worker-0001 worker-0002",
    "nodes kill worker-0002": "spawn --count 1 --type tiny",
    "load worker-0002 default": "load worker-0002 simulated",
    "balancer --strategy random": "balancer --strategy least-loaded",
    "write worker-0001/ctl 'max_tokens 7'": "write worker-0001/ctl 'max_tokens 256'",
}
"""change something, and how it is changed back"""

CHANGING_BACK = {
    "nodes resume worker-0001": "nodes drain worker-0001",
}
"""the other way round"""

BEYOND = [
    "init", "mount", "unmount", "trace unix!/nowhere", "cert ca", "cert server localhost",
    "cert user alice", "completion bash", "config --validate", "config --edit",
    "config --show FILE", "checkpoint --show", "dish",
]  # fmt: skip
"""what is no file of the tree"""

ELSEWHERE = [
    "ls", "events", "limbot", "logs", "metrics", "nodes list", "top", "version", "checkpoint",
    "shutdown",
]  # fmt: skip
"""with a test of their own"""

VOLATILE = ("heartbeat", "requests", "active", "load", "state")


@dataclass
class Place:
    address: Address
    mount: Mount

    def command(self, line: str) -> str:
        """What llamboctl prints."""
        done = CliRunner().invoke(cli, ["--addr", str(self.address), *shlex.split(line)])
        assert (done.exit_code, done.stderr) == (0, ""), done
        return done.stdout

    def sh(self, line: str) -> str:
        """What the lines print that explain it."""
        done = self.run(line)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.script(line), capture_output=True, text=True)

    def script(self, line: str) -> list[str]:
        return ["sh", "-c", f'cd "$0" || exit\n{explained(line)}', str(self.mount.path)]

    def looks(self) -> dict[str, Any]:
        """What the commands change."""
        with Remote(self.address) as tree:
            nodes = [dict(line.split(" ", 1) for line in text.splitlines())
                     for text in tree.texts("nodes")]  # fmt: skip
            return {
                "nodes": {n["id"]: (n["type"], n["model"], n["state"]) for n in nodes},
                "strategy": tree.text("balancer").splitlines()[0],
                "ctl": tree.text("worker-0001/ctl"),
            }


def explained(line: str) -> str:
    done = CliRunner().invoke(cli, ["--explain", *shlex.split(line)])
    assert done.exit_code == 0, done
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("explained")
    (directory / "config.yaml").write_text(CONFIG)
    with listening(directory, directory / "config.yaml", "tcp!127.0.0.1!0") as (address,):
        with mounted(directory / "n", address) as mount:
            place = Place(address, mount)
            place.command("spawn --count 1 --type spare")
            place.command("spawn --count 2 --type tiny")
            yield place


def still(text: str) -> list[str]:
    """The lines that are the same a moment later."""
    return [line for line in text.splitlines() if not line.startswith(VOLATILE)]


@pytest.mark.parametrize("line", PRINTED)
def test_it_prints_the_same(place: Place, line: str) -> None:
    assert still(place.sh(line)) == still(place.command(line)) != []


@pytest.mark.parametrize("line", LISTED)
def test_all_that_a_table_shows_is_in_the_files(place: Place, line: str) -> None:
    files = still(place.sh(line))
    shown = [word for word in said(json.loads(place.command(LISTED[line])))]
    assert len(shown) > 4
    for attribute in still("\n".join(shown)):
        assert any(attribute in file for file in files), attribute


def said(value: Any) -> Iterator[str]:
    """`attr value` of all the attributes in it."""
    if isinstance(value, list):
        for each in value:
            yield from said(each)
        return
    for name, what in value.items():
        if isinstance(what, dict):
            yield from (f"{name} {line}" for line in said(what))
        elif isinstance(what, list) and isinstance(what[0], dict):
            yield from said(what)
        else:
            yield f"{name} {' '.join(what) if isinstance(what, list) else what}"


@pytest.mark.parametrize("line", [*CHANGING, *CHANGING_BACK])
def test_it_does_the_same(place: Place, line: str) -> None:
    back = CHANGING.get(line) or CHANGING_BACK[line]
    if line in CHANGING_BACK:
        place.command(back)
    before = place.looks()
    place.command(line)
    after = place.looks()
    assert after != before
    place.command(back)
    assert place.looks() == before
    place.sh(line)
    assert place.looks() == after
    if line in CHANGING:
        place.command(back)


def test_ls_and_writing_a_prompt(place: Place) -> None:
    for line in ("ls", "ls nodes"):
        assert sorted(place.sh(line).split()) == sorted(place.command(line).split())
    place.sh("write worker-0001/prompt 'by a shell'")
    assert place.command("cat worker-0001/out") == "simulated: by a shell"


def test_events_come_as_the_file_has_them(place: Place) -> None:
    shown = place.command("events --json").splitlines()
    before = len(place.command("status").splitlines())
    assert len(shown) > 3
    with subprocess.Popen(place.script("events"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().rstrip() for _ in range(before + len(shown))]
        process.kill()
        # sh has ended, its cat waits for the next event
        place.command("balancer --strategy least-loaded")
    assert lines[before:] == shown


def test_metrics_have_the_same_names(place: Place) -> None:
    def names(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("# ")]

    line = "metrics --export prometheus"
    assert names(place.sh(line)) == names(place.command(line)) != []
    for line in ("metrics --export json", "metrics --json"):
        assert json.loads(place.sh(line)).keys() == json.loads(place.command(line)).keys()
    in_files = place.sh("metrics")
    for row in place.command("metrics").splitlines()[1:]:
        assert f'"{row.split()[0]}' in in_files


def test_nodes_list_is_the_lines_of_a_file(place: Place) -> None:
    lines = place.sh("nodes list").splitlines()
    nodes = json.loads(place.command("nodes list --json"))
    assert len(nodes) == len(lines) > 1
    for node, line in zip(nodes, lines, strict=True):
        for name in node.keys() - set(VOLATILE):
            assert str(node[name]) in line.split(), name


def test_logs(place: Place) -> None:
    names = [log["name"] for log in json.loads(place.command("logs --json"))]
    assert "orchestrator" in names
    assert set(place.sh("logs").split()) >= set(names)
    host = next(name for name in names if name != "orchestrator")
    assert place.sh(f"logs {host}") == place.command(f"logs {host}") != ""


def test_limbot_reads_the_usage_too(place: Place) -> None:
    line = "limbot 'who is there?'"
    assert place.sh(line).startswith(place.command(line).rstrip("\n") + "prompt_tokens ")


def test_the_cluster_s_version(place: Place) -> None:
    assert f"version {json.loads(place.command('version --json'))['cluster']}\n" in place.sh(
        "version"
    )


def test_a_checkpoint(place: Place, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    place.command(f"checkpoint --save {one}")
    place.sh(f"checkpoint --save {two}")
    assert one.read_bytes() == two.read_bytes()
    before = place.looks()
    for restore in (place.command, place.sh):
        place.command("scale 0 spare")
        assert place.looks() != before
        restore(f"checkpoint --restore {one}")
        assert place.looks() == before


def test_shutdown(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llambo9p_nodes.orchestrator", "--state", tmp_path / "state"]
    with subprocess.Popen(
        [*command, "--listen", "tcp!127.0.0.1!0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = parse(process.stdout.readline().removeprefix("listening "))
        with mounted(tmp_path / "n", address) as mount:
            Place(address, mount).run("shutdown")  # it may be gone before it answers
            assert process.wait() == 0


@pytest.mark.parametrize("line", BEYOND)
def test_what_is_not_made_of_files_says_so(line: str) -> None:
    assert explained(line).startswith("# ")


def leaves(command: click.Command, name: str = "") -> Iterator[str]:
    """The commands that are no mere groups."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield name
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for each in command.list_commands(ctx):
            below = command.get_command(ctx, each)
            assert below is not None
            yield from leaves(below, f"{name} {each}".strip())


def test_every_command_is_in_one_of_the_tables() -> None:
    tables = [*PRINTED, *LISTED, *CHANGING, *CHANGING_BACK, *BEYOND, *ELSEWHERE]
    for name in leaves(cli):
        assert any(f"{line} ".startswith(f"{name} ") for line in tables), name
