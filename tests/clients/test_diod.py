"""diod's own tools over 9P2000.L: diodls and diodcat.

Its other tools (dtop, diodload, dioddate, diodshowmount) ask for the tree `ctl` of a
diod server; here they are told that there is none.  diod itself is never started.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from llambo9p.p9 import dialects as d
from llambo9p.p9 import messages as m

from .served import HELD, Door, Served

pytestmark = pytest.mark.skipif(shutil.which("diodls") is None, reason="no diod on this machine")


@pytest.fixture
def door(cluster: Served) -> Iterator[Door]:
    """No client leaves a fid or a request."""
    door = cluster.door()
    yield door
    cluster.until(lambda: not door.server.connections)
    assert (door.fids, door.outstanding) == (set(), {})


def run(tool: str, door: Door, *args: str, aname: str = "") -> tuple[str, str]:
    """What it says: on stdout, and on stderr."""
    at = f"127.0.0.1:{door.port}"
    done = subprocess.run([tool, "-s", at, "-a", aname, *args], capture_output=True, text=True)
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stdout, done.stderr


def test_diodls_lists_a_directory(cluster: Served, door: Door) -> None:
    assert run("diodls", door)[0].split() == cluster.call(cluster.running.files.ls())
    lines = run("diodls", door, "-l", "worker-0001")[0].splitlines()
    modes = {line.split()[-1]: line[:10] for line in lines if line.startswith("-")}
    assert (modes["ctl"], modes["out"]) == ("-rw-------", "-r--------")
    assert run("diodls", door, "nope") == ("", "diodls: nope: No such file or directory\n")


def test_diodcat_reads_files(cluster: Served, door: Door) -> None:
    cluster.call(cluster.running.files.ask("What is diod?", "worker-0001"))
    assert run("diodcat", door, "worker-0001/out") == ("simulated: What is diod?", "")
    both = run("diodcat", door, "worker-0001/prompt", "worker-0001/out")
    assert both == ("What is diod?simulated: What is diod?", "")
    assert run("diodcat", door, "nope") == ("", "diodcat: open nope: No such file or directory\n")
    assert run("diodcat", door, "nodes")[1].endswith("Is a directory\n")


def test_diodcat_reads_in_messages_of_any_size(cluster: Served, door: Door) -> None:
    text = "word " * 500
    cluster.call(cluster.running.files.ask(text, "worker-0001"))
    assert run("diodcat", door, "-m", "300", "worker-0001/prompt") == (text, "")
    assert door.seen(m.Tread) > 8


def test_an_aname_is_a_worker(door: Door) -> None:
    assert "worker worker-0001\n" in run("diodcat", door, "status", aname="worker-0001")[0]
    assert run("diodls", door, aname="nobody") == (
        "", "diodls: error attaching to aname='nobody': No such file or directory\n"
    )  # fmt: skip


def diodcat_of_an_answer(cluster: Served, door: Door) -> subprocess.Popen[bytes]:
    """It waits for `HELD` to answer."""
    cluster.call(cluster.running.files.write(f"{HELD}/prompt", "Are you there?"))
    reader = subprocess.Popen(
        ["diodcat", "-s", f"127.0.0.1:{door.port}", "-a", "", f"{HELD}/out"],
        stdout=subprocess.PIPE,
    )
    cluster.until(lambda: door.waits(m.Tread))
    return reader


def test_diodcat_waits_for_an_answer(cluster: Served, door: Door) -> None:
    with diodcat_of_an_answer(cluster, door) as reader:
        cluster.spend()
        assert reader.communicate()[0] == b"simulated: Are you there?"


def test_a_killed_diodcat_disturbs_nobody(cluster: Served) -> None:
    door = cluster.door()
    with diodcat_of_an_answer(cluster, door) as reader:
        reader.kill()
    cluster.until(lambda: not door.server.connections)
    assert cluster.answering == 1
    cluster.spend()
    assert cluster.call(cluster.running.files.read(f"{HELD}/out")) == "simulated: Are you there?"


@pytest.mark.parametrize("tool", ["dioddate", "diodshowmount"])
def test_what_only_a_diod_has_is_refused(door: Door, tool: str) -> None:
    done = subprocess.run(
        [tool, "-s", f"127.0.0.1:{door.port}"], capture_output=True, text=True
    )
    assert done.stderr.startswith(f"{tool}: error attaching to aname=")
    assert done.stderr.endswith(": No such file or directory\n")
    assert door.seen(d.Tauth_u) == 1
