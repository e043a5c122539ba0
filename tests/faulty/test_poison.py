"""Prompts that end each host which reads them.  What was asked beside them is answered, they fail
with the reason, and host after host does not die.  Hosts are processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

import pytest

from tests.cluster.harness import cluster
from tests.files import story

from .cluster import asked, faulty_cluster, faulty_host

pytestmark = pytest.mark.timeout(90)

FAILED = re.compile(
    r"the host of worker-\d{4} died while only this request ran on it \((.*)\), and ([12]) before"
    " it while they worked on this request: no other host gets it"
)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ("please abort", "SIGABRT"),
        ("please hang", "host is lost: a step"),
        ("please die", "SIGKILL"),
    ],
)
@story
async def test_a_prompt_that_ends_hosts_fails_and_no_other_does(harm: str, reason: str) -> None:
    async with faulty_cluster(4, slots=8) as running:
        innocent = [f"hello {i}" for i in range(24)]
        before = [asyncio.create_task(asked(running.files, prompt)) for prompt in innocent[:12]]
        poison = asyncio.create_task(asked(running.files, harm))
        after = [asyncio.create_task(asked(running.files, prompt)) for prompt in innocent[12:]]
        answers = await asyncio.gather(*before, *after)
        assert answers == [f"simulated: {prompt}" for prompt in innocent]
        failed = FAILED.fullmatch(await poison)
        assert failed is not None, await poison
        assert failed[1].startswith(reason)
        deaths = int(failed[2]) + 1
        assert len(await running.events("host.ended", at_least=deaths)) == deaths <= 3
        await running.until_healthy(4)
        assert await asked(running.files, "hello") == "simulated: hello"


@story
async def test_one_that_is_asked_alone_ends_two_hosts_and_the_next_user_is_not_refused() -> None:
    async with faulty_cluster(4) as running:
        failed = FAILED.fullmatch(await asked(running.files, "please abort"))
        assert failed is not None and failed[2] == "1"
        assert await asked(running.files, "hello") == "simulated: hello"
        assert len(await running.events("host.ended", at_least=2)) == 2
        nodes = [await running.files.attrs(f"nodes/{n}") for n in await running.files.ls("nodes")]
        assert all(node["circuit"] == "closed" for node in nodes)


@story
async def test_of_several_each_fails_and_every_other_is_answered() -> None:
    async with faulty_cluster(4, slots=8) as running:
        prompts = [f"please abort {i}" if i % 10 == 3 else f"hello {i}" for i in range(30)]
        answers = await asyncio.gather(*(asked(running.files, prompt) for prompt in prompts))
        for prompt, answer in zip(prompts, answers, strict=True):
            if prompt.startswith("hello"):
                assert answer == f"simulated: {prompt}"
            else:
                assert FAILED.fullmatch(answer), answer
        assert len(await running.events("host.ended")) <= 9


@story
async def test_a_nested_orchestrator_passes_it_on_as_the_requests_own_fault() -> None:
    """The root neither sends it to another region nor blames the first."""
    async with cluster() as root, faulty_cluster(2) as one, faulty_cluster(2) as two:
        await root.files.write("ctl", f"mount {one.address} one\nmount {two.address} two")
        failed = FAILED.fullmatch(await asked(root.files, "please abort"))
        assert failed is not None and failed[2] == "1"
        ended = [len(await region.events("host.ended")) for region in (one, two)]
        assert sorted(ended) == [0, 2]
        for region in ("one", "two"):
            node = await root.files.attrs(f"nodes/{region}")
            assert (node["health"], node["circuit"]) == ("healthy", "closed")


@story
async def test_hosts_that_were_mounted_by_address_are_not_ended_one_by_one() -> None:
    """Nobody says how they ended: that nobody listens there any more is all that is seen."""
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(cluster())
        hosts = [await stack.enter_async_context(faulty_host(number)) for number in range(4)]
        for address in hosts:
            await running.files.write("ctl", f"mount {address}")
        prompts = [f"please abort {i}" if i == 3 else f"hello {i}" for i in range(8)]
        answers = await asyncio.gather(*(asked(running.files, prompt) for prompt in prompts))
        failed = FAILED.fullmatch(answers.pop(3))
        assert failed is not None
        assert answers == [f"simulated: hello {i}" for i in range(8) if i != 3]
        lost = int((await running.files.attrs("status"))["lost"])
        assert lost == int(failed[2]) + 1 < 4
