"""`clone`: one open, one conversation, which lives as long as any fid points at it.

Numbers are those of 9p.md's list of bugs.
"""

from __future__ import annotations

import pytest

from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error, NotFound
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from tests.files import reading, story, turns_of_the_loop, until

from .harness import Place, conversing

LONG = b"x" * 1000


async def numbers(place: Place) -> list[str]:
    """The conversations that are there, by another client's listing."""
    return [name for name in await place.files.ls() if name.isdigit()]


@story
async def test_3_cat_clone_makes_exactly_one_conversation():
    async with conversing() as place:
        clone = await place.files.open("clone", c.OREAD)
        assert await clone.read(0, 1) == b"0"
        assert await clone.read(1, 8192) == b"\n"
        assert await clone.read(2, 8192) == b""
        assert await clone.read_all() == b"0\n"
        assert await numbers(place) == ["0"]
        assert await place.files.ls("0") == [
            "ctl", "prompt", "out", "data", "system", "grammar", "schema", "regex", "history",
            "tokens", "logprobs", "usage", "status",
        ]  # fmt: skip
        await clone.clunk()
        assert await numbers(place) == []


@story
async def test_walking_to_clone_and_asking_for_its_stat_makes_none():
    async with conversing() as place:
        fid, _ = await place.files.walk("clone")
        await place.files.client.call(m.Tstat(0, fid), m.Rstat)
        await place.files.truncate("clone")
        with pytest.raises(Error, match="permission denied"):
            await place.files.open("clone", c.OEXEC)
        await place.files.client.clunk(fid)
        assert await numbers(place) == []
        clone = await place.files.open("clone", c.ORDWR)
        assert await clone.read_all() == b"0\n"


@story
async def test_numbers_are_never_used_again():
    async with conversing() as place:
        seen = []
        for _ in range(3):
            kept = await place.files.open("clone", c.OREAD)
            gone = await place.files.open("clone", c.OREAD)
            seen += [await kept.read_all(), await gone.read_all()]
            await gone.clunk()
            await kept.clunk()
        assert seen == [b"%d\n" % i for i in range(6)]


@story
async def test_the_fid_of_clone_is_the_ctl_for_writing():
    async with conversing() as place:
        clone = await place.files.open("clone", c.ORDWR)
        await clone.write(b"max_tokens 3\n")
        assert (await place.files.attrs("0/ctl"))["max_tokens"] == "3"
        assert (await place.files.attrs("ctl"))["max_tokens"] == "256", "its own settings"
        with pytest.raises(Error, match="max_tokens must be"):
            await clone.write(b"max_tokens none")
        assert await place.files.ask("hello", "0") == "sim"
        assert await place.files.read("out") == "", "its own answers"
        assert await clone.read_all() == b"0\n"


@story
async def test_an_open_fid_below_it_keeps_a_conversation():
    async with conversing() as place, place.connect() as other:
        clone = await place.files.open("clone", c.ORDWR)
        status = await other.open("0/status")
        await clone.clunk()
        assert await numbers(place) == ["0"]
        assert await place.files.ask("still here", "0") == "simulated: still here"
        await status.clunk()
        assert await numbers(place) == []
        with pytest.raises(NotFound):
            await place.files.read("0/out")


@pytest.mark.parametrize("path", ["0", "0/ctl", "0/out"])
@story
async def test_a_walked_fid_keeps_no_conversation_and_an_open_one_does(path):
    async with conversing() as place, place.connect() as other:
        clone = await place.files.open("clone", c.ORDWR)
        walked = [(await other.walk(path))[0] for _ in range(2)]
        await other.client.call(m.Topen(0, walked[0], c.OREAD), m.Ropen)
        await clone.clunk()
        assert await numbers(place) == ["0"]
        await other.client.clunk(walked[0])
        assert await numbers(place) == []
        if path == "0/out":
            with pytest.raises(Error, match="the conversation is closed"):
                await other.client.call(m.Topen(0, walked[1], c.OREAD), m.Ropen)
        await other.client.clunk(walked[1])


@story
async def test_9pfuse_never_lets_a_walked_fid_go_and_thirty_clones_end():
    async with conversing() as place, place.connect() as nine:
        for number in range(30):
            clone, _ = await nine.walk("clone")
            copy, _ = await nine.walk("", clone)
            await nine.client.call(m.Topen(0, copy, c.ORDWR), m.Ropen)
            for name in ("", "/ctl", "/prompt", "/out"):
                await nine.walk(f"{number}{name}")
            assert await nine.ask("x", str(number)) == "simulated: x"
            await nine.client.clunk(copy)
        assert await numbers(place) == []


