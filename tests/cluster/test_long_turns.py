"""What users ask of an orchestrator with thousands of workers: no turn of its event loop is long.

The host is in the same event loop, and what it does is measured with the orchestrator's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from llambo9p.cluster.config import Cluster, LoadBalancer
from llambo9p.fs.user import User
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.node import Node
from tests.files import story
from tests.turns import LIMIT, RawClient, apart, measured

from .harness import RunningCluster, cluster, simulated_host

WORKERS = 6_000
NAMES = [f"worker-{number:04d}" for number in range(WORKERS)]


async def texts(running: RunningCluster) -> None:
    """Every text of the root, opened 20 times in a packet."""

    def run() -> None:
        client = RawClient(running.address)
        for name in ("workers", "status", "metrics", "metrics.json", "health", "config", "events"):
            msgs: list[m.Message] = []
            for fid in range(1, 21):
                msgs += [m.Twalk(fid, 0, fid, (name,)), m.Topen(fid, fid, c.OREAD)]
                msgs += [m.Tread(fid, fid, 0, 100_000), m.Tclunk(fid, fid)]
            client.ask(*msgs)
        client.close()

    await apart(run)


async def listings(running: RunningCluster) -> None:
    assert len(await running.files.ls("nodes")) == WORKERS
    assert len(await running.files.ls()) > WORKERS


async def a_new_user(running: RunningCluster) -> None:
    """Who sees all workers when he is there, also where he comes twice at once."""
    orchestrator = running.orchestrator
    attaching = [orchestrator.attach(User("alice"), ""), orchestrator.attach(User("alice"), "")]
    roots: list[Node] = []
    for each in attaching:
        assert isinstance(each, Awaitable)
        roots.append(await each)
    assert roots[0] is roots[1] is orchestrator.attach(User("alice"), "")
    root = orchestrator._roots["alice"]
    assert [child.name for child in root.children if child.name in set(NAMES)] == NAMES


async def a_verb_about_all(running: RunningCluster) -> None:
    await running.files.write("ctl", f"drain {' '.join(NAMES)}")
    assert f"\ndraining {WORKERS}\n" in await running.files.read("status")


INPUTS: list[Callable[[RunningCluster], Awaitable[None]]] = [
    texts, listings, a_new_user, a_verb_about_all,
]  # fmt: skip


@pytest.mark.slow
@story
async def test_no_turn_is_long_with_thousands_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    # the heartbeats of so many are not asked for here
    config = Cluster(load_balancer=LoadBalancer(health_check_interval="600s"))
    longest = {}
    async with cluster(config) as running, simulated_host(WORKERS) as host:
        await running.files.write("ctl", f"mount {host.address}")
        for ask in INPUTS:
            with measured(monkeypatch) as turns:
                await ask(running)
            longest[ask.__name__] = round(turns.longest, 3)
    assert all(seconds < LIMIT for seconds in longest.values()), longest
