"""An orchestrator is killed, and another one takes over its hosts, which live.

Printed are the seconds since the new process was started

- until it listens, which it does at the latest when hosts had `recovery.BEGIN_S` to come back;
- until all workers are healthy again, each under its name and with its epoch;
- until the root has answered a prompt,

with the CPU time that it had used by then, and as `empty` the seconds until one listens that has
nothing to take back.  The model is the simulated one.

    python -m llambo9p_tools.bench.restart [--rounds 3] [--workers 10000] [--hosts 4]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
import yaml

from llambo9p.net import address
from llambo9p.net.address import Address
from llambo9p.net.client import Client
from llambo9p.p9.constants import OREAD, OWRITE

from . import processes

TYPE = "tiny"
COLUMNS = "listens", "all healthy", "answered", "CPU"


class Files:
    """What `at` serves."""

    def __init__(self, client: Client, root: int) -> None:
        self._client = client
        self._root = root

    @classmethod
    async def of(cls, at: Address) -> Files:
        client = await Client.connect(at)
        root, _ = await client.attach("bench")
        return cls(client, root)

    async def read(self, path: str) -> str:
        async with await self._client.open(self._root, path, OREAD) as file:
            return (await file.read_all()).decode()

    async def write(self, path: str, text: str) -> None:
        file = await self._client.open(self._root, path, OWRITE)
        await file.write(text.encode())
        await file.clunk()

    async def attrs(self, path: str) -> dict[str, str]:
        lines = (line.partition(" ") for line in (await self.read(path)).splitlines())
        return {name: value for name, _, value in lines}


class Cluster:
    """Its configuration and its state file."""

    def __init__(self, directory: Path, workers: int, hosts: int) -> None:
        self._directory = directory
        self.workers = workers
        each = -(-workers // hosts)
        nodes = {TYPE: {"workers_per_host": each, "resources": {"model": "simulated"}}}
        (directory / "cluster.yaml").write_text(yaml.safe_dump({"cluster": {"nodes": nodes}}))

    @contextmanager
    def orchestrator(self) -> Iterator[tuple[Address, subprocess.Popen[str]]]:
        """As long as the context lasts, if nobody kills it; its address."""
        with subprocess.Popen(
            [sys.executable, "-m", "llambo9p_nodes.orchestrator", "--listen", "tcp!127.0.0.1!0",
             "--config", str(self._directory / "cluster.yaml"),
             "--state", str(self._directory / "state")],
            stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            try:
                yield address.parse(process.stdout.readline().split()[1]), process
            finally:
                process.terminate()

    async def epochs(self, files: Files) -> dict[str, str]:
        """Of each worker, by name: some of them, for the crowd's sake."""
        names = [f"worker-{n:04d}" for n in range(0, self.workers, max(1, self.workers // 50))]
        return {name: (await files.attrs(f"nodes/{name}"))["epoch"] for name in names}

    async def until_healthy(self, files: Files) -> None:
        while int((await files.attrs("status"))["healthy"]) < self.workers:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    def restart(self) -> list[float]:
        """The figures of one restart, as `COLUMNS` names them."""
        with self.orchestrator() as (at, process):

            async def spawn() -> dict[str, str]:
                files = await Files.of(at)
                await files.write("ctl", f"spawn --count {self.workers} --type {TYPE}")
                return await self.epochs(files)

            before = uvloop.run(spawn())
            process.send_signal(signal.SIGKILL)
            process.wait()
        began = time.perf_counter()
        with self.orchestrator() as (at, process):

            async def look() -> list[float]:
                times = [time.perf_counter() - began]
                files = await Files.of(at)
                await self.until_healthy(files)
                times.append(time.perf_counter() - began)
                await files.write("prompt", "hello")
                if "hello" not in await files.read("out"):
                    raise SystemExit("the prompt was not answered")
                times.append(time.perf_counter() - began)
                times.append(sum(processes.cpu(process.pid)))
                if await self.epochs(files) != before:
                    raise SystemExit("the workers are not those of before")
                return times

            return uvloop.run(look())

    def empty(self) -> float:
        began = time.perf_counter()
        with self.orchestrator():
            return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--hosts", type=int, default=4)
    options = parser.parse_args()
    times, empty = [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as directory:
            cluster = Cluster(Path(directory), options.workers, options.hosts)
            times.append(cluster.restart())
            empty.append(cluster.empty())
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    shown = ", ".join(f"{what} {s:.2f}" for what, s in zip(COLUMNS, medians, strict=True))
    print(
        f"{options.workers} workers on {options.hosts} hosts (seconds, medians of "
        f"{options.rounds}): {shown}; empty {statistics.median(empty):.2f}; on "
        f"{os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