@story
async def test_a_remove_is_refused_and_is_a_clunk():
    async with conversing() as place:
        clone = await place.files.open("clone", c.ORDWR)
        with pytest.raises(Error, match="in use"):
            await place.files.client.remove(clone.fid)
        assert await numbers(place) == []


@story
async def test_an_error_of_its_ctl_is_kept_in_its_status():
    async with conversing() as place:
        clone = await place.files.open("clone", c.ORDWR)
        with pytest.raises(Error, match="unknown verb nonsense"):
            await clone.write(b"nonsense")
        assert (await place.files.attrs("0/status"))["error"].startswith("unknown verb nonsense")
        assert "error" not in await place.files.attrs("status")


@story
async def test_25_a_lost_connection_ends_its_conversations_only():
    gate = Gate()
    async with conversing(gate=gate, answer=lambda _: LONG) as place:
        kept = await place.files.open("clone", c.ORDWR)
        async with place.connect() as other:
            clone = await other.open("clone", c.ORDWR)
            assert await clone.read_all() == b"1\n"
            await other.walk("1/out")
            await other.write("1/prompt", "x")
            out = await other.open("1/out")
            waiting = reading(out)
            gate.allow()
            assert (await waiting).data == b"x"
        await until(lambda: len(place.server.connections) == 1)
        assert await numbers(place) == ["0"]
        gate.open()
        await place.idle()
        assert place.engine.steps < 20, "its generation died with it"
        await kept.clunk()


@story
async def test_25_the_clunk_of_the_last_fid_stops_everything_asked_of_it():
    gate = Gate()
    async with conversing(gate=gate, answer=lambda _: LONG) as place:
        clone = await place.files.open("clone", c.ORDWR)
        await place.files.write("0/prompt", "runs")
        out = await place.files.open("0/out")
        await place.files.write("0/prompt", "waits")
        waiting = reading(out)
        gate.allow()
        assert (await waiting).data == b"x"
        waiting = reading(out, 1)
        await clone.clunk()
        assert place.engine.load.active + place.engine.load.queued == 1
        await out.clunk()
        with pytest.raises(Error, match="Interrupted"):
            await waiting
        gate.open()
        await place.idle()
        assert place.engine.steps < 20


@story
async def test_close_ends_it_at_once_and_for_everybody():
    gate = Gate()
    async with conversing(gate=gate, answer=lambda _: LONG) as place, place.connect() as other:
        clone = await place.files.open("clone", c.ORDWR)
        await other.write("0/prompt", "x")
        out = await other.open("0/out")
        data = await other.open("0/data", c.ORDWR)
        await data.write(b"y")
        waiting = reading(out)
        queried = reading(data)
        queued, _ = await other.walk("0/prompt")
        while not (waiting.done() and queried.done()):  # one may miss some of the other's steps
            gate.step()
            await turns_of_the_loop()
        assert (await waiting).data.startswith(b"x")
        assert (await queried).data.startswith(b"x")
        await clone.write(b"max_tokens 9\nclose\n")
        assert await numbers(place) == []
        gate.open()
        await place.idle()
        assert place.engine.steps < 20
        assert len(await out.read_all()) < 20
        await other.client.call(m.Topen(0, queued, c.OWRITE), m.Ropen)
        await other.client.call(m.Twrite(0, queued, 0, b"too late"), m.Rwrite)
        await other.client.clunk(queued)
        await data.write(b"too late")
        with pytest.raises(Error, match="the conversation is closed"):
            await data.read(0)
        await clone.clunk()
        again = await place.files.open("clone", c.ORDWR)
        assert await again.read_all() == b"1\n"
        await out.clunk()
        await data.clunk()
        assert await numbers(place) == ["1"], "the last fids of 0 do not take 1 away"


@story
async def test_close_can_be_written_to_the_ctl_in_it_and_not_to_the_first_one():
    async with conversing() as place:
        clone = await place.files.open("clone", c.ORDWR)
        await place.files.write("0/ctl", "close")
        assert await numbers(place) == []
        with pytest.raises(Error, match="unknown verb close"):
            await place.files.write("ctl", "close")
        await clone.clunk()


@story
async def test_4_conversations_do_not_know_of_each_other():
    asked: list[str] = []

    def answer(prompt: str) -> bytes:
        asked.append(prompt)
        return b"ok"

    async with conversing(answer=answer) as place:
        clones = [await place.files.open("clone", c.ORDWR) for _ in range(2)]
        for turn in ("first", "second"):
            for number in "01":
                await place.files.ask(f"{turn} of {number}", number)
        assert sorted(asked) == [
            "first of 0",
            "first of 0\n\nok\n\nsecond of 0",
            "first of 1",
            "first of 1\n\nok\n\nsecond of 1",
        ]
        for clone in clones:
            await clone.clunk()
