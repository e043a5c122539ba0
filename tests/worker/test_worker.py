"""A worker: a conversation with `clone`, that drains, resumes and shuts down."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llambo9p.engine import fair
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Busy, Error, NotFound
from llambo9p.net.address import parse
from llambo9p.p9 import constants as c
from tests.files import files_of, reading, story, until

from .harness import hosting

LONG = b"x" * 1000


@story
async def test_a_worker_is_a_conversation_and_more():
    async with hosting() as place:
        assert await place.files.ls("worker-0000") == [
            "ctl", "prompt", "out", "data", "system", "grammar", "schema", "regex", "history",
            "tokens", "logprobs", "usage", "status", "clone", "embed",
        ]  # fmt: skip
        assert await place.files.ask("hello", "worker-0000") == "simulated: hello"
        status = await place.files.attrs("worker-0000/status")
        assert re.fullmatch("[0-9a-f]{12}", status.pop("request"))
        assert status == {
            "state": "idle",
            "position": "0",
            "progress": "0",
            "queued": "0",
            "turns": "1",
            "trimmed_turns": "0",
            "worker": "worker-0000",
            "draining": "no",
            "type": "tiny",
            "model": "simulated",
            "context": "4096",
            "exact": "yes",
        }


@story
async def test_4_workers_share_the_engine_and_no_state():
    async with hosting(count=2) as place:
        await place.files.write("worker-0000/ctl", "max_tokens 3")
        await place.files.ask("one", "worker-0000")
        assert await place.files.read("worker-0001/out") == ""
        assert await place.files.read("worker-0001/history") == ""
        assert await place.files.ask("two", "worker-0001") == "simulated: two"
        clones = [await place.files.open(f"worker-000{i}/clone", c.ORDWR) for i in (0, 1, 1)]
        assert [await clone.read_all() for clone in clones] == [b"0\n", b"0\n", b"1\n"]
        assert "0" not in await place.files.ls("worker-0000/0")


@story
async def test_it_counts_what_it_does():
    gate = Gate()
    async with hosting(gate=gate, slots=1, poison=b"bad") as place:

        async def counts() -> list[int]:
            return [int(n) for n in (await place.files.read("workers")).split()[2:]]

        assert await counts() == [0, 0, 0, 0, 0]
        out = await place.submitted("worker-0000", "ab")
        clone = await place.files.open("worker-0000/clone", c.ORDWR)
        await place.files.write("worker-0000/0/prompt", "bad")
        waiting = reading(out)
        gate.allow()
        await waiting
        assert await counts() == [2, 1, 2, 1, 0]
        gate.open()
        assert await out.read_all() == b"simulated: ab"
        with pytest.raises(Error, match="poisoned"):
            await place.files.read("worker-0000/0/out")
        assert await counts() == [0, 0, 2, 13, 1]
        await clone.clunk()


@story
async def test_a_draining_worker_takes_nothing_new_and_ends_what_it_has():
    gate = Gate()
    async with hosting(gate=gate) as place:
        clone = await place.files.open("worker-0000/clone", c.ORDWR)
        out = await place.submitted("worker-0000", "before")
        queued = await place.submitted("worker-0000", "queued")
        await place.files.write("worker-0000/ctl", "drain")
        assert (await place.files.attrs("worker-0000/status"))["draining"] == "yes"
        assert (await place.files.read("workers")).startswith("worker-0000 draining 1 ")
        gate.open()
        assert await out.read_all() == b"simulated: before"
        assert await queued.read_all() == b"simulated: queued"
        for path in ("worker-0000", "worker-0000/0"):
            with pytest.raises(Error, match="worker-0000 is draining"):
                await place.files.ask("after", path)
            data = await place.files.open(f"{path}/data", c.ORDWR)
            await data.write(b"after")
            with pytest.raises(Error, match="worker-0000 is draining"):
                await data.read(0)
            await data.clunk()
        assert "is draining" in (await place.files.attrs("worker-0000/status"))["error"]
        await place.files.write("worker-0000/ctl", "resume")
        assert await place.files.ask("after", "worker-0000") == "simulated: after"
        assert (await place.files.read("workers")).startswith("worker-0000 idle 0 ")
        await clone.clunk()


@story
async def test_drain_is_all_or_nothing_with_the_other_lines():
    async with hosting() as place:
        with pytest.raises(Error, match="usage: resume"):
            await place.files.write("worker-0000/ctl", "drain\nresume all")
        status = await place.files.attrs("worker-0000/status")
        assert (status["draining"], status["error"]) == ("no", "usage: resume")


@story
async def test_shutdown_stops_all_that_was_asked_of_it_and_removes_it():
    gate = Gate()
    async with hosting(count=2, gate=gate, answer=lambda p: LONG) as place:
        clone = await place.files.open("worker-0000/clone", c.ORDWR)
        data = await place.files.open("worker-0000/data", c.ORDWR)
        await data.write(b"x")
        waiting = [reading(data)]
        for path in ("worker-0000", "worker-0000/0", "worker-0001"):
            waiting.append(reading(await place.submitted(path, "x")))
        for _ in range(8):  # prompts may be read one after the other
            gate.allow()
        for read in waiting:
            assert (await read).data
        await place.files.write("worker-0000/ctl", "shutdown")
        assert "worker-0000" not in await place.files.ls()
        with pytest.raises(NotFound):
            await place.files.read("worker-0000/out")
        survivor = await place.files.open("worker-0001/out")
        await place.files.write("worker-0001/ctl", "max_tokens 300")
        gate.open()
        assert len(await survivor.read_all()) == 256
        await place.idle()
        workers = (await place.files.read("workers")).split()
        assert workers[0] == "worker-0001"
        stopped = [s for s in list(place.runner.steps)[10:] if len(s.token) > 1]
        assert not stopped, "only the other worker's answer went on"
        await clone.clunk()


@story
async def test_what_is_left_of_a_worker_does_not_touch_the_next_one_of_its_name():
    async with hosting() as place:
        ctl = await place.files.open("worker-0000/ctl", c.ORDWR)
        clone = await place.files.open("worker-0000/clone", c.ORDWR)
        left, _ = await place.files.walk("worker-0000/0")
        await ctl.write(b"shutdown")
        await place.files.write("ctl", "grow 1 0")
        await ctl.write(b"shutdown\nresume")
        data = await place.files.client.open(left, "data", c.ORDWR)
        await data.write(b"hello")
        with pytest.raises(Error, match="worker-0000 was shut down"):
            await data.read(0)
        await clone.clunk()
        assert await place.files.ask("hello", "worker-0000") == "simulated: hello"


@story
async def test_a_full_queue_is_ebusy_for_every_worker():
    gate = Gate()
    async with hosting(count=2, gate=gate, slots=1, max_queue=0) as place:
        out = await place.submitted("worker-0000", "runs")
        with pytest.raises(Busy, match="^Device or resource busy$"):
            await place.files.ask("one too many", "worker-0001")
        assert (await place.files.read("workers")).splitlines()[1] == "worker-0001 idle 0 0 0 0 0"
        gate.open()
        assert await out.read_all() == b"simulated: runs"


@story
async def test_who_gives_up_his_slot_is_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair, "WAIT", 0.0)
    gate = Gate()
    at = parse(f"unix!{tmp_path}/host")
    async with (
        hosting(count=1, gate=gate, slots=1, address=at) as place,
        files_of(at, uname="alice") as alice,
        files_of(at, uname="bob") as bob,
    ):
        worker = place.host.workers["worker-0000"]
        question = "a long one" + " and longer" * 20  # bob's is prepared before she has it all
        await alice.write("worker-0000/prompt", question)

        def begun() -> bool:
            gate.step()
            return worker.tokens >= 3

        await until(begun)
        assert (worker.active, worker.queued) == (1, 0)
        await bob.write("worker-0000/prompt", "hi")
        await until(lambda: worker.active == 2)
        # hers is queued for one step only: then she has waited for long enough, too
        while True:
            await until(lambda: gate.entered(0))  # what the step before led to is told
            status = await alice.attrs("worker-0000/status")
            if status["state"] == "queued":
                break
            assert status["state"] != "idle"
            gate.allow()
        assert status["position"] == "1"
        assert (worker.active, worker.queued) == (2, 1)
        gate.open()
        assert await bob.read("worker-0000/out") == "simulated: hi"
        assert await alice.read("worker-0000/out") == f"simulated: {question}"
        await place.idle()
        assert (worker.active, worker.queued) == (0, 0)
        assert float((await alice.attrs("worker-0000/usage"))["interrupted_ms"]) > 0
