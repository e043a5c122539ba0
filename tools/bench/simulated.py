"""Ten thousand workers of simulated hosts: what those pay who look at them, and who choose.

Printed are:

- the time of `spawn`, and of reads through one connection, in ms: the root's listing, `status`,
  `metrics` and one worker's file in `nodes/`, the first time and the median of the next ones,
  as bytes that nobody looks at; and of all files in `nodes/`, one after the other and 32 at a
  time;
- the time of `llamboctl nodes list`, the start of that program included;
- the CPU time of orchestrator and hosts while nobody asks anything: heartbeats;
- when a new orchestrator serves after `kill -9` of the old one, and when all workers are
  healthy there, from the start of its process;
- the CPU time of a decision of the balancer, in us, with 10 workers and with all.

    python -m llambo9p_tools.bench.simulated [--workers 10000] [--hosts 4] [--repeat 9]
        [--idle 5] [--decisions 20000]
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import uvloop

from llambo9p.cluster.balancer import Balancer
from llambo9p.cluster.strategies import BUILT_IN
from llambo9p.engine.base import Request, SamplingParams
from llambo9p.net.address import Address
from llambo9p.net.client import Client
from llambo9p.p9.constants import OREAD

from . import processes
from .contenders import configure, orchestrator, write_root
from .turns import N_CTX

SLOTS = 32
AT_ONCE = 32
"""reads of files in `nodes/` that are outstanding"""


class Reader:
    """A connection."""

    def __init__(self, client: Client, root: int) -> None:
        self._client = client
        self._root = root

    async def read(self, path: str) -> bytes:
        async with await self._client.open(self._root, path, OREAD) as file:
            return await file.read_all()

    async def names(self, path: str) -> list[str]:
        async with await self._client.open(self._root, path, OREAD) as file:
            return [entry.name for entry in await file.read_dir()]


@asynccontextmanager
async def reader(at: Address) -> AsyncIterator[Reader]:
    client = await Client.connect(at)
    try:
        root, _ = await client.attach("bench")
        yield Reader(client, root)
    finally:
        client.close()


async def timed(work: Coroutine[None, None, object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def look(at: Address, count: int, repeat: int) -> None:
    """Time the reads, and print them."""
    async with reader(at) as files:
        reads: dict[str, Callable[[], Coroutine[None, None, object]]] = {
            "ls": lambda: files.read(""),
            "status": lambda: files.read("status"),
            "metrics": lambda: files.read("metrics"),
            "one of nodes/": lambda: files.read("nodes/worker-0000"),
        }
        for name, read in reads.items():
            first, *others = [await timed(read()) * 1000 for _ in range(1 + repeat)]
            print(f"{name}: {first:.2f} ms at first, then {statistics.median(others):.2f}")
        names = await files.names("nodes")
        if len(names) != count:
            raise SystemExit(f"{len(names)} files in nodes/, not {count}")

        async def read_all(left: list[str]) -> None:
            while left:
                await files.read(f"nodes/{left.pop()}")

        async def read_at_once(left: list[str]) -> None:
            await asyncio.gather(*(read_all(left) for _ in range(AT_ONCE)))

        alone = await timed(read_all(list(names)))
        crowd = await timed(read_at_once(list(names)))
    print(f"all of nodes/: {alone:.2f} s one after the other, {crowd:.2f} s {AT_ONCE} at a time")


def list_nodes(at: Address, count: int) -> None:
    command = [sys.executable, "-m", "llambo9p_tools.llamboctl", "--addr", str(at)]
    began = time.perf_counter()
    lines = subprocess.check_output([*command, "nodes", "list"]).splitlines()
    took = time.perf_counter() - began
    if len(lines) != count + 1:
        raise SystemExit(f"llamboctl nodes list shows {len(lines)} lines for {count} workers")
    print(f"llamboctl nodes list: {took:.2f} s", flush=True)


def measure_idle(orchestrator: int, seconds: float) -> None:
    hosts = processes.children(orchestrator)

    def spent() -> tuple[float, float]:
        return sum(processes.cpu(orchestrator)), sum(sum(processes.cpu(pid)) for pid in hosts)

    before = spent()
    time.sleep(seconds)
    ours, theirs = ((now - then) / seconds for then, now in zip(before, spent(), strict=True))
    print(f"idle: {ours:.2%} of a core in the orchestrator, {theirs:.2%} in {len(hosts)} hosts")


async def are_healthy(at: Address, count: int) -> bool:
    async with reader(at) as files:
        return f"\nhealthy {count}\n" in (await files.read("health")).decode()


def measure_restart(directory: str, count: int) -> None:
    began = time.perf_counter()
    with orchestrator(directory) as (at, _):
        serves = time.perf_counter() - began
        while not uvloop.run(are_healthy(at, count)):
            time.sleep(0.01)
        healthy = time.perf_counter() - began
    print(f"after kill -9: it serves after {serves:.2f} s, all are healthy after {healthy:.2f} s")


def decide(strategy: str, workers: int, hosts: int, count: int) -> float:
    """Seconds of CPU time that a decision takes, of prompts that end when the next 8 have come."""
    balancer = Balancer(strategy, random.Random(1))
    for number in range(workers):
        balancer.add(f"worker-{number:04d}", f"host {number % hosts}", slots=SLOTS)
    params = SamplingParams(max_tokens=64)
    requests = [Request(f"{i % 50} ".ljust(1000, "."), params) for i in range(count)]
    going = []
    began = time.process_time()
    for request in requests:
        work = balancer.choose(request)
        assert work is not None
        going.append(work)
        if len(going) > 8:
            balancer.finished(going.pop(0))
    return (time.process_time() - began) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--idle", type=float, default=5, help="seconds")
    parser.add_argument("--decisions", type=int, default=20_000)
    options = parser.parse_args()
    count, hosts = options.workers, options.hosts
    with tempfile.TemporaryDirectory() as directory:
        configure(directory, SLOTS, N_CTX, "simulated", math.ceil(count / hosts))
        with orchestrator(directory) as (at, pid):
            spawn = uvloop.run(timed(write_root(at, "ctl", f"spawn --count {count}")))
            print(f"{count} workers of {hosts} hosts spawned: {spawn:.2f} s", flush=True)
            uvloop.run(look(at, count, options.repeat))
            list_nodes(at, count)
            measure_idle(pid, options.idle)
            os.kill(pid, signal.SIGKILL)
        measure_restart(directory, count)
    for strategy in BUILT_IN:
        few, many = (
            decide(strategy, n, min(n, hosts), options.decisions) * 1e6 for n in (10, count)
        )
        print(f"a decision, {strategy}: {few:.1f} us with 10 workers, {many:.1f} with {count}")


if __name__ == "__main__":
    main()
