"""A failed assertion of ggml's, on two threads at once, ends a host, and starts nothing that
outlives it."""

from __future__ import annotations

import signal
import subprocess
import sys

ABORT = """
import ctypes, threading, time
from llama_cpp import _ggml
from llambo9p_nodes import worker

ggml = ctypes.CDLL(str(_ggml.libggml_base_path / "libggml-base.so"))

def serve(program, main):
    for _ in range(2):
        threading.Thread(target=ggml.ggml_abort, args=(b"file.c", 1, b"it failed")).start()
    time.sleep(60)

worker.process.run = serve
worker.main(["--listen", "tcp!127.0.0.1!0"])
"""


def test_an_abort_is_the_end() -> None:
    # its end of the pipe is closed when all that it started has ended, too
    done = subprocess.run([sys.executable, "-c", ABORT], stderr=subprocess.PIPE, timeout=20)
    assert done.returncode == -signal.SIGABRT
    assert b"file.c:1: it failed" in done.stderr
    assert b"ptrace" not in done.stderr and b"gdb" not in done.stderr
