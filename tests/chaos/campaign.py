"""Lets a cluster of processes have trouble for a while, and says what became of it.

    python -m tests.chaos.campaign [--minutes 1] [--seed 1] [--clients 100] [--restarts] [--real]

What a seed says is which trouble comes to which host, and what clients do; when each thing
happens depends on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import answers
from .clients import ChaosClient, Count, Expected
from .cluster import ChaosCluster, differences, moved
from .troubles import make_trouble

HEALED_S = 120.0
"""in which all is as before, when there is no trouble any more"""
RESTART_S = 10.0
"""from one death of the orchestrator to the next, about"""
_PLACES = "Paris", "the sea", "a small village", "the moon", "New York"
PROMPTS = [f"{begin} {place}" for begin in ("I live in", "My way to") for place in _PLACES]
"""for the real model"""
SETTINGS = "mode chat\nmax_tokens 2000\n"
SETTINGS_REAL = "mode complete\ntemperature 0\nmax_tokens 40\n"
_SHOWN = 20
"""problems"""
_CRASH = re.compile(r"Traceback|\bERROR\b|never retrieved|internal error|coredump|Assertion")


@dataclass(frozen=True)
class Plan:
    seed: int = 1
    seconds: float = 20.0
    clients: int = 100
    real: bool = False
    mounted: int = 2
    registered: int = 2
    spawned: int = 1
    spared: int = 2
    """hosts that are well at any time"""
    pause: float = 0.5
    """seconds from one trouble to the next"""
    restarts: float | None = None
    """seconds from one death of the orchestrator to the next, about"""


@dataclass
class Found:
    count: Count
    troubles: Counter[str]
    healed: float
    """seconds until all was as before"""
    leftovers: list[str]
    """what was not even then"""
    crashes: list[str]
    """lines of logs"""
    retries: Counter[str] = field(default_factory=Counter)
    kilobytes: tuple[int, int] = (0, 0)
    """of the orchestrator's memory, before and after"""

    @property
    def problems(self) -> list[str]:
        """What must not be."""
        problems = self.count.wrong + self.leftovers + self.crashes
        if (self.count.broken or self.count.refused) and not self.troubles["restart"]:
            problems.append("connections were broken or refused, and the orchestrator lived")
        if self.count.asked != self.count.ended:
            problems.append(f"of {self.count.asked} questions {self.count.ended} have an end")
        return problems

    def __str__(self) -> str:
        troubles = ", ".join(f"{name} {times}" for name, times in self.troubles.items())
        retries = ", ".join(f"{name} {times}" for name, times in self.retries.items())
        lines = [
            f"{self.troubles.total()} troubles: {troubles}",
            f"sent again: {retries}; healed in {self.healed:.1f} s",
            f"memory of the orchestrator: {self.kilobytes[0]} -> {self.kilobytes[1]} KiB",
            str(self.count),
        ]
        return "\n".join(lines + self.problems[:_SHOWN])


async def campaign(plan: Plan, directory: Path) -> Found:
    """Logs and sockets are in `directory`."""
    cluster = ChaosCluster(directory, "default" if plan.real else "simulated")
    try:
        await cluster.start(plan.mounted, plan.registered, plan.spawned)
        return await _run(plan, cluster, random.Random(plan.seed))
    finally:
        await cluster.close()


async def _run(plan: Plan, cluster: ChaosCluster, rng: random.Random) -> Found:
    settings = SETTINGS_REAL if plan.real else SETTINGS
    await cluster.files.write("ctl", settings)
    expected: Expected = await _undisturbed(cluster) if plan.real else answers.expected
    before, places = await cluster.held(), await cluster.places()
    count = Count()
    clients = [
        ChaosClient(
            cluster.address,
            random.Random(rng.random()),
            count,
            expected,
            (lambda rng: rng.choice(PROMPTS)) if plan.real else _prompt,
            settings,
        )
        for _ in range(plan.clients)
    ]
    running = [asyncio.create_task(client.run()) for client in clients]
    operating = asyncio.create_task(cluster.operate(random.Random(rng.random())))
    troubling = make_trouble(
        cluster.hosts, random.Random(rng.random()), plan.seconds, plan.spared, plan.pause
    )
    restarting = _restart(cluster, random.Random(rng.random()), plan)
    troubles, restarts = await asyncio.gather(troubling, restarting)
    operating.cancel()
    await asyncio.wait([operating])
    for client in clients:
        client.stop()
    await asyncio.gather(*running)
    if restarts:
        troubles["restart"] = restarts
        await cluster.hosts[-1].kill()  # or it could be another's child than it was
    loop = asyncio.get_running_loop()
    began = loop.time()
    while leftovers := [
        *differences(before, after := await cluster.held()),
        *moved(places, await cluster.places()),
    ]:
        if loop.time() - began > HEALED_S:
            break
    return Found(
        count,
        troubles,
        loop.time() - began,
        leftovers,
        [line for line in cluster.log_lines() if _CRASH.search(line)],
        await cluster.retries(),
        (before["orchestrator"].kilobytes, after["orchestrator"].kilobytes),
    )


async def _restart(cluster: ChaosCluster, rng: random.Random, plan: Plan) -> int:
    """Kill the orchestrator now and then, and have another one take over; how often."""
    if plan.restarts is None:
        return 0
    loop = asyncio.get_running_loop()
    end = loop.time() + plan.seconds
    times = 0
    while loop.time() + (pause := plan.restarts * rng.uniform(0.1, 1.9)) < end:
        await asyncio.sleep(pause)
        print(f"{loop.time():.2f} restart")
        await cluster.restart(rng.uniform(0, 2))
        times += 1
    return times


def _prompt(rng: random.Random) -> str:
    return "".join(rng.choices(answers.LETTERS, k=rng.randint(1, 150))) + "?"


async def _undisturbed(cluster: ChaosCluster) -> Expected:
    """What the real model says when all is well."""
    said = {prompt: await cluster.files.ask(prompt) for prompt in PROMPTS}
    await cluster.files.write("ctl", "reset")  # or a worker would keep its conversation
    return lambda messages: said[messages[-1]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="tests.chaos.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument(
        "--restarts", action="store_true", help="the orchestrator is killed, too, now and then"
    )
    parser.add_argument("--real", action="store_true", help="with the real model")
    options = parser.parse_args(arguments)
    plan = Plan(
        options.seed,
        options.minutes * 60,
        options.clients,
        options.real,
        restarts=RESTART_S if options.restarts else None,
    )
    directory = Path(tempfile.mkdtemp(prefix="llambo-chaos-"))
    print(f"logs are in {directory}")
    found = asyncio.run(campaign(plan, directory))
    print(found)
    raise SystemExit(1 if found.problems else 0)


if __name__ == "__main__":
    main()
