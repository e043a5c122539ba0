"""The campaign for a while, and that it notices what is wrong.

`$LLAMBO_CHAOS_SECONDS` lets it last longer, `$LLAMBO_CHAOS_SEED` draws other troubles.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from llambo9p.engine.simulated import echo
from tests.cluster.harness import cluster, simulated_host
from tests.files import story, until
from tests.tiers import either

from . import answers
from .campaign import HEALED_S, SETTINGS, Plan, campaign
from .clients import ChaosClient, Count, Expected
from .cluster import Held, differences, moved

SECONDS = float(os.environ.get("LLAMBO_CHAOS_SECONDS", either("6", "60")))
SEED = int(os.environ.get("LLAMBO_CHAOS_SEED", "1"))
FAILED_SHARE = 0.02
"""of what is asked: more than `max_retries` hosts that had begun with it had trouble, one after
the other"""


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS + 2 * HEALED_S)
@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan(SEED, SECONDS, clients=40), marks=pytest.mark.second_tier),
        Plan(SEED, SECONDS, clients=40, restarts=SECONDS / 3),
        Plan(SEED, SECONDS, clients=8, real=True),
    ],
    ids=["simulated", "restarts", "real"],
)
@story
async def test_whatever_happens_all_is_answered_once_and_right_or_clearly_not(
    plan: Plan, tmp_path: Path
) -> None:
    found = await campaign(plan, tmp_path)
    print(found)
    assert not found.problems
    assert found.troubles.total() > plan.seconds / 5
    assert found.count.answered > plan.clients
    assert found.retries.total() > 0, "the trouble came to who was asked"
    assert (found.count.broken.total() > 0) == (plan.restarts is not None)
    assert found.count.failed.total() <= found.count.asked * FAILED_SHARE


def _echoed(messages: list[str]) -> str:
    return echo(messages[-1]).decode()


@pytest.mark.parametrize(("expected", "right"), [(_echoed, True), (answers.expected, False)])
@story
async def test_a_wrong_answer_is_noticed(expected: Expected, right: bool) -> None:
    count = Count()
    async with cluster() as running, simulated_host(2) as host:
        await running.files.write("ctl", f"mount {host.address}\n{SETTINGS}")
        client = ChaosClient(
            running.address, random.Random(1), count, expected, lambda rng: "hello", SETTINGS
        )
        asking = asyncio.create_task(client.run())
        await until(lambda: count.ended >= 20)
        client.stop()
        await asking
        await until(lambda: len(running.server.connections) == 1)
    assert (not count.wrong) == right
    assert count.asked == count.ended and not count.failed


def test_what_is_left_over_is_named() -> None:
    other = Held({}, Counter(), 1)
    before = {"host": Held({"llambo_fids": 3.0}, Counter(socket=2), 1), "other": other}
    after = {"host": Held({"llambo_fids": 4.0}, Counter(socket=2, pipe=1), 9)}
    assert differences(before, before) == []
    assert differences(before, after) == [
        "host: llambo_fids was 3 and is 4",
        "host: pipe was 0 and is 1",
        "other is not there",
    ]


def test_who_has_moved_is_named() -> None:
    assert moved({"one": "here", "two": "there"}, {"two": "there", "one": "here"}) == []
    assert moved({"one": "here", "two": "there"}, {"one": "there", "three": "there"}) == [
        "one was at here and is at there",
        "three was at None and is at there",
        "two was at there and is at None",
    ]
