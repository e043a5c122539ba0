"""Processes that are started, killed and started again, and what is seen of one from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from llambo9p.net.address import Address, parse
from tests.files import ANYWHERE

from .proxy import Proxy

ROOT = Path(__file__).parents[2]
SITE = Path(__file__).parent / "site"
START_S = 60


def children(pid: int) -> list[int]:
    """Processes that its main thread started and that were not waited for."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Process:
    """`python -m MODULE OPTIONS`, which says `listening ADDR`; its log is appended to a file."""

    def __init__(self, module: str, *options: str, log: Path, step: float) -> None:
        self._command = (sys.executable, "-m", module, *options)
        self._log = log
        self._env = {
            **os.environ,
            "PYTHONPATH": f"{SITE}:{ROOT}",
            "PYTHONUNBUFFERED": "1",
            "CHAOS_STEP_S": str(step),
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> Address:
        with self._log.open("a") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._env,
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S):
            async for line in self._process.stdout:
                if line.startswith(b"listening "):
                    return parse(line.decode().split()[1])
        raise RuntimeError(f"{self._command} did not start; see {self._log}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self.send(number)
            await self._process.wait()


class Host(Protocol):
    """One that trouble can come to."""

    name: str
    proxies: list[Proxy]
    """between it and the orchestrator"""

    def pid(self) -> int | None:
        """None when it does not run."""

    async def kill(self) -> None: ...

    async def start(self) -> None:
        """Again, after `kill`."""


@dataclass
class Own:
    """A host that we start; the orchestrator mounts it, or it registers."""

    name: str
    process: Process
    proxies: list[Proxy]
    """the first to it; one that registers does so through the second"""
    address: Address = ANYWHERE
    """of itself"""
    runs: bool = False

    def pid(self) -> int | None:
        return self.process.pid if self.runs else None

    async def start(self) -> None:
        self.address = self.proxies[0].to = await self.process.start()
        self.runs = True

    async def kill(self) -> None:
        self.runs = False
        await self.process.end()


@dataclass
class Spawned:
    """A host of the orchestrator's, which starts it again itself."""

    name: str
    word: str
    """on the command lines of such hosts, and of nothing else"""
    proxies: list[Proxy] = field(default_factory=list)

    def pid(self) -> int | None:
        pids = running(self.word)
        return pids[-1] if pids else None

    async def start(self) -> None:
        """That is the orchestrator's."""

    async def kill(self) -> None:
        if (pid := self.pid()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Seen(NamedTuple):
    files: Counter[str]
    """what its descriptors are, without the numbers of sockets and pipes"""
    kilobytes: int
    """in memory"""


def seen(pid: int) -> Seen:
    """Raises FileNotFoundError when the process has ended."""
    directory = Path(f"/proc/{pid}")
    files: Counter[str] = Counter()
    for each in (directory / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            files[os.readlink(each).partition(":")[0]] += 1
    [resident] = re.findall(r"^VmRSS:\s*(\d+) kB", (directory / "status").read_text(), re.MULTILINE)
    return Seen(files, int(resident))


def running(word: str) -> list[int]:
    """The processes that have that word on their command line, the oldest first."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if os.fsencode(word) in (each / "cmdline").read_bytes().split(b"\0"):
                found.append(int(each.name))
    return sorted(found)
