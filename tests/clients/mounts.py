"""A FUSE mount for real clients: the bridge in a process of its own, over a simulated
cluster that is served from a thread of this one.

The bridge must not be in this process: a child between vfork and exec holds the
interpreter's lock and may wait for the mount.  For the same reason no child is started
with its working directory in a mount; `Mount.sh` changes into it itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from llambo9p.cluster.config import Cluster
from llambo9p.cluster.namespace import Orchestrator
from llambo9p.engine.simulated import Gate
from llambo9p.mount import mounting
from llambo9p.net.address import Address
from llambo9p.net.server import Server
from llambo9p.p9 import messages as m
from tests.cluster.harness import SimulatedHost, simulated_host
from tests.files import ANYWHERE, files_of

T = TypeVar("T")

COMMAND = [sys.executable, "-m", "llambo9p_tools.llamboctl"]
CAP_SYS_ADMIN = 1 << 21


def cannot_mount() -> str:
    """Why this process cannot mount FUSE; "" if it can."""
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    if os.geteuid() != 0:
        return "" if shutil.which("fusermount3") else "not root, and there is no fusermount3"
    status = Path("/proc/self/status").read_text()
    [effective] = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff")]
    return "" if int(effective, 16) & CAP_SYS_ADMIN else "root without CAP_SYS_ADMIN"


needs_fuse = pytest.mark.skipif(bool(cannot_mount()), reason=cannot_mount() or "it can")


def wait_until(condition: Callable[[], object]) -> None:
    """Until it holds; the test's time limit ends a wait in vain."""
    while not condition():
        time.sleep(0.002)


class OnThread:
    """A server on an event loop of its own, in a thread; `call` reaches it."""

    server: Server

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def fids(self) -> int:
        """How many all its connections have, the attached ones included."""

        async def count() -> int:
            return sum(len(connection._conn.fids) for connection in self.server.connections)

        return self.call(count())

    def stop_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Served(OnThread):
    """A simulated host, and an orchestrator on it."""

    def __init__(self, workers: int = 3, gate: Gate | None = None) -> None:
        super().__init__()
        self.traced: list[m.Message] = []
        """the T-messages that the orchestrator got"""
        self._stack = contextlib.AsyncExitStack()
        self._gate = gate
        self.host: SimulatedHost = self.call(
            self._stack.enter_async_context(simulated_host(workers, gate=gate))
        )
        self.address = ANYWHERE
        self.start()

    def start(self) -> None:
        """Serve, at the same address each time."""
        self.call(self._start())

    async def _start(self) -> None:
        self.orchestrator = Orchestrator(Cluster(), lambda: None)
        self.server = Server(self.orchestrator.attach, trace=self._trace)
        self.address = await self.server.listen(self.address)
        async with files_of(self.address) as files:
            await files.write("ctl", f"mount {self.host.address}")

    def _trace(self, way: str, msg: m.Message) -> None:
        if way == "->":
            self.traced.append(msg)

    def stop(self) -> None:
        """As if the orchestrator was killed."""
        self.call(self._stop())

    async def _stop(self) -> None:
        for connection in list(self.server.connections):
            connection.abort()
        await self.server.close()
        await self.orchestrator.close()

    def another_host(self, first: int) -> Address:
        """The address of one more simulated host, with a worker of that number."""
        made = simulated_host(1, first)
        return self.call(self._stack.enter_async_context(made)).address

    def mute_host(self) -> None:
        """The host answers nothing any more, as if it was stopped."""

        async def mute() -> None:
            for connection in self.host.server.connections:
                connection.transport.pause_reading()

        self.call(mute())

    def pending(self, cls: type[m.Message]) -> int:
        """How many requests of that class wait for their answer."""

        async def count() -> int:
            return sum(
                isinstance(request.msg, cls)
                for connection in self.server.connections
                for request in connection._conn.requests.values()
            )

        return self.call(count())

    def connections(self) -> int:
        return len(self.server.connections)

    def open_gate(self) -> None:
        """Let all answers come."""
        assert self._gate is not None
        self._gate.open()

    def requests(self) -> list[str]:
        """The names of the T-messages since it was last asked."""
        traced, self.traced = self.traced, []
        return [type(msg).__name__.removesuffix("_u") for msg in traced]

    def close(self) -> None:
        if self._gate is not None:
            self.open_gate()
        self.stop()
        self.call(self._stack.aclose())
        self.stop_thread()


class Mount:
    """A directory where `address` is mounted, and the process that serves it."""

    def __init__(self, directory: Path, address: Address, *options: str) -> None:
        self.path = directory
        command = [*COMMAND, "mount", str(directory), "--addr", str(address), "--foreground"]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        with self.process.stdout:
            assert self.process.stdout.readline() == f"mounted {address} on {directory}\n"

    def sh(self, script: str, **options: Any) -> str:
        """What a shell in the mount prints; it must end well and say nothing else."""
        done = self.run(script, **options)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def run(self, script: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f'cd "$0" && {script}', self.path],
            capture_output=True, text=True, **options,
        )  # fmt: skip

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """A program with nothing but its standard output, which can be interrupted."""
        return subprocess.Popen(
            ["env", "--default-signal=INT", *command], stdout=subprocess.PIPE
        )

    def is_mounted(self) -> bool:
        return mounting.mounted(self.path) is not None

    def unmount(self) -> None:
        """And wait until the bridge has ended, well."""
        if self.is_mounted():
            mounting.unmount(self.path)
        assert self.process.wait(10) == 0


@contextlib.contextmanager
def mounted(directory: Path, address: Address, *options: str) -> Iterator[Mount]:
    mount = Mount(directory, address, *options)
    try:
        yield mount
    finally:
        if mount.process.poll() is None:
            mount.unmount()
        elif mount.is_mounted():
            mounting.unmount(mount.path)


def interrupt(process: subprocess.Popen[bytes], number: int = signal.SIGINT) -> int:
    """Its exit status after the signal, which must come at once."""
    process.send_signal(number)
    try:
        return process.wait(3)
    finally:
        assert process.stdout is not None
        process.stdout.close()
