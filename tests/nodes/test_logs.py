"""The log: its two forms, and a request that is found in both programs' by its id."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llambo9p_nodes import logs
from llambo9p_nodes.logs import JsonFormatter, TextFormatter

from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from tests.tools.cluster import llamboctl

CONFIG = """
cluster:
  nodes:
    tiny: {count: 1, resources: {model: simulated, memory: 16MB}}
  monitoring: {%s}
"""


class Cluster:
    """A real orchestrator, its log and a real host's."""

    def __init__(
        self, directory: Path, monitoring: str, listen: str = "tcp!127.0.0.1!0"
    ) -> None:
        self.directory = directory
        self.log = directory / "state.log"
        config = directory / "config.yaml"
        config.write_text(CONFIG % monitoring)
        self.env = {"LLAMBO_STATE": str(directory / "state"), "CLUSTER_CONFIG": str(config)}
        self.run("init", "--listen", listen)

    def logged(self, pattern: str, count: int) -> list[str]:
        """The lines with that in the logs of both, once there are as many."""
        while True:
            logs = [self.log, *self.directory.glob("state.hosts/*.log")]
            lines = [
                line
                for log in logs
                for line in log.read_text().splitlines()
                if re.search(pattern, line)
            ]
            if len(lines) >= count:
                return lines
            time.sleep(0.02)

    def run(self, *args: str) -> str:
        done = llamboctl(*args, **self.env)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[Any]:
    made: list[Cluster] = []

    def make(monitoring: str = "") -> Cluster:
        made.append(Cluster(tmp_path, monitoring))
        return made[-1]

    yield make
    for cluster in made:
        cluster.run("shutdown")


