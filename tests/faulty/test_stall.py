"""Hosts as processes that hang, stop or break: what they were asked is answered elsewhere, and
their workers come back under their names.
"""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.files import story

from .cluster import asked, faulty_cluster

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ("please hang", r"host is lost: a step of \d+ rows has not ended after"),
        ("please fail", "host is lost: the decode thread died: division by zero"),
        ("please abort", "SIGABRT"),
        ("please stop", "SIGKILL"),
    ],
)
@story
async def test_a_host_that_does_not_go_on_is_noticed_and_started_again(
    harm: str, reason: str
) -> None:
    async with faulty_cluster(2, workers=2, once=True) as running:
        before = running.pids()
        running.once.touch()
        answers = await asyncio.gather(*(asked(running.files, f"{harm} {i}") for i in range(6)))
        assert answers == [f"simulated: {harm} {i}" for i in range(6)]
        [ended] = await running.events("host.ended", at_least=1)
        assert re.search(reason, ended["reason"]), ended["reason"]
        await running.until_healthy(4)
        await running.files.write("ctl", "save")
        after = running.pids()
        assert after.keys() == before.keys()
        assert sum(after[name] != before[name] for name in after) == 1
        assert set(await running.files.ls("nodes")) == {f"worker-{n:04d}" for n in range(4)}
        for n in range(4):
            worker = f"worker-{n:04d}"
            assert await running.files.ask("hello", worker) == "simulated: hello"
