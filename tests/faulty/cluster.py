"""An orchestrator as a process whose hosts obey harmful prompts (see `site`).

Owns the processes of one test and what is seen of them: their hosts' pids, and the events.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from llambo9p.errors import Error
from llambo9p.net.address import Address, parse
from llambo9p.p9 import constants as c
from tests.files import ANYWHERE, Files, files_of

ROOT = Path(__file__).parents[2]
SITE = Path(__file__).parent / "site"
CONFIG = """
cluster:
  nodes:
    one:
      workers_per_host: {workers}
      resources: {{model: simulated, threads: 1, slots: {slots}, step_timeout: 500}}
  load_balancer: {{health_check_interval: 100, timeout: {timeout}}}
  state: {{orphan_timeout: 10000}}
"""


class FaultyCluster:
    def __init__(self, directory: Path, address: Address, files: Files) -> None:
        self.address = address
        self.files = files
        self.once = directory / "once"
        self._state = directory / "state"

    def pids(self) -> dict[str, int]:
        """Of the hosts, by name."""
        hosts = json.loads(self._state.read_text())["hosts"]
        return {h["started"]["spec"]["name"]: int(h["started"]["handle"]) for h in hosts}

    async def events(self, kind: str, at_least: int = 0) -> list[dict[str, Any]]:
        """Those of a kind that there were so far, when there are so many."""
        found: list[dict[str, Any]] = []
        async with await self.files.open("events") as file:
            while True:
                lines = (await file.read(0)).splitlines()
                found += (event for event in map(json.loads, lines) if event["kind"] == kind)
                if len(found) >= at_least:
                    return found

    async def until_healthy(self, count: int) -> None:
        while (await self.files.attrs("status"))["healthy"] != str(count):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def faulty_cluster(
    hosts: int, *, workers: int = 1, slots: int = 16, no_progress: int = 30_000, once: bool = False
) -> AsyncIterator[FaultyCluster]:
    """So many hosts with so many workers each; with `once` a prompt harms only while the file
    `FaultyCluster.once` is there."""
    with tempfile.TemporaryDirectory(prefix="llambo-") as name:
        directory = Path(name)
        config = directory / "config.yaml"
        config.write_text(CONFIG.format(workers=workers, slots=slots, timeout=no_progress))
        env = _env()
        if once:
            env["FAULTY_ONCE"] = str(directory / "once")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llambo9p_nodes.orchestrator"),
            *("--listen", f"unix!{directory}/socket", "--config", str(config)),
            *("--state", str(directory / "state")),
            stdout=asyncio.subprocess.PIPE,
            env=env,
        )
        assert process.stdout is not None
        try:
            line = (await process.stdout.readline()).decode()
            address = parse(line.split()[1])
            async with files_of(address) as files:
                await files.write("ctl", f"spawn --count {hosts * workers}")
                yield FaultyCluster(directory, address, files)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


@contextlib.asynccontextmanager
async def faulty_host(number: int) -> AsyncIterator[Address]:
    """A host with the worker of that number, which nobody starts again."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llambo9p_nodes.worker", "--model", "simulated", "--count", "1"),
        *("--first", str(number), "--listen", str(ANYWHERE), "--exit-with-stdin"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=_env(),
    )
    assert process.stdout is not None
    try:
        while not (line := await process.stdout.readline()).startswith(b"listening "):
            assert line.startswith(b"loading ")
        yield parse(line.decode().split()[1])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def asked(files: Files, prompt: str) -> str:
    """The answer in a conversation of its own, or the reason why there is none."""
    async with await files.open("clone", c.ORDWR) as ctl:
        number = (await ctl.read(0)).decode().strip()
        try:
            return await files.ask(prompt, number)
        except Error as e:
            return str(e)


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{SITE}:{ROOT}", "PYTHONUNBUFFERED": "1"}
