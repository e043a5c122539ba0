"""As many connections as the kernel lets a process have files, and words for one more."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from pathlib import Path

import py9p
import pytest

SOFT, HARD = 64, 256


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, HARD))


def test_a_crowd_beyond_the_open_files_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "host"
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "llambo9p_nodes.worker"),
                    *("--model", "simulated", "--listen", f"unix!{path}"),
                ],
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=few_files,
            )
        )
        stack.callback(host.terminate)
        assert host.stdout is not None
        while not host.stdout.readline().startswith("listening"):
            pass

        def connect() -> None:
            client = stack.enter_context(py9p.Client.connect_unix(str(path)))
            client.negotiate()

        for _ in range(HARD - 128):
            connect()
        for _ in range(3):
            with pytest.raises(py9p.RemoteError, match="more than 128 connections"):
                connect()
