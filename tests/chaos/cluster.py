"""A cluster of processes that trouble can come to, and what they hold.

An orchestrator, and three kinds of hosts: mounted by their address, registered by themselves,
and started by the orchestrator.  The first two are behind proxies.  The orchestrator itself may
be killed and followed by another one at its address, with its state file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llambo9p.errors import Error
from llambo9p.net.address import Address, parse
from tests.files import ANYWHERE, Files, files_of

from .processes import Host, Own, Process, Spawned, running, seen
from .proxy import Proxy

CONFIG = """
cluster:
  nodes:
    spawned: {{resources: {{model: {model}, slots: 8, context_size: {context}, threads: 1}}}}
  load_balancer: {{health_check_interval: 250, timeout: 3000}}
  state: {{orphan_timeout: 20000}}
"""
WORKERS = 2
"""of each host"""
CONTEXT = 4096
STRATEGIES = "least-loaded", "round-robin", "affinity", "random"
STEP_S, SLOW_STEP_S = 0.005, 0.02
"""of a simulated engine; the first host is slow"""
SAMPLES = 5
SAMPLE_S = 0.1
READY_S = 60.0
HELD = {
    "llambo_connections", "llambo_fids", "llambo_tags", "llambo_conversations",
    "llambo_buffered_bytes", "llambo_kept_bytes", "llambo_tasks", "llambo_queue_depth",
    "llambo_active_requests",
}  # fmt: skip
"""gauges of what must be as before when the clients are gone"""


@dataclass(frozen=True)
class Held:
    """By one process, when it does least."""

    gauges: dict[str, float]
    files: Counter[str]
    """its descriptors, by kind"""
    kilobytes: int


class ChaosCluster:
    def __init__(self, directory: Path, model: str) -> None:
        self.hosts: list[Host] = []
        self.address = ANYWHERE
        """of the orchestrator"""
        self._directory = directory
        self._model = model
        self._proxies: list[Proxy] = []
        self._connection = contextlib.AsyncExitStack()
        self._retries: Counter[str] = Counter()
        """of orchestrators that were killed"""
        (directory / "config.yaml").write_text(CONFIG.format(model=model, context=CONTEXT))
        self._spawned = str(directory / "state.hosts" / "host.yaml")
        """names the hosts that an orchestrator started"""
        self._orchestrator = self._make_orchestrator(ANYWHERE)

    def _make_orchestrator(self, at: Address) -> Process:
        directory = self._directory
        return Process(
            "llambo9p_nodes.orchestrator",
            *("--listen", str(at), "--config", str(directory / "config.yaml")),
            *("--state", str(directory / "state")),
            log=directory / "orchestrator.log",
            step=STEP_S,
        )

    async def _start_orchestrator(self) -> None:
        self.address = await self._orchestrator.start()
        self.files = await self._connection.enter_async_context(files_of(self.address))

    async def start(self, mounted: int, registered: int, spawned: int) -> None:
        """Return when all hosts are well."""
        await self._start_orchestrator()
        for _ in range(mounted):
            host = await self._own_host()
            await self.files.write("ctl", f"mount {host.proxies[0].address}")
        for _ in range(registered):
            await self._own_host(registers=True)
        if spawned:
            assert spawned == 1, "or they could not be told apart"
            await self.files.write("ctl", f"spawn --count {WORKERS}")
            self.hosts.append(Spawned("spawned", self._spawned))
        async with asyncio.timeout(READY_S):
            while not await self._is_well():  # noqa: ASYNC110 (there is no event to wait for)
                await asyncio.sleep(SAMPLE_S)

    async def _own_host(self, registers: bool = False) -> Own:
        number = len(self.hosts)
        kind = "registered" if registers else "mounted"
        proxies = [await self._proxy()]
        options: tuple[str, ...] = ()
        if registers:
            proxies.append(await self._proxy(self.address))
            options = ("--register", str(proxies[1].address))
            options += ("--announce", str(proxies[0].address))
        process = Process(
            "llambo9p_nodes.worker",
            *("--listen", str(ANYWHERE), "--model", self._model, "--type", kind),
            *("--count", str(WORKERS), "--first", str(number * WORKERS)),
            *("--context", str(CONTEXT), "--slots", "8", "--threads", "1", *options),
            log=self._directory / f"host-{number}.log",
            step=STEP_S if number else SLOW_STEP_S,
        )
        host = Own(f"{kind}-{number}", process, proxies)
        await host.start()
        self.hosts.append(host)
        return host

    async def _proxy(self, to: Address | None = None) -> Proxy:
        proxy = Proxy(to)
        await proxy.listen()
        self._proxies.append(proxy)
        return proxy

    async def close(self) -> None:
        await self._connection.aclose()
        await self._orchestrator.end(signal.SIGTERM)
        for pid in running(self._spawned):  # that nobody owns any more
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for host in self.hosts:
            if isinstance(host, Own):
                await host.kill()
        for proxy in self._proxies:
            await proxy.close()

    # -- what happens to it ---------------------------------------------------------

    async def restart(self, pause: float = 0) -> None:
        """Kill the orchestrator, and so many seconds later let another one take over."""
        self._retries = await self.retries()
        await self._orchestrator.end()
        await self._connection.aclose()
        await asyncio.sleep(pause)
        self._orchestrator = self._make_orchestrator(self.address)
        await self._start_orchestrator()

    async def operate(self, rng: random.Random) -> None:
        """Drain workers for a while, and change the strategy, until cancelled; then all is
        resumed."""
        try:
            while True:
                await asyncio.sleep(rng.uniform(0.5, 3))
                await self._do(f"strategy {rng.choice(STRATEGIES)}")
                name = rng.choice(await self._names() or [""])
                await self._do(f"drain {name}")
                await asyncio.sleep(rng.uniform(0, 3))
                await self._do(f"resume {name}")
        finally:
            for name in await self._names():
                await self._do(f"resume {name}")

    async def _do(self, verb: str) -> None:
        with contextlib.suppress(Error):  # the worker may be lost, or the orchestrator be killed
            await self.files.write("ctl", verb)

    async def _names(self) -> list[str]:
        """Of the workers; none while the orchestrator is killed."""
        with contextlib.suppress(Error):
            return await self.files.ls("nodes")
        return []

    # -- what can be seen -----------------------------------------------------------

    async def _is_well(self) -> bool:
        health = await self.files.attrs("health")
        wanted = str(WORKERS * len(self.hosts))
        return (health["nodes"], health["healthy"]) == (wanted, wanted)

    async def held(self) -> dict[str, Held]:
        """By all processes, by name, when they do least within half a second and every worker
        was looked into, for it is attached then."""
        for name in await self._names():
            with contextlib.suppress(Error):
                await self.files.read(f"{name}/status")
        samples = [await self._sample() for _ in range(SAMPLES)]
        least = samples[0]
        for sample in samples[1:]:
            least = {name: _least(least[name], sample[name]) for name in least if name in sample}
        return least

    async def _sample(self) -> dict[str, Held]:
        await asyncio.sleep(SAMPLE_S)
        sample = {"orchestrator": await _held(self.files, self._orchestrator.pid)}
        gauges = sample["orchestrator"].gauges
        gauges["healthy"] = float((await self.files.attrs("health"))["healthy"])
        gauges["hosts that it started"] = float(len(running(self._spawned)))
        for host in self.hosts:
            address, pid = await self._address_of(host), host.pid()
            with contextlib.suppress(Error, FileNotFoundError):  # it has just ended
                if address is not None and pid is not None:
                    async with files_of(address) as files:
                        sample[host.name] = await _held(files, pid)
        return sample

    async def _address_of(self, host: Host) -> Address | None:
        if isinstance(host, Own):
            return host.address
        for name in await self.files.ls("nodes"):
            node = await self.files.attrs(f"nodes/{name}")
            if node["type"] == host.name:
                return parse(node["addr"])
        return None

    async def places(self) -> dict[str, str]:
        """Where each worker is, by name: the address of its host, or its type if that is started
        anywhere."""
        nodes = {name: await self.files.attrs(f"nodes/{name}") for name in await self._names()}
        return {
            name: node["type"] if node["type"] == "spawned" else node["addr"]
            for name, node in nodes.items()
        }

    async def retries(self) -> Counter[str]:
        """Of requests, by kind, as the orchestrators count them."""
        text = await self.files.read("metrics")
        found = re.findall(r'^llambo_retries_total\{kind="(\w+)"\} (\S+)', text, re.MULTILINE)
        return self._retries + Counter({kind: round(float(value)) for kind, value in found})

    def log_lines(self) -> Iterator[str]:
        for path in sorted(self._directory.rglob("*.log")):
            for line in path.read_text(errors="replace").splitlines():
                yield f"{path.name}: {line}"


async def _held(files: Files, pid: int) -> Held:
    gauges: dict[str, float] = {}
    for line in (await files.read("metrics")).splitlines():
        name, _, value = line.partition(" ")
        if name in HELD:
            gauges[name] = float(value)
    process = seen(pid)
    return Held(gauges, process.files, process.kilobytes)


def _least(one: Held, two: Held) -> Held:
    gauges = {name: min(value, two.gauges[name]) for name, value in one.gauges.items()}
    return Held(gauges, one.files & two.files, min(one.kilobytes, two.kilobytes))


def differences(before: dict[str, Held], after: dict[str, Held]) -> list[str]:
    """What is not as it was, a line each."""
    lines = [f"{name} is not there" for name in before if name not in after]
    for name in before.keys() & after.keys():
        one, two = before[name], after[name]
        for what in one.gauges | one.files | two.files:
            was = one.gauges.get(what, one.files[what])
            now = two.gauges.get(what, two.files[what])
            if was != now:
                lines.append(f"{name}: {what} was {was:g} and is {now:g}")
    return sorted(lines)


def moved(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Workers that are not where they were, a line each."""
    return [
        f"{name} was at {before.get(name)} and is at {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
