"""Paths as people have them: with spaces, quotes and letters of other languages."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CONFIG = """
cluster:
  network: {listen: "unix!ADDRESS"}
  nodes:
    tiny: {count: 2, resources: {model: simulated}}
"""
LLAMBOCTL = [sys.executable, "-m", "llambo9p_tools.llamboctl"]


@pytest.fixture
def place() -> Iterator[Path]:
    """Short enough for a unix socket's address below it."""
    with tempfile.TemporaryDirectory(prefix="a 'b\" é!") as directory:
        yield Path(directory)


def test_a_cluster_lives_in_a_directory_with_any_name(place: Path) -> None:
    config = place / "my config.yaml"
    config.write_text(CONFIG.replace("ADDRESS", "9p"))
    env = dict(os.environ, LLAMBO_STATE=str(place / "the state"))

    def ctl(*words: str) -> str:
        done = subprocess.run(
            [*LLAMBOCTL, *words], capture_output=True, text=True, env=env, cwd=place, timeout=60
        )
        assert done.returncode == 0, done
        return done.stdout

    ctl("init", "--config", config.name)
    try:
        ctl("spawn")
        assert len(ctl("nodes", "list").splitlines()) == 3
        assert "addr unix!" + str(place) in ctl("cat", "nodes/worker-0001")
        assert ctl("infer", "hello") == "simulated: hello"
        ctl("nodes", "kill", "worker-0000")
        assert ctl("infer", "again") == "simulated: again"
    finally:
        ctl("shutdown")
    assert "Traceback" not in (place / "the state.log").read_text()
