"""A cluster to chat with, and limbot in a terminal whose screen can be read.

The host is simulated and runs in this process, so that its pace and answers are the test's;
the orchestrator is a real one, which may be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pyte
from click.testing import CliRunner, Result
from llambo9p_tools.commands.limbot import limbot

from llambo9p.engine.simulated import Gate
from tests.cluster.harness import simulated_host

from .cluster import COMMAND, environment, llamboctl

ROOT = Path(__file__).parents[2]
ROWS, COLUMNS = 40, 80
PATIENCE_S = 15.0


def script(prompt: str) -> bytes:
    """`count to N` is answered so; else the last line comes back, with how many lines were
    before it: of system prompt and history."""
    lines = [line for line in prompt.split("\n") if line]
    if count := re.match(r"count to (\d+)", lines[-1]):
        return " ".join(map(str, range(1, int(count[1]) + 1))).encode()
    if lines[-1] == "in red":
        return b"\x1b[31mred\x07"
    return f"{lines[-1]!r} after {len(lines) - 1}".encode()


class _Pace(Gate):
    """A token, which is a byte, takes 2 ms."""

    def wait(self) -> None:
        time.sleep(0.002)


class Cluster:
    """An orchestrator, as yet without workers."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.env = {
            "LLAMBO_STATE": str(self.state),
            "CLUSTER_CONFIG": str(ROOT / "cluster-config.yaml"),
            "XDG_STATE_HOME": str(directory / "typed"),
        }
        self.start()

    def start(self) -> None:
        """Also again, after `kill`."""
        self.address = self.out("init", "--listen", "tcp!127.0.0.1!0").strip()

    @property
    def pid(self) -> int:
        pid = json.loads(self.state.read_text())["pid"]
        assert isinstance(pid, int)
        return pid

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def out(self, *args: str) -> str:
        done = llamboctl(*args, **self.env)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    def limbot(self, *args: str, stdin: str = "") -> Result:
        """In a pipe, to its end; in this process, as it is called so often."""
        env = {**self.env, "LLAMBO_ADDR": None}
        return CliRunner().invoke(limbot, args, stdin, env, standalone_mode=False)

    def wait_until_idle(self) -> None:
        """All slots are free."""
        until = time.monotonic() + PATIENCE_S
        while "\nrequests 0\n" not in self.out("cat", "status"):
            assert time.monotonic() < until

    def close(self) -> None:
        if self.state.exists():
            llamboctl("shutdown", **self.env)


class ScriptedCluster(Cluster):
    """With two workers that answer what `script` says."""

    def __init__(self, directory: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._held = contextlib.AsyncExitStack()
        host = simulated_host(2, answer=script, gate=_Pace(), n_ctx=32768)
        entering = self._held.enter_async_context(host)
        address = asyncio.run_coroutine_threadsafe(entering, self._loop).result(10).address
        super().__init__(directory)
        self.out("write", "ctl", f"mount {address}")

    def close(self) -> None:
        super().close()
        asyncio.run_coroutine_threadsafe(self._held.aclose(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Screen(pyte.Screen):
    """Answers what programs ask a terminal."""

    answer: Callable[[bytes], object]

    def write_process_input(self, data: str) -> None:
        self.answer(data.encode())


class Chat:
    """`llamboctl limbot` in a terminal, which is its controlling one."""

    def __init__(self, *args: str, cwd: Path | None = None, **env: str) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (ROWS, COLUMNS))
        self._screen = _Screen(COLUMNS, ROWS)
        self._screen.answer = lambda data: os.write(self._master, data)
        self._stream = pyte.ByteStream(self._screen)
        as_a_shell_does = ["env", "--default-signal=INT", "setsid", "--ctty"]
        try:
            self.process = subprocess.Popen(
                [*as_a_shell_does, *COMMAND, "limbot", *args],
                stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=environment(**env),
            )  # fmt: skip
        finally:
            os.close(slave)

    @property
    def lines(self) -> list[str]:
        """Those of the screen that are not empty."""
        return [line.rstrip() for line in self._screen.display if line.strip()]

    @property
    def text(self) -> str:
        """What is on the screen, and nothing of where its lines end."""
        return "".join(line.ljust(COLUMNS) for line in self._screen.display).rstrip()

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def enter(self, line: str) -> None:
        """When it waits for one."""
        self.wait_for_prompt()
        self.type(line)
        self._wait(lambda: self.lines[-1:] != [">"])
        self.type("\r")

    def wait_for(self, *texts: str, times: int = 1) -> None:
        """Until all are there, each so many times."""
        self._wait(lambda: all(self.text.count(text) >= times for text in texts))

    def wait_for_prompt(self) -> None:
        self._wait(lambda: self.lines[-1:] == [">"])

    def _wait(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not condition():
            ready, _, _ = select.select([self._master], [], [], until - time.monotonic())
            shown = "\n".join(self.lines)
            assert ready, shown
            try:
                self._stream.feed(os.read(self._master, 4096))
            except OSError:  # Linux's end of a terminal that nobody has open
                raise AssertionError(f"it ended:\n{shown}") from None

    def finish(self) -> int:
        """Its exit code, when it leaves."""
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 4096):
                self._stream.feed(data)
        return self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
