"""`llambo`: the program that $LLAMBO_MODE names."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def llambo(mode: str | None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "LLAMBO_MODE"}
    return subprocess.run(
        [sys.executable, "-m", "llambo9p_nodes", "--help"],
        env=env if mode is None else {**env, "LLAMBO_MODE": mode},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("mode", "program"),
    [
        (None, "llambo-orchestrator"),
        ("", "llambo-orchestrator"),
        ("orchestrator", "llambo-orchestrator"),
        ("worker", "llambo-worker"),
    ],
)
def test_the_mode_chooses_the_program(mode: str | None, program: str) -> None:
    assert llambo(mode).stdout.startswith(f"Usage: {program} [OPTIONS]")


def test_a_mode_that_is_none_is_named() -> None:
    done = llambo("master")
    assert done.returncode == 2
    assert done.stderr == "llambo: $LLAMBO_MODE is 'master'; use orchestrator or worker\n"
