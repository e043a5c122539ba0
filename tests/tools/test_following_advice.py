"""What the main errors advise is done as it stands, and helps: real programs, with scripted
answers.

Each story runs a command that fails, takes what stands between backquotes in its error, runs
that as a user would, in a shell, and runs the first command again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cluster import Terminal, environment

pytestmark = pytest.mark.timeout(60)

CONFIG = """
cluster:
  load_balancer: {timeout: 500}
  network: {listen: tcp!127.0.0.1!0}
  nodes: {tiny: {count: 1, resources: {model: simulated, threads: 1}}}
"""


class User:
    """At a shell, with the programs in `$PATH`, and a cluster of one's own."""

    def __init__(self, directory: Path) -> None:
        (directory / "config.yaml").write_text(CONFIG)
        self.directory = directory
        programs = str(Path(sys.executable).parent)
        self.env = environment(
            LLAMBO_STATE=str(directory / "state"),
            CLUSTER_CONFIG=str(directory / "config.yaml"),
            HOME=str(directory),
            PATH=f"{programs}:{os.environ['PATH']}",
        )

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", line], capture_output=True, text=True, env=self.env, cwd=self.directory
        )

    def does(self, line: str) -> str:
        """What a command prints that works."""
        done = self.run(line)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout

    def fails(self, line: str) -> str:
        """What a command says that fails."""
        done = self.run(line)
        assert done.returncode != 0, f"{line}: {done.stdout}"
        return done.stderr

    def advised(self, line: str) -> list[str]:
        """Commands that a failing command advises."""
        said = self.fails(line)
        found = re.findall(r"`([^`]+)`", said)
        assert found, said
        return found

    def follows(self, line: str) -> None:
        """Do what a failing command advises first; then it works."""
        self.does(self.advised(line)[0])
        self.does(line)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    made = User(tmp_path)
    yield made
    made.run("llamboctl shutdown")


@pytest.fixture
def cluster(user: User) -> User:
    user.does("llamboctl init")
    return user


def test_where_there_is_no_cluster(user: User) -> None:
    user.follows("llamboctl status")


def test_where_a_cluster_has_crashed(cluster: User) -> None:
    os.kill(json.loads((cluster.directory / "state").read_text())["pid"], 9)
    cluster.follows("llamboctl status")


def test_where_a_cluster_runs_already(cluster: User) -> None:
    assert "or set $LLAMBO_STATE to another path" in cluster.fails("llamboctl init")
    again = f"LLAMBO_STATE={cluster.directory}/second llamboctl"
    cluster.does(f"{again} init")
    cluster.does(f"{again} shutdown")
    cluster.follows("llamboctl init")


def test_only_the_cluster_that_the_error_names_is_stopped(cluster: User, tmp_path: Path) -> None:
    """Not the one that the environment names."""
    (tmp_path / "other").mkdir()
    other = User(tmp_path / "other")
    address = other.does("llamboctl init").strip()
    cluster.env["LLAMBO_ADDR"] = address
    cluster.follows("llamboctl init")
    other.does("llamboctl status")
    other.does("llamboctl shutdown")
    del cluster.env["LLAMBO_ADDR"]


def test_where_nobody_can_answer(cluster: User) -> None:
    cluster.follows("llamboctl infer hello")
    cluster.does("llamboctl nodes drain worker-0000")
    said = cluster.advised("llamboctl infer hello")
    assert said == ["llamboctl nodes list"]
    assert "drain" in cluster.does(said[0])


def test_where_an_address_is_not_loopback(user: User) -> None:
    line = "llamboctl init --listen 'tcp!0.0.0.0!0'"
    assert "give --insecure if that is meant" in user.fails(line)
    user.does(f"{line} --insecure")


def test_where_a_certificate_is_missing(user: User) -> None:
    line = "llamboctl init --listen 'tls!localhost!0'"
    assert "set security.cert and security.ca" in user.fails(line)
    assert user.advised("llamboctl cert server localhost --name me") == ["llamboctl cert ca"]
    user.follows("llamboctl cert server localhost --name me")
    [cert] = user.directory.rglob("server-localhost.pem")
    [ca] = user.directory.rglob("ca.pem")
    security = f"  security: {{cert: {cert}, ca: {ca}}}\n"
    (user.directory / "config.yaml").write_text(CONFIG + security)
    assert user.advised(line) == ["llamboctl cert user NAME"]
    user.does("llamboctl cert user me")
    [mine] = user.directory.rglob("me.pem")
    user.env |= {"LLAMBO_CERT": str(mine), "LLAMBO_CA": str(ca)}
    user.does(line)


def test_what_shows_something_else(cluster: User) -> None:
    cluster.does("llamboctl spawn")
    [lists] = cluster.advised("llamboctl cat worker-0000")
    assert "prompt" in cluster.does(lists)
    [lists] = cluster.advised("llamboctl logs nobody")
    assert "host-0000" in cluster.does(lists)
    cluster.follows("llamboctl checkpoint --show friday")


def test_where_the_path_of_the_state_file_is_long(user: User) -> None:
    deep = user.directory / ("d" * 100)
    deep.mkdir()
    user.env["LLAMBO_STATE"] = str(deep / "state")
    user.does("llamboctl init")
    said = user.fails("llamboctl spawn")
    assert "set $LLAMBO_STATE to a shorter path, or network.hosts to tcp" in said
    user.does("llamboctl shutdown")
    (user.directory / "config.yaml").write_text(
        CONFIG.replace("network: {", "network: {hosts: tcp, ")
    )
    user.does("llamboctl init")
    user.does("llamboctl spawn")
    user.does("llamboctl shutdown")
    user.env["LLAMBO_STATE"] = str(user.directory / "state")


@pytest.mark.parametrize("damage", ["{", '{"address": 5}'])
def test_where_the_state_file_is_damaged(user: User, damage: str) -> None:
    (user.directory / "state").write_text(damage)
    (user.directory / "state").chmod(0o600)
    said = user.fails("llamboctl init")
    assert "set $LLAMBO_STATE to a path of your own" in said
    user.env["LLAMBO_STATE"] = str(user.directory / "another")
    user.does("llamboctl init")


def test_where_another_orchestrator_has_the_state_file(cluster: User) -> None:
    line = "llambo-orchestrator --exit-with-stdin"
    said = cluster.fails(f"true | {line}")
    assert "stop it, or set $LLAMBO_STATE to another path" in said
    cluster.does(f"true | LLAMBO_STATE={cluster.directory}/second {line}")


def test_dish_says_how_there_are_workers(cluster: User) -> None:
    said = Terminal("dish", "-c", "nodes", **cluster.env).finish()[1].decode()
    [command] = re.findall(r"`([^`]+)`", said)
    cluster.does(f"dish -c '{command}'")
    assert "worker-0000" in cluster.does("dish -c nodes")
