"""The tools where something is missing or strange: closed streams, full disks, a terminal that
knows no escape sequences, files that another system saved."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiers import either

from .chats import ScriptedCluster
from .cluster import COMMAND, environment, llamboctl
from .screen import Screen

COMMANDS = either(
    ("health", "nodes list", "infer hi", "limbot hi", "top", "dish -c ls", "--help"),
    (
        "status", "health", "nodes list", "events", "metrics", "models", "logs", "ls", "ls -l",
        "version", "config --show", "cat status", "infer hi", "fuse yes --n 1", "limbot hi", "top",
        "dish -c ls", "--help", "--explain infer hi", "completion bash", "balancer stats",
    ),
)  # fmt: skip
"""that print something, each in its way; with --all, all that do"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedCluster]:
    made = ScriptedCluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


def sh(cluster: ScriptedCluster, script: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """In bash, where `$llamboctl` is the program."""
    command = " ".join(map(shlex.quote, COMMAND))
    return subprocess.run(
        ["bash", "-c", script.replace("$llamboctl", command)],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
        env=environment(**cluster.env, **env),
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
class TestStreams:
    def test_what_cannot_be_printed_is_a_failure_in_one_line(
        self, cluster: ScriptedCluster, command: str
    ) -> None:
        trouble = {">&-": "Bad file descriptor", ">/dev/full": "No space left on device"}
        for where, why in trouble.items():
            done = sh(cluster, f"$llamboctl {command} {where}")
            assert (done.returncode, done.stdout) == (1, b"")
            [line] = done.stderr.decode().splitlines()
            assert line.startswith("llamboctl: ") and line.endswith(f"standard output: {why}")

    def test_without_input_and_errors_it_prints_the_same(
        self, cluster: ScriptedCluster, command: str
    ) -> None:
        done = sh(cluster, f"$llamboctl {command} <&- 2>&-")
        assert done.returncode == 0 and done.stdout
        assert sh(cluster, f"$llamboctl {command} <&- >&- 2>&-").returncode == 1

    def test_a_reader_that_leaves_is_no_trouble(
        self, cluster: ScriptedCluster, command: str
    ) -> None:
        done = sh(cluster, f"$llamboctl {command} | head -c 1")
        assert (len(done.stdout), done.stderr) == (1, b"")

    def test_a_terminal_that_knows_no_escape_sequences_gets_none(
        self, cluster: ScriptedCluster, command: str
    ) -> None:
        with Screen([*COMMAND, *command.split()], TERM="dumb", **cluster.env) as screen:
            assert screen.finish() == 0
        assert screen.seen and b"\x1b" not in screen.seen

    def test_an_encoding_that_lacks_a_character_loses_only_that(
        self, cluster: ScriptedCluster, command: str
    ) -> None:
        done = sh(cluster, f"$llamboctl {command}", PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_chat_on_a_terminal_that_knows_no_escape_sequences(
    cluster: ScriptedCluster, term: str
) -> None:
    with Screen([*COMMAND, "limbot"], TERM=term, **cluster.env) as screen:
        for line, answer in (("one", "'one' after 0"), ("/set max_tokens 3", "max_tokens"),
                             ("two", "[cut at max_tokens 3; /more goes on]")):  # fmt: skip
            screen.until(lambda text: text.rstrip().endswith("\n>"))
            screen.enter(line)
            screen.wait_for(answer)
        screen.until(lambda text: text.rstrip().endswith("\n>"))
        screen.enter("/exit")
        assert screen.finish() == 0
    assert b"\x1b" not in screen.seen


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_shell_on_a_terminal_that_knows_no_escape_sequences(
    cluster: ScriptedCluster, term: str
) -> None:
    with Screen([*COMMAND, "dish"], TERM=term, **cluster.env) as screen:
        for line, answer in (("ls nodes", "worker-0001"), ("cd nodes", "llambo/nodes>"),
                             ("nowhere", "no command 'nowhere'")):  # fmt: skip
            screen.enter(line)
            screen.wait_for(answer)
        screen.enter("exit")
        screen.finish()
    assert b"\x1b" not in screen.seen


class TestTextsOfOtherSystems:
    """With a byte order mark, and lines that end in CR LF."""

    SCRIPT = "\ufeffecho one\r\neach worker-* {\r\n  cat ctl | ! head -n1\r\n}\r\necho 'a\r\nb'\r\n"
    SAYS = b"one\nworker-0000: mode chat\nworker-0001: mode chat\na\nb\n"

    def test_a_dish_script(self, cluster: ScriptedCluster, tmp_path: Path) -> None:
        script = tmp_path / "script"
        script.write_bytes(self.SCRIPT.encode())
        for args, stdin in (((str(script),), b""), ((), self.SCRIPT.encode())):
            done = llamboctl("dish", *args, stdin=stdin, **cluster.env)
            assert (done.returncode, done.stdout, done.stderr) == (0, self.SAYS, b"")

    def test_its_errors_still_name_the_place(self, cluster: ScriptedCluster) -> None:
        done = llamboctl("dish", stdin="\ufeffecho one\r\nnowhere\r\n".encode(), **cluster.env)
        assert done.stderr.startswith(b"llamboctl: stdin:2:1: no command 'nowhere'")

    def test_what_is_piped_to_a_chat(self, cluster: ScriptedCluster, tmp_path: Path) -> None:
        said = tmp_path / "said"
        said.write_bytes('\ufeff{"role": "user", "content": "x"}\r\n'.encode())
        lines = f"\ufeffone\r\n/load {said}\r\ntwo\\\r\nthree\r\n".encode()
        done = llamboctl("limbot", "-i", stdin=lines, **cluster.env)
        assert (done.returncode, done.stdout) == (0, b"'one' after 0\n'three' after 2\n")

    def test_what_is_asked_about(self, cluster: ScriptedCluster, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_bytes("\ufefffile".encode())
        args = ("infer", "About", "--file", str(file))
        done = llamboctl("--explain", *args, stdin="\ufeffpiped".encode(), **cluster.env)
        assert b"'About\n\nfile\n\npiped'" in done.stdout

    def test_the_configuration(self, cluster: ScriptedCluster, tmp_path: Path) -> None:
        config = tmp_path / "config.yaml"
        config.write_bytes("\ufeffcluster:\r\n  nodes:\r\n    tiny: {count: 1}\r\n".encode())
        done = llamboctl("config", "--validate", str(config), **cluster.env)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("program", ["limbot", "dish"])
def test_a_relative_xdg_directory_is_ignored(
    cluster: ScriptedCluster, tmp_path: Path, program: str
) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    home.mkdir()
    env = {**cluster.env, "XDG_STATE_HOME": "relative", "HOME": str(home)}
    with Screen([*COMMAND, program], cwd=here, **env) as screen:
        screen.until(lambda text: text.rstrip().endswith(">"))
        screen.enter("/exit" if program == "limbot" else "exit")
        screen.finish()
    assert os.listdir(here) == []
    assert (home / ".local/state/llambo" / f"{program}_history").exists()
