"""All attacks at once, and a user who does not notice them.

Alice's greedy answers come whole and exact while the attacks of `attacks` go on.  From a question
to its answer the host works at most `SLOWER` times as long as beside as many ordinary answers:
counted in its processor time, as tests beside this one take time of the machine.  Meanwhile the
orchestrator holds a bounded number of descriptors and bytes, `health` is right, and no host is
lost.  Afterwards all is free again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import statistics
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest

from llambo9p.engine.sandbox import compiler
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from tests.files import Files, story

from .attacks import ATTACKS
from .stage import (
    BUFFERED_MIB,
    CONNECTIONS,
    KEPT_MIB,
    QUESTIONS,
    SETTINGS,
    SLOTS,
    WORKERS,
    Held,
    Stage,
    stage,
)

ORDINARY_S = 15.0
ATTACKED_S = 45.0
FEWEST = 3
"""answers of which a median is taken"""
SLOWER = 3.0
SLOWEST_REPLY_S = 2.0
"""of the orchestrator to a Tstat; orchestrator and client wait for a processor, too"""
LONGEST_TURN_S = 0.5
"""of the orchestrator's event loop, in processor time, as its guard logs it"""
TURN = re.compile(r"a turn of the event loop took \S+ s, (\S+) s of them on a processor: .*")
OVERHEAD_MIB = 256
"""of the orchestrator beside what its limits count: buffers of sockets, fids, texts being made"""
DESCRIPTORS = CONNECTIONS + 300
"""connections, those of the exporter, those to hosts, and what is always open"""
CROWD = 50
"""requests that wait before alice asks"""
CROWD_S = 30.0
FEW = 8
"""connections more than before: users have some of their own to hosts"""
PIPES = 2 * compiler.CHILDREN
"""descriptors more than before: of children that compile"""
FREE_S = 20.0
"""for all to be free again"""


@dataclass
class Seen:
    """What an observer saw, who asks the orchestrator for next to nothing all the time."""

    slowest: float = 0.0
    """seconds of the slowest reply"""
    most: Held = field(default_factory=lambda: Held(0, 0, 0))
    waiting: int = 0
    """the most requests that waited"""
    unwell: set[str] = field(default_factory=set)
    """what `health` said that is not so"""


@contextlib.asynccontextmanager
async def observed(stage: Stage) -> AsyncIterator[Seen]:
    seen = Seen()
    loop = asyncio.get_running_loop()

    async def beat() -> None:
        async with stage.target.local("alice") as files:
            while True:
                began = loop.time()
                try:
                    await files.client.call(m.Tstat(0, files.root), m.Rstat)
                finally:  # also when no reply has come yet
                    seen.slowest = max(seen.slowest, loop.time() - began)
                await asyncio.sleep(0.02)

    async def look() -> None:
        while True:
            held = stage.held()
            seen.most = Held(
                max(seen.most.connections, held.connections),
                max(seen.most.descriptors, held.descriptors),
                max(seen.most.kilobytes, held.kilobytes),
            )
            health = await stage.owner.attrs("health")
            if health["load_balancer"] != "healthy" or health["lost"] != "0":
                seen.unwell.add(str(health))
            status = await stage.owner.attrs("status")
            seen.waiting = max(seen.waiting, int(status["waiting"]))
            await asyncio.sleep(0.5)

    tasks = [asyncio.create_task(beat()), asyncio.create_task(look())]
    try:
        yield seen
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def ask(files: Files, question: str) -> str:
    async with await files.open("clone", c.ORDWR) as ctl:
        number = (await ctl.read(0)).decode().strip()
        await ctl.write(SETTINGS.encode())
        return await files.ask(question, number)


class Took(NamedTuple):
    """From a question to its answer."""

    seconds: float
    worked: float
    """processor seconds of the host, for everybody"""


