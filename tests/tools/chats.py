"""A cluster to chat with, and limbot in a terminal whose screen can be read.

The host is simulated and runs in this process, so that its pace and answers are the test's;
the orchestrator is a real one, which may be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from click.testing import CliRunner, Result
from llambo9p_tools.commands.limbot import limbot
from llambo9p_tools.remote import Remote
from py9p.constants import ORDWR

from llambo9p.engine.simulated import Gate
from llambo9p.net.address import parse
from tests.cluster.harness import simulated_host

from .cluster import COMMAND, llamboctl
from .screen import PATIENCE_S, Screen

SLOTS = 16
ROOT = Path(__file__).parents[2]


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
        super().__init__(directory)
        self.add("tiny", 32768)

    def add(self, node_type: str, n_ctx: int) -> None:
        """Two workers of a type, on a host of their own."""
        host = simulated_host(
            2, node_type=node_type, answer=script, gate=_Pace(), n_ctx=n_ctx, slots=SLOTS
        )
        entering = self._held.enter_async_context(host)
        address = asyncio.run_coroutine_threadsafe(entering, self._loop).result(10).address
        self.out("write", "ctl", f"mount {address}")

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """All slots are taken."""
        with contextlib.ExitStack() as held:
            tree = held.enter_context(Remote(parse(self.address)))
            for _ in range(SLOTS):
                ctl = held.enter_context(tree.open("clone", ORDWR))
                number = b"".join(ctl.chunks()).decode().strip()
                ctl.write(b"max_tokens 20000")
                tree.write(f"{number}/prompt", b"count to 4000")
            yield

    def close(self) -> None:
        super().close()
        asyncio.run_coroutine_threadsafe(self._held.aclose(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Chat(Screen):
    """`llamboctl limbot` in a terminal."""

    def __init__(self, *args: str, cwd: Path | None = None, **env: str) -> None:
        super().__init__([*COMMAND, "limbot", *args], lines=40, cwd=cwd, **env)

    @property
    def lines(self) -> list[str]:
        """Those of the screen that are not empty."""
        return [line for line in super().lines if line]

    @property
    def text(self) -> str:
        """What is on the screen, and nothing of where its lines end."""
        return "".join(line.ljust(self.columns) for line in super().lines).rstrip()

    def enter(self, line: str) -> None:
        """When it waits for one."""
        self.wait_for_prompt()
        self.type(line)
        self.until(lambda text: self.lines[-1:] != [">"])
        self.type("\r")

    def wait_for_prompt(self) -> None:
        self.until(lambda text: self.lines[-1:] == [">"])
