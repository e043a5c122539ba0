"""The guard of the event loop: it says what held up everybody, and counts it."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from llambo9p.conversation.metrics import LongTurns
from llambo9p.fs.tree import TextFile, Tree
from llambo9p.net import guard as guards
from llambo9p.net.guard import Guard
from tests.files import story

from .serving import Site, serving, until


def spin(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "late"


def add_slow_file(site: Site) -> None:
    slow = TextFile(Tree("me"), "sluggish", lambda: spin(2 * guards.LONG_S + guards.BEAT_S))
    site.root.add(slow)


@story
async def test_a_message_that_takes_long_is_named_with_its_file_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = Guard()
    async with serving() as site:
        add_slow_file(site)
        client, root = await site.connect()
        with guard.guarding():
            await client.open(root, "sluggish", 0)
            await until(lambda: guard.count)
        client.close()
    [told] = [record.getMessage() for record in caplog.records]
    assert re.match(r"a turn of the event loop took 0\.\d\d s, \d\.\d\d s of them on a pro", told)
    assert "<Connection of " in told and "Topen of sluggish" in told and "in spin at" in told
    assert guard.seconds >= guards.LONG_S
    registry = CollectorRegistry()
    registry.register(LongTurns(guard))
    assert "llambo_event_loop_stalls_total 1.0" in generate_latest(registry).decode()


@story
async def test_a_callback_that_takes_long_is_named(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard()
    with guard.guarding():
        asyncio.get_running_loop().call_soon(spin, 2 * guards.LONG_S + guards.BEAT_S)
        await until(lambda: guard.count)
    assert "spin at test_guard.py" in caplog.text


@story
async def test_many_short_turns_are_no_long_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "LONG_S", 5.0)  # a busy machine is not to count
    guard = Guard()
    with guard.guarding():
        for _ in range(600):
            spin(0.01)
            await asyncio.sleep(0)
    assert not guard.count and not caplog.records