async def ask_for(
    stage: Stage, files: Files, seconds: float, expected: dict[str, str]
) -> list[Took]:
    """Ask one question after the other for so many seconds, and `FEWEST` at least."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    took: list[Took] = []
    for question, answer in itertools.cycle(expected.items()):
        began, worked = loop.time(), stage.worked()
        assert await ask(files, question) == answer
        took.append(Took(loop.time() - began, stage.worked() - worked))
        if loop.time() > end and len(took) >= FEWEST:
            break
    return took


@contextlib.asynccontextmanager
async def ordinary_answers(stage: Stage, count: int) -> AsyncIterator[None]:
    """As many of bob's, whoever's turn it is."""

    async def go_on(files: Files, number: int) -> None:
        while True:
            number += count
            await ask(files, f"A story with the number {number}: once upon a time")

    async with stage.target.files("bob") as files:
        tasks = [asyncio.create_task(go_on(files, number)) for number in range(count)]
        try:
            yield
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@pytest.mark.slow
@pytest.mark.timeout(240)
@story
async def test_nobody_can_hold_up_watch_or_stop_anybody_else() -> None:
    async with stage() as place, place.target.local("alice") as alice:
        expected = {question: await ask(alice, question) for question in QUESTIONS}
        assert all(len(answer) > 20 for answer in expected.values())
        before = place.held()

        async with ordinary_answers(place, SLOTS - 1):
            ordinary = await ask_for(place, alice, ORDINARY_S, expected)

        crowd, *others = ATTACKS
        async with observed(place) as seen, place.attacked([crowd]) as rounds:
            async with asyncio.timeout(CROWD_S):
                while seen.waiting < CROWD:  # noqa: ASYNC110 (the attackers do not tell)
                    await asyncio.sleep(0.1)
            async with place.attacked(others) as more_rounds:
                attacked = await ask_for(place, alice, ATTACKED_S, expected)

        well = (str(WORKERS), str(WORKERS))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FREE_S):
                while True:
                    after, health = place.held(), await place.owner.attrs("health")
                    is_well = (health["nodes"], health["healthy"]) == well
                    if is_well and after.connections <= before.connections + FEW:
                        break
                    await asyncio.sleep(0.2)
        turns = list(TURN.finditer(place.log()))
        ended = await place.events("host.ended")
        one, other = (
            Took(*map(statistics.median, zip(*took, strict=True))) for took in (ordinary, attacked)
        )
        for beside, each, count in (
            ("ordinary ones", one, len(ordinary)),
            ("the attacks", other, len(attacked)),
        ):
            print(f"\nbeside {beside} an answer took {each.seconds:.2f} s, of which the host "
                  f"worked {each.worked:.2f} s (medians of {count})", end="")
        print(f": {other.seconds / one.seconds:.2f} times the time, "
              f"{other.worked / one.worked:.2f} times the work")
        print(f"slowest reply {seen.slowest:.2f} s; {len(turns)} long turns; "
              f"{before} before, {seen.most} at most, {after} after")
        rounds |= more_rounds
        for name, each in rounds.items():
            print(f"{name:42} {each}")
        print(*(turn[0] for turn in turns), sep="\n")
        assert set(rounds) == set(ATTACKS)
        idle = [name for name, each in rounds.items() if not any((each["done"], each["late"]))]
        assert not idle, "these attacks came to nothing"
        assert other.worked <= SLOWER * one.worked
        assert seen.slowest <= SLOWEST_REPLY_S
        assert max((float(turn[1]) for turn in turns), default=0.0) <= LONGEST_TURN_S
        assert seen.most.descriptors <= DESCRIPTORS
        assert after.connections <= before.connections + FEW, "connections are left"
        assert after.descriptors <= before.descriptors + FEW + PIPES
        assert seen.most.kilobytes - before.kilobytes <= (
            (KEPT_MIB + BUFFERED_MIB + OVERHEAD_MIB) * 1024
        )
        assert not ended and not seen.unwell
        assert (health["nodes"], health["healthy"]) == well
        assert "Traceback" not in place.log(), place.log().partition("Traceback")[2][:3000]
