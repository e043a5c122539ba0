"""The cluster that is attacked: processes with the real model, and what is seen of them.

An orchestrator listens on a unix socket and under TLS, and exports metrics.  It has one host, whose
decoding takes one processor; on a machine with two the other one is for the orchestrator and its
attackers.  `alice` is the user who must not notice anything: she comes over the unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from llambo9p_tools.commands.cert import cert

from tests.chaos.processes import children, seen
from tests.files import Files

from .target import Target

CONNECTIONS = 400
KEPT_MIB, BUFFERED_MIB = 160, 96
CONFIG = """
cluster:
  nodes:
    tiny:
      resources: {{model: default, slots: {slots}, context_size: 512, threads: 1, cache_ram: 64MB}}
  security: {{cert: ca/server-localhost.pem, ca: ca/ca.pem}}
  monitoring: {{export_port: 0}}
  limits:
    connections: {connections}
    connections_per_user: 100
    kept: {kept}MB
    kept_per_user: 64MB
    buffered: {buffered}MB
    buffered_per_user: 32MB
  state: {{orphan_timeout: 20000}}
"""
WORKERS, SLOTS = 2, 16
ATTACKERS = 2
"""processes"""
QUESTIONS = [
    f"{what}, one after the other: 1. {first}, 2."
    for what, first in (
        ("The planets", "Mercury"),
        ("The months", "January"),
        ("Some colours", "red"),
        ("Rivers of the world", "the Nile"),
    )
]
SETTINGS = "mode complete\ntemperature 0\nmax_tokens 24"


@dataclass(frozen=True)
class Held:
    """By the orchestrator, at one moment."""

    connections: int
    descriptors: int
    """those of connections, and all others"""
    kilobytes: int


class Stage:
    def __init__(self, directory: Path, target: Target, pid: int, owner: Files) -> None:
        self.directory = directory
        self.target = target
        self.owner = owner
        """the orchestrator's tree, as its owner sees it"""
        self._pid = pid
        (self._host,) = (
            child
            for child in children(pid)
            if b"llambo9p_nodes.worker" in Path(f"/proc/{child}/cmdline").read_bytes()
        )

    def held(self) -> Held:
        now = seen(self._pid)
        return Held(now.files["socket"], now.files.total(), now.kilobytes)

    def worked(self) -> float:
        """Processor seconds that the host has worked so far, which do not count what else the
        machine does."""
        fields = Path(f"/proc/{self._host}/stat").read_text().rpartition(")")[2].split()
        user, system = fields[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    async def events(self, kind: str) -> list[dict[str, Any]]:
        async with await self.owner.open("events") as file:
            lines = (await file.read(0)).splitlines()
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    @contextlib.asynccontextmanager
    async def attacked(self, names: Sequence[str]) -> AsyncIterator[dict[str, dict[str, Any]]]:
        """Inside, the attacks go on, by several processes.  How each went is in what is given,
        behind the end."""
        processes = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.attack.attackers", self.target.dump()),
                *names[first::ATTACKERS],
                stdout=asyncio.subprocess.PIPE,
                cwd=Path(__file__).parents[2],
            )
            for first in range(min(ATTACKERS, len(names)))
        ]
        rounds: dict[str, dict[str, Any]] = {}
        try:
            yield rounds
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                said, _ = await process.communicate()
                rounds |= json.loads(said)
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="llambo-") as name:
        directory = Path(name)
        for words in (["ca"], ["server", "localhost", "127.0.0.1"], ["user", "bob"],
                      ["user", "mallory"]):  # fmt: skip
            made = CliRunner().invoke(cert, [*words, "--dir", str(directory / "ca")])
            assert made.exit_code == 0, made.output
        config = CONFIG.format(
            slots=SLOTS, connections=CONNECTIONS, kept=KEPT_MIB, buffered=BUFFERED_MIB
        )
        (directory / "config.yaml").write_text(config)
        with (directory / "log").open("w") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "llambo9p_nodes.orchestrator"),
                *("--listen", f"unix!{directory}/socket", "--listen", "tls!127.0.0.1!0"),
                *("--config", str(directory / "config.yaml")),
                *("--state", str(directory / "state")),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        assert process.stdout is not None
        try:
            lines = [(await process.stdout.readline()).decode().split() for _ in range(3)]
            (_, url), (_, unix), (_, tls) = lines
            port = int(url.removesuffix("/metrics").rpartition(":")[2])
            target = Target(unix, tls, str(directory / "ca"), port)
            async with target.local("") as owner:
                await owner.write("ctl", f"spawn --count {WORKERS}")
                yield Stage(directory, target, process.pid, owner)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
