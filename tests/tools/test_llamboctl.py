"""Every command against a scripted tree: what it prints, what it says when it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from llambo9p_tools.commands import nodes
from llambo9p_tools.workers import parse

from llambo9p.conversation.said import HIDDEN

from .cluster import COMMAND, LINE, ScriptedCluster, Terminal, environment, llamboctl


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedCluster]:
    scripted = ScriptedCluster()
    yield scripted
    scripted.close()


def out(cluster: ScriptedCluster, *args: str, stdin: bytes = b"") -> bytes:
    done = llamboctl(*args, stdin=stdin, LLAMBO_ADDR=cluster.address)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def error(cluster: ScriptedCluster, *args: str, stdin: bytes = b"") -> str:
    done = llamboctl(*args, stdin=stdin, LLAMBO_ADDR=cluster.address)
    assert (done.returncode, done.stdout) == (1, b"")
    [line] = done.stderr.decode().splitlines()
    return line


def test_status_is_the_file_itself_or_json(cluster):
    assert out(cluster, "status") == b"workers 1\nstrategy random\n"
    assert json.loads(out(cluster, "status", "--json")) == {"workers": 1, "strategy": "random"}


def test_the_address_may_stand_before_or_after_the_command(cluster):
    for args in (("--addr", cluster.address, "status"), ("status", "--addr", cluster.address)):
        done = llamboctl(*args, LLAMBO_ADDR="tcp!127.0.0.1!1")
        assert done.stdout == b"workers 1\nstrategy random\n"


def test_nodes_list(cluster):
    header, line = out(cluster, "nodes", "list").decode().splitlines()
    assert header.split()[:3] == ["ID", "TYPE", "STATE"]
    assert line.split()[:3] == ["worker-0000", "tiny", "idle"]
    assert line.split()[-2:] == ["where.gguf", "tcp!127.0.0.1!9000"]
    [node] = json.loads(out(cluster, "nodes", "list", "--json"))
    assert node["model"] == "/models/some/where.gguf" and node["epoch"] == 1


def test_ls(cluster):
    names = out(cluster, "ls").decode().splitlines()
    assert names == [
        "ctl", "status", "nodes", "workers", "prompt", "out", "events", "data", "two words", "long"
    ]  # fmt: skip
    assert out(cluster, "ls", "nodes") == b"worker-0000\n"
    assert out(cluster, "ls", "nodes/worker-0000") == b"worker-0000\n"
    [line] = out(cluster, "ls", "-l", "/nodes/").decode().splitlines()
    assert line.startswith("-r--r--r-- glenda") and line.endswith(" worker-0000")
    found = {entry["name"]: entry for entry in json.loads(out(cluster, "ls", "--json"))}
    assert found["nodes"]["type"] == "directory" and found["status"]["mode"] == "0444"


def test_ls_of_more_than_one_message(cluster):
    for number in range(1, 2000):
        cluster.do(cluster.add_node, number)
    assert len(out(cluster, "ls", "nodes").splitlines()) == 2000


def test_cat(cluster):
    assert out(cluster, "cat", "two words", "status").startswith(b"found\nworkers 1\n")
    assert out(cluster, "cat", "long") == b"0123456789" * 30_000


def test_cat_shows_each_piece_as_it_comes(cluster):
    cluster.do(cluster.stream.append, b"first")
    process = subprocess.Popen(
        [*COMMAND, "cat", "out"],
        stdout=subprocess.PIPE,
        env=environment(LLAMBO_ADDR=cluster.address),
    )
    with process:
        assert process.stdout is not None
        fd = process.stdout.fileno()
        assert os.read(fd, 100) == b"first"
        cluster.do(cluster.stream.append, "é".encode()[:1])
        assert os.read(fd, 100) == "é".encode()[:1]
        cluster.do(cluster.stream.finish)
        assert os.read(fd, 100) == b""
    assert process.returncode == 0


def test_cat_ends_the_line_of_each_file_on_a_terminal(cluster):
    files = ["two words", "long", "two words"]
    code, screen = Terminal("cat", *files, LLAMBO_ADDR=cluster.address).finish()
    assert (code, screen) == (0, b"found\r\n" + b"0123456789" * 30_000 + b"\r\nfound\r\n")


def test_cat_tells_why_a_read_failed(cluster):
    from llambo9p.errors import WorkerLost

    cluster.do(cluster.stream.fail, WorkerLost())
    assert error(cluster, "cat", "out") == "llamboctl: out: worker is lost"


def test_an_interrupt_ends_it_without_a_word(cluster):
    cluster.do(cluster.stream.append, b"begun")
    process = subprocess.Popen(
        # a shell's background job, and so its tests, would ignore SIGINT
        ["env", "--default-signal=INT", *COMMAND, "cat", "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(LLAMBO_ADDR=cluster.address),
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        assert os.read(process.stdout.fileno(), 100) == b"begun"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().strip() == b""
    assert process.returncode == 130


def test_a_reader_that_leaves_is_no_error(cluster):
    command = " ".join(COMMAND) + " cat long | head -c 5"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        env=environment(LLAMBO_ADDR=cluster.address),
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, b"01234", b"")


def test_write_takes_the_text_exactly_or_standard_input(cluster):
    out(cluster, "write", "prompt", "one line")
    big = os.urandom(200_000)
    out(cluster, "write", "prompt", stdin=big)
    assert cluster.prompt.submitted == [b"one line", big]


def test_write_tells_what_a_close_refuses(cluster):
    said = error(cluster, "write", "prompt", "too much")
    assert said == "llamboctl: prompt: Device or resource busy"


def test_infer_streams_from_one_fid(cluster):
    assert out(cluster, "infer", "hello") == b"You said: hello"
    assert out(cluster, "infer", stdin=b"from a pipe\n") == b"You said: from a pipe\n"


def test_infer_ends_the_line_on_a_terminal(cluster):
    code, screen = Terminal("infer", "hello", LLAMBO_ADDR=cluster.address).finish()
    assert (code, screen) == (0, b"You said: hello\r\n")


def test_spawn_in_a_pipe_says_nothing(cluster):
    cluster.do(cluster.may_spawn.set)
    assert out(cluster, "spawn", "--count", "2", "--type", "tiny") == b""
    assert out(cluster, "ls", "nodes").split() == [b"worker-0000", b"worker-0001", b"worker-0002"]


def test_spawn_in_a_terminal_shows_how_far_a_model_is(cluster):
    terminal = Terminal("spawn", "--count", "2", LLAMBO_ADDR=cluster.address)
    terminal.wait_for(b"loading the model of worker-0001")
    terminal.wait_for(b" 40%")
    cluster.do(cluster.may_spawn.set)
    code, screen = terminal.finish()
    assert code == 0
    assert b"2 workers answer: worker-0001 to worker-0002\r\n" in screen


def test_spawn_tells_the_cluster_s_own_words(cluster):
    said = error(cluster, "spawn", "--type", "huge")
    assert said == "llamboctl: ctl: no node type 'huge'; types are tiny"


def test_what_does_not_exist_is_named(cluster):
    for command in (["cat"], ["ls"], ["write"]):
        said = error(cluster, *command, "worker-0009/out")
        assert said == "llamboctl: worker-0009/out: file does not exist"


def test_without_a_cluster_it_says_how_to_get_one(cluster, tmp_path):
    cases = {
        "no cluster is known": {"LLAMBO_STATE": str(tmp_path / "none")},
        "no cluster answers at tcp!127.0.0.1!1: ": {"LLAMBO_ADDR": "tcp!127.0.0.1!1"},
        "no cluster answers at unix!/nowhere: ": {"LLAMBO_ADDR": "unix!/nowhere"},
    }
    for words, env in cases.items():
        done = llamboctl("status", **env)
        assert (done.returncode, done.stdout) == (1, b"")
        [line] = done.stderr.decode().splitlines()
        assert line.startswith("llamboctl: " + words) and "llamboctl init" in line


@pytest.mark.parametrize(
    "line",
    [
        "spawn", "scale 2 tiny", "load worker-0000 default", "nodes drain worker-0000",
        "checkpoint --save x", "events --follow", "cat out", "infer wait",
    ],
)  # fmt: skip
def test_a_cluster_that_dies_meanwhile_is_told(cluster, line):
    process = subprocess.Popen(
        [*COMMAND, *line.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(LLAMBO_ADDR=cluster.address),
    )  # fmt: skip
    while not cluster.has_waiting():
        assert process.poll() is None
    cluster.die()
    said = process.communicate()
    assert (process.returncode, said[0]) == (1, b"")
    assert said[1].decode() == (
        f"llamboctl: the cluster at {cluster.address} closed the connection; "
        "`llamboctl status` shows whether it is still there\n"
    )


def test_a_bad_address_is_blamed_on_whoever_gave_it(cluster):
    done = llamboctl("status", "--addr", "tcp!localhost")
    assert done.returncode == 1
    assert done.stderr.startswith(b"llamboctl: --addr: bad address 'tcp!localhost': use tcp!HOST")


def test_a_wrong_command_line_is_2(cluster):
    for args in (["spwan"], ["spawn", "--count", "0"], ["cat"], ["infer", ""]):
        done = llamboctl(*args, LLAMBO_ADDR=cluster.address)
        assert done.returncode == 2 and b"Traceback" not in done.stderr


class TestStateFile:
    def status(self, path: Path) -> tuple[int, str]:
        done = llamboctl("status", LLAMBO_STATE=str(path))
        return done.returncode, done.stderr.decode()

    def test_it_gives_the_address(self, cluster, tmp_path):
        state = tmp_path / "state"
        state.write_text(json.dumps({"address": cluster.address, "pid": 1, "more": []}))
        assert self.status(state) == (0, "")

    def test_a_link_is_not_followed(self, cluster, tmp_path):
        (tmp_path / "real").write_text(json.dumps({"address": cluster.address}))
        (tmp_path / "state").symlink_to("real")
        code, said = self.status(tmp_path / "state")
        assert code == 1 and "symbolic link" in said

    def test_somebody_else_s_is_not_believed(self, cluster, tmp_path):
        state = tmp_path / "state"
        state.write_text(json.dumps({"address": cluster.address}))
        if os.geteuid() == 0:
            os.chown(state, 12345, -1)
            code, said = self.status(state)
            assert code == 1 and "belongs to uid 12345" in said

    def test_nor_is_a_fifo(self, tmp_path):
        os.mkfifo(tmp_path / "state")
        code, said = self.status(tmp_path / "state")
        assert code == 1 and "not a regular file" in said

    @pytest.mark.parametrize("text", ["", "[]", '{"address": 5}', '{"pid": 1}', "\xff"])
    def test_damage_is_told(self, tmp_path, text):
        state = tmp_path / "state"
        state.write_bytes(text.encode("latin-1"))
        code, said = self.status(state)
        assert code == 1 and said == (
            f"llamboctl: {state} is no state file of a cluster, or damaged: set $LLAMBO_STATE to a "
            "path of your own\n"
        )


def test_figures_that_a_user_is_not_told_are_left_out() -> None:
    line = LINE.replace(" idle 0 0 0 0 0 ", f" {HIDDEN} ")
    [worker] = parse(line)
    assert not worker.figures and (worker.health, worker.capacity) == ("healthy", 4)
    assert (worker.load, worker.tokens, worker.does) == (0, 0, "-")
    [told] = parse(LINE)
    assert told.figures and told.does == "idle"
    shown, hidden = nodes._cells(told), nodes._cells(worker)
    assert [cell for cell, other in zip(hidden, shown, strict=True) if cell != other] == ["-"] * 6
    assert not {"state", "tokens", "figures"} & nodes._as_dict(worker).keys()
    assert {"state", "tokens"} <= nodes._as_dict(told).keys()
