"""The programs that serve, started with some of their standard streams closed, or on a full disk:
they serve, and no socket takes a stream's place."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from llambo9p_tools.failure import Failure
from llambo9p_tools.remote import Remote

from llambo9p.net.address import Address

PROGRAMS = {
    "worker": ["--model", "simulated", "--trace"],
    "orchestrator": ["--state", "state", "--trace"],
}
SURROUNDINGS = (
    "<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1"
)  # fmt: skip


@pytest.mark.parametrize("streams", SURROUNDINGS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_it_serves(program: str, streams: str, tmp_path: Path) -> None:
    socket = Address("unix", path=str(tmp_path / "9p"))
    words = [sys.executable, "-m", f"llambo9p_nodes.{program}", "--listen", str(socket)]
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" {streams}', "sh", *words, *PROGRAMS[program]],
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env=os.environ | {"CLUSTER_CONFIG": ""},
    )  # fmt: skip
    try:
        until = time.monotonic() + 30
        while True:
            try:
                with Remote(socket) as tree:
                    assert tree.text("status")
                break
            except Failure:
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.05)
        links = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in range(3)]
        assert all(link in ("/dev/null", "/dev/full") for link in links), links
    finally:
        process.terminate()
    assert process.wait(30) == 0
