"""What happens to hosts: which, when and how long is drawn by a seeded generator.

Each trouble is over when it returns, and then the host is as before.  At least `spared` hosts
are well at any time.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from .processes import Host
from .proxy import Proxy

Trouble = Callable[[Host, random.Random], Awaitable[None]]


async def kill(host: Host, rng: random.Random) -> None:
    await host.kill()
    await asyncio.sleep(rng.uniform(0, 2))
    await host.start()


async def stop(host: Host, rng: random.Random) -> None:
    """For a moment, or for so long that it is given up."""
    pid = host.pid()
    if pid is None:
        return
    seconds = rng.uniform(12, 16) if rng.random() < 0.2 else rng.uniform(0.1, 5)
    try:
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass  # the orchestrator has killed it


async def cut(host: Host, rng: random.Random) -> None:
    for proxy in _some(host, rng):
        proxy.cut()


async def be_away(host: Host, rng: random.Random) -> None:
    """Nobody can connect."""
    for proxy in _some(host, rng):
        proxy.refuse()
        await asyncio.sleep(rng.uniform(0.1, 3))
        proxy.accept()


async def hold(host: Host, rng: random.Random) -> None:
    """The network passes nothing on, and nobody is told."""
    for proxy in _some(host, rng):
        proxy.hold()
        await asyncio.sleep(rng.uniform(12, 16) if rng.random() < 0.2 else rng.uniform(0.1, 5))
        proxy.release()


async def be_slow(host: Host, rng: random.Random) -> None:
    for proxy in _some(host, rng):
        before = proxy.delay, proxy.piece
        proxy.delay, proxy.piece = rng.uniform(0.005, 0.2), rng.choice((40, 300, 5000))
        await asyncio.sleep(rng.uniform(1, 5))
        proxy.delay, proxy.piece = before


def _some(host: Host, rng: random.Random) -> list[Proxy]:
    """One of its proxies, if it has any."""
    return rng.sample(host.proxies, min(1, len(host.proxies)))


TROUBLES: Sequence[Trouble] = (kill, kill, stop, stop, cut, cut, be_away, hold, be_slow)


async def make_trouble(
    hosts: Sequence[Host], rng: random.Random, seconds: float, spared: int, pause: float
) -> Counter[str]:
    """For so many seconds, one every `pause` on average; then until all are over.  How many
    there were of each."""
    happened: Counter[str] = Counter()
    under_way: dict[asyncio.Task[None], Host] = {}
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await asyncio.sleep(rng.expovariate(1 / pause))
        trouble, host = rng.choice(TROUBLES), rng.choice(hosts)
        seed = rng.random()
        under_way = {task: host for task, host in under_way.items() if not _ended(task)}
        busy = list(under_way.values())
        if host in busy or len(busy) >= len(hosts) - spared:
            continue
        happened[trouble.__name__] += 1
        task = loop.create_task(_told(trouble, host, random.Random(seed)))
        under_way[task] = host
    await asyncio.gather(*under_way)
    return happened


async def _told(trouble: Trouble, host: Host, rng: random.Random) -> None:
    print(f"{asyncio.get_running_loop().time():.2f} {trouble.__name__} {host.name}")
    await trouble(host, rng)


def _ended(task: asyncio.Task[None]) -> bool:
    if task.done():
        task.result()
    return task.done()
