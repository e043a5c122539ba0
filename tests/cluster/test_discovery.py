"""Addresses that are tried until somebody is there."""

from __future__ import annotations

import asyncio

import pytest

from llambo9p.cluster import discovery
from llambo9p.cluster.discovery import Discovery
from llambo9p.cluster.names import WholeTree
from llambo9p.errors import Error, WorkerLost
from llambo9p.net.address import Address, parse
from tests.files import story, turns_of_the_loop, until

HERE = parse("tcp!127.0.0.1!1")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "FIRST_S", 0.001)


class Joins:
    """Attempts, each of which ends as it is told."""

    def __init__(self) -> None:
        self.attempts: list[asyncio.Future[None]] = []

    async def join(self, address: Address, whole: WholeTree | None) -> None:
        attempt: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.attempts.append(attempt)
        await attempt

    async def began(self, number: int) -> asyncio.Future[None]:
        await until(lambda: len(self.attempts) == number)
        return self.attempts[-1]


@story
async def test_an_address_is_tried_until_somebody_is_there() -> None:
    joins = Joins()
    there = Discovery(joins.join)
    there.expect(HERE)
    for number in (1, 2):
        (await joins.began(number)).set_exception(Error("nobody"))
    (await joins.began(3)).set_result(None)
    await until(lambda: not there._trying)
    assert len(joins.attempts) == 3


@story
async def test_who_is_expected_during_an_attempt_is_tried_once_more_after_it() -> None:
    joins = Joins()
    there = Discovery(joins.join)
    there.expect(HERE)
    first = await joins.began(1)
    there.expect(HERE)
    there.expect(HERE)
    await turns_of_the_loop()
    assert len(joins.attempts) == 1, "one at a time"
    first.set_result(None)
    (await joins.began(2)).set_result(None)
    await until(lambda: not there._trying)
    assert len(joins.attempts) == 2


@story
async def test_an_attempt_that_fails_is_the_one_more() -> None:
    joins = Joins()
    there = Discovery(joins.join)
    there.expect(HERE)
    first = await joins.began(1)
    there.expect(HERE)
    first.set_exception(WorkerLost())
    (await joins.began(2)).set_result(None)
    await until(lambda: not there._trying)
    assert len(joins.attempts) == 2


@story
async def test_who_is_forgotten_during_an_attempt_is_not_tried_again() -> None:
    joins = Joins()
    there = Discovery(joins.join)
    there.expect(HERE)
    first = await joins.began(1)
    there.expect(HERE)
    there.forget(HERE)
    await until(first.cancelled)
    assert not there._trying
    there.expect(HERE)
    (await joins.began(2)).set_result(None)
    await until(lambda: not there._trying)
