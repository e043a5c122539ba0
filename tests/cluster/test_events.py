"""`events`: JSON lines, a cursor for every open, a ring that is bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster.config import Cluster
from llambo9p.cluster.events import Events
from llambo9p.errors import PermissionDenied
from llambo9p.net.client import RemoteOpen
from tests.files import reading, story, turns_of_the_loop, until

from .harness import cluster, simulated_host
from .test_users import shared


def parsed(lines: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def kinds(lines: bytes) -> list[str]:
    return [event["kind"] for event in parsed(lines)]


async def lines_of(file: RemoteOpen, count: int) -> bytes:
    """So many lines, by the file's own cursor."""
    data = b""
    while data.count(b"\n") < count:
        data += await file.read(0)
    return data


@given(
    kept=st.integers(1, 8),
    counts=st.lists(st.integers(0, 12), max_size=8),
    size=st.integers(1, 400),
)
def test_a_reader_gets_every_event_in_order_or_is_told_how_many_it_missed(
    kept: int, counts: list[int], size: int
) -> None:
    events = Events(kept, clock=lambda: 7.0)
    emitted = heard = 0

    def read() -> None:
        nonlocal heard
        lines, number = events.since(heard, size)
        assert len(lines) <= size or len(lines.splitlines()) == 1
        for event in parsed(lines):
            heard += event["count"] if event["kind"] == "missed" else 1
            assert event["seq"] == event.get("n", heard - 1) == heard - 1
        assert heard == number

    for count in counts:
        for _ in range(count):
            events.emit("x", n=emitted)
            emitted += 1
        assert emitted - events.first == min(kept, emitted)
        read()
    while heard < emitted:
        before = heard
        read()
        assert heard > before


def test_an_event_has_a_number_a_time_and_what_it_is_about() -> None:
    events = Events(clock=lambda: 1700000000.12345)
    events.emit("worker.lost", worker="worker-0003", count=2)
    lines, _ = events.since(0, 1000)
    assert parsed(lines) == [
        {
            "seq": 0,
            "time": 1700000000.123,
            "kind": "worker.lost",
            "worker": "worker-0003",
            "count": 2,
        }
    ]


@story
async def test_every_open_has_a_cursor_of_its_own_and_a_read_at_the_end_waits() -> None:
    async with cluster() as running, simulated_host(1, 0) as one, simulated_host(1, 1) as two:
        files = running.files
        early = await files.open("events")
        waiting = reading(early)
        await turns_of_the_loop()
        assert not waiting.done()
        await files.write("ctl", f"mount {one.address}")
        assert kinds((await waiting).data) == ["worker.joined"]
        late = await files.open("events")
        assert kinds(await late.read(0)) == ["worker.joined"]
        both = [reading(early), reading(late)]
        await turns_of_the_loop()
        assert not any(read.done() for read in both)
        await files.write("ctl", f"mount {two.address}")
        for read in both:
            [event] = parsed((await read).data)
            assert (event["kind"], event["worker"]) == ("worker.joined", "worker-0001")
            assert event["host"] == str(two.address)


@story
async def test_a_flushed_read_loses_nothing_and_small_reads_give_pieces() -> None:
    async with cluster() as running, simulated_host() as host:
        files = running.files
        events = await files.open("events")
        flushed = reading(events)
        await turns_of_the_loop()
        flushed.cancel()
        await files.write("ctl", f"mount {host.address}")
        data = b""
        while not data.endswith(b"\n"):
            piece = (await reading(events, count=7)).data
            assert len(piece) <= 7
            data += piece
        assert kinds(data) == ["worker.joined"]


@story
async def test_a_reader_that_is_too_slow_is_told_what_it_missed() -> None:
    async with cluster() as running:
        events = running.orchestrator._events
        file = await running.files.open("events")
        events.emit("first")
        assert kinds(await file.read(0)) == ["first"]
        for number in range(10_003):
            events.emit("more", n=number)
        missed, *rest = parsed(await file.read(0))
        assert (missed["kind"], missed["count"]) == ("missed", 3)
        assert rest[0]["n"] == 3


@story
async def test_what_happens_to_workers_is_told() -> None:
    config = Cluster.model_validate({"load_balancer": {"health_check_interval": 200}})
    async with cluster(config) as running:
        files = running.files
        async with simulated_host(2) as host:
            await files.write("ctl", f"mount {host.address}")
            events = await files.open("events")
            assert kinds(await lines_of(events, 2)) == ["worker.joined"] * 2
            await files.write("worker-0001/ctl", "drain")
            assert kinds(await lines_of(events, 1)) == ["worker.draining"]
            await files.write("worker-0001/ctl", "resume")
            assert kinds(await lines_of(events, 1)) == ["worker.healthy"]
            await files.write("ctl", "unmount worker-0000")
            assert kinds(await lines_of(events, 1)) == ["worker.left"]
            host.kill()
            [lost] = parsed(await lines_of(events, 1))
            assert (lost["kind"], lost["worker"]) == ("worker.lost", "worker-0001")
        await files.write("ctl", "unmount worker-0001")
        assert kinds(await lines_of(events, 2)) == ["worker.left", "host.left"]


@story
async def test_events_and_config_are_for_administrators(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        for name in ("events", "config"):
            with pytest.raises(PermissionDenied, match=f"{name} is for the owner"):
                await place.alice.open(name)
            assert await (await place.bob.open(name)).read(0)
        assert "orchestrator healthy" in await place.alice.read("health")


@story
async def test_readers_that_left_are_not_waited_for() -> None:
    async with cluster() as running:
        events = running.orchestrator._events
        opened = [await running.files.open("events") for _ in range(3)]
        waiting = [reading(file) for file in opened]
        await turns_of_the_loop()
        waiting[0].cancel()
        await until(lambda: waiting[0].cancelled())
        events.emit("after")
        assert [kinds((await read).data) for read in waiting[1:]] == [["after"]] * 2