def record(message: str = "request over", **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("llambo9p.x", logging.INFO, "x.py", 1, message, (), None)
    made.created = 1700000000.1234
    if fields:
        made.fields = fields
    return made


def test_a_line_of_text_has_time_level_and_fields_that_are_one_word_each() -> None:
    shown = TextFormatter("llambo-worker").format(
        record(user="alice", error='two "words"\nand \x1b[2J', n=3, model="a/b=c")
    )
    assert shown == (
        "llambo-worker: 2023-11-14T22:13:20.123Z INFO: request over user=alice "
        'error="two \\"words\\"\\nand \\u001b[2J" n=3 model="a/b=c"'
    )
    assert TextFormatter("p").format(record("plain")) == "p: 2023-11-14T22:13:20.123Z INFO: plain"


def test_a_json_line_has_the_fields_as_members_and_a_traceback_too() -> None:
    line = json.loads(JsonFormatter("llambo-worker").format(record(user="alice", n=3)))
    pid = line.pop("pid")
    assert isinstance(pid, int)
    assert line == {
        "time": "2023-11-14T22:13:20.123Z", "level": "INFO", "program": "llambo-worker",
        "logger": "llambo9p.x", "message": "request over", "user": "alice", "n": 3,
    }  # fmt: skip
    failed = record("bug")
    try:
        raise ValueError("in\nlines")
    except ValueError:
        failed.exc_info = sys.exc_info()
    [text] = JsonFormatter("p").format(failed).splitlines()
    assert "ValueError: in\nlines" in json.loads(text)["exception"]


def test_a_request_is_found_by_its_id_in_the_logs_of_both_programs(clusters: Any) -> None:
    cluster = clusters()
    cluster.run("spawn")
    cluster.run("write", "ctl", "request_id ticket-4711")
    cluster.run("write", "prompt", "nobody may read this in a log")
    cluster.run("cat", "out")
    assert "request ticket-4711\n" in cluster.run("cat", "status")
    lines = cluster.logged("request_id=ticket-4711", 2)
    assert len(lines) == 2
    for program, where in (("orchestrator", "workers"), ("worker", "worker")):
        [line] = [line for line in lines if f"llambo-{program}: " in line]
        assert "INFO: request over" in line and f" {where}=worker-0000 " in line
        assert " outcome=stop " in line and re.search(r" completion_tokens=\d\d ", line)
    assert "nobody may read" not in cluster.log.read_text()


def test_each_request_has_an_id_of_its_own_where_nobody_gave_one(clusters: Any) -> None:
    cluster = clusters()
    cluster.run("spawn")
    for _ in range(2):
        cluster.run("infer", "what?")
    lines = cluster.logged(r"request_id=\w{12} ", 4)
    assert len({re.findall(r"request_id=(\w+)", line)[0] for line in lines}) == 2


def test_json_logs_are_json_with_the_hosts_and_levels_are_kept(clusters: Any) -> None:
    cluster = clusters("log_format: json, log_level: warning")
    cluster.run("spawn")
    cluster.run("infer", "what?")
    assert llamboctl("infer", "x" * 5_000, **cluster.env).returncode == 1
    lines = cluster.logged("request over", 2)
    over = [json.loads(line) for line in lines]
    assert {(line["program"], line["outcome"]) for line in over} == {
        ("llambo-orchestrator", "failed"), ("llambo-worker", "failed"),
    }  # fmt: skip
    assert len({line["request_id"] for line in over}) == 1
    assert "context" in over[0]["error"]


def test_metrics_are_exported_where_the_configuration_says(clusters: Any, tmp_path: Path) -> None:
    cluster = clusters("export_port: 0")
    cluster.run("spawn")
    cluster.run("infer", "what?")
    [url] = re.findall(r"^exporting (http://127.0.0.1:\d+/metrics)$", cluster.log.read_text(), re.M)
    with urllib.request.urlopen(url) as reply:
        assert b'llambo_requests_total{outcome="stop"} 1.0' in reply.read()
    port = url.split(":")[2].split("/")[0]
    second = tmp_path / "second"
    second.mkdir()
    config = second / "config.yaml"
    config.write_text(CONFIG % f"export_port: {port}")
    env = {"LLAMBO_STATE": str(second / "state"), "CLUSTER_CONFIG": str(config)}
    done = llamboctl("init", "--listen", "tcp!127.0.0.1!0", **env)
    assert (done.returncode, done.stderr.decode()) == (
        1,
        f"llamboctl: cannot export metrics at 127.0.0.1:{port}: Address already in use\n",
    )


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_of_one_cause_a_few_lines_are_logged_and_the_others_are_counted() -> None:
    kept, now = Kept(), [0.0]
    logger = logging.Logger("test")
    repeats = logs.Repeats([kept], lambda: now[0])
    logger.addHandler(repeats)
    for number in range(1_254):
        logger.warning("closing connection %d: it is rude", number)
    assert len(kept.lines) == logs.BURST
    logger.warning("something else is told at once")
    assert len(kept.lines) == logs.BURST + 1
    now[0] += logs.WINDOW_S
    repeats.tell()
    assert kept.lines[-1] == (
        "repeated 1,234 times, the last one was: closing connection 1253: it is rude"
    )
    before = len(kept.lines)
    repeats.tell()
    assert len(kept.lines) == before
    for _ in range(100):  # the account of requests is kept whole
        logger.info("request over", extra={"fields": {"request_id": "x"}})
    assert len(kept.lines) == before + 100


def test_a_burst_is_told_when_the_next_one_comes_if_nobody_asks() -> None:
    kept, now = Kept(), [0.0]
    logger = logging.Logger("test")
    logger.addHandler(logs.Repeats([kept], lambda: now[0]))

    def say() -> None:
        logger.error("100%% sure: %s", "100%s")

    for _ in range(logs.BURST + 3):
        say()
    now[0] += logs.WINDOW_S
    say()
    assert kept.lines[-2:] == [
        "repeated 3 times, the last one was: 100% sure: 100%s", "100% sure: 100%s",
    ]  # fmt: skip


def test_what_clients_wrote_is_cut_and_cannot_look_like_a_line_of_the_log() -> None:
    name = "x\nllambo-worker: 2023-11-14T22:13:20.123Z INFO: forged \x1b[2J" + "y" * 100_000
    for formatter in (TextFormatter("p"), JsonFormatter("p")):
        shown = formatter.format(record(f"closing {name}", user=name))
        assert len(shown) < logs.MESSAGE_CHARS + 2 * logs.FIELD_CHARS + 500
        assert "\x1b" not in shown
        assert not any(line.startswith("llambo-worker") for line in shown.splitlines())
    failed = record("bug")
    try:
        raise ValueError("z" * 1_000_000)
    except ValueError:
        failed.exc_info = sys.exc_info()
    assert len(TextFormatter("p").format(failed)) < logs.TRACEBACK_CHARS + 500


def test_the_file_of_a_log_is_kept_small_and_no_link_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("a") as stream:
        logger = logging.Logger("test")
        logger.addHandler(logs.StreamToFile(stream, path))
        for number in range(300):
            logger.warning("%d %s", number, "x" * 10_000)
            assert path.stat().st_size <= logs.FILE_BYTES + 10_100
        before = tmp_path / "log.1"
        assert before.stat().st_size <= logs.FILE_BYTES and before.stat().st_mode & 0o777 == 0o600
        both = (before.read_text() + path.read_text()).splitlines()
        numbers = [int(line.split()[0]) for line in both[1:]]
        assert numbers == list(range(numbers[0], 300)), "nothing is missing between the two"
        precious = tmp_path / "precious"
        precious.write_text("precious")
        before.unlink()
        before.symlink_to(precious)
        for number in range(300):
            logger.warning("%d %s", number, "x" * 10_000)
        assert precious.read_text() == "precious"


def test_a_flood_of_rude_clients_leaves_small_logs(tmp_path: Path) -> None:
    """Each attaches under a name of 60,000 digits and then breaks the protocol."""
    path = tmp_path / "socket"
    cluster = Cluster(tmp_path, "", f"unix!{path}")
    try:
        hello = (
            m.Tversion(c.NOTAG, 1 << 17, "9P2000").pack()
            + m.Tattach(1, 0, c.NOFID, "9" * 60_000, "").pack()
        )
        for _ in range(300):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                sock.sendall(hello + b"\3\0\0\0rubbish")
                while sock.recv(1 << 16):
                    pass
        cluster.run("status")
        assert cluster.log.stat().st_size < 50_000
        assert "Traceback" not in cluster.log.read_text()
    finally:
        cluster.run("shutdown")
    assert re.search(r"repeated \d+ times, the last one was: closing", cluster.log.read_text())
