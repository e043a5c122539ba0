"""Forgetting is told: `trimmed_turns` in `usage` and `status`, at every level.

A chat of one word a turn goes on for longer than what it is kept in.  The model says what it was
given, so the answer itself shows which turns it knew.
"""

from __future__ import annotations

import re

import pytest

from llambo9p.conversation.limits import Limits
from tests.cluster.harness import cluster, simulated_host
from tests.files import Files, story

from .harness import conversing

TURNS = 12


def what_it_was_given(prompt: str) -> bytes:
    """The numbers of the turns that the model knows."""
    return " ".join(re.findall(r"turn(\d+)!", prompt)).encode()


async def chat(files: Files, directory: str) -> list[int]:
    """Ask, each time anew; `trimmed_turns` of each answer, as `usage` has it."""
    told = []
    for number in range(TURNS):
        await files.write(f"{directory}prompt", f"turn{number}!" + "." * 30)
        known = (await files.read(f"{directory}out")).split()
        trimmed = int((await files.attrs(f"{directory}usage"))["trimmed_turns"])
        assert known == [str(n) for n in range(trimmed, number + 1)]
        assert int((await files.attrs(f"{directory}status"))["trimmed_turns"]) == trimmed
        told.append(trimmed)
    return told


@story
async def test_turns_that_do_not_fit_the_context_are_counted() -> None:
    async with conversing(n_ctx=300, answer=what_it_was_given) as place:
        told = await chat(place.files, "")
        assert told[0] == 0 and 0 < told[-1] < TURNS and told == sorted(told)
        # one-shot queries have no turns, and `reset` begins anew
        await place.files.write("ctl", "reset")
        assert (await place.files.attrs("status"))["trimmed_turns"] == "0"
        assert (await chat(place.files, ""))[0] == 0


@story
async def test_turns_that_there_is_no_room_to_keep_are_counted() -> None:
    async with conversing(Limits(history_bytes=900), answer=what_it_was_given) as place:
        told = await chat(place.files, "")
        assert told[0] == 0 and 0 < told[-1] < TURNS


@pytest.mark.parametrize("where", ["", "worker-0000/", "fusion/"])
@story
async def test_a_cluster_tells_it_too(where: str) -> None:
    async with (
        cluster() as running,
        simulated_host(1, n_ctx=300, answer=what_it_was_given) as host,
    ):
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        if where == "fusion/":
            await files.write("fusion/ctl", "n_nodes 1\nstrategy best-of-n")
        told = await chat(files, where)
        assert told[0] == 0 and 0 < told[-1] < TURNS


@story
async def test_an_orchestrator_above_tells_what_its_own_and_the_one_below_forgot() -> None:
    async with (
        cluster() as above,
        cluster() as below,
        simulated_host(1, n_ctx=300, answer=what_it_was_given) as host,
    ):
        await below.files.write("ctl", f"mount {host.address}")
        await above.files.write("ctl", f"mount {below.address} region")
        told = await chat(above.files, "")
        assert told[0] == 0 and 0 < told[-1] < TURNS
