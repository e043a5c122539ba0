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

from llambo9p.net.address import parse
from llambo9p.p9 import constants as c
from tests.files import Files, files_of

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
    def __init__(self, directory: Path, files: Files) -> None:
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

    async def ask(self, prompt: str, *settings: str) -> str:
        """In a conversation of its own.  Raises Error with the reason of a failure."""
        async with await self.files.open("clone", c.ORDWR) as ctl:
            number = (await ctl.read(0)).decode().strip()
            await ctl.write("\n".join(["temperature 0", *settings]).encode())
            return await self.files.ask(prompt, number)

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
        env = {**os.environ, "PYTHONPATH": f"{SITE}:{ROOT}", "PYTHONUNBUFFERED": "1"}
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
            async with files_of(parse(line.split()[1])) as files:
                await files.write("ctl", f"spawn --count {hosts * workers}")
                yield FaultyCluster(directory, files)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
