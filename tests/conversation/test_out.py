"""`out`: the answer to the newest request at its open, for any number of readers.

Numbers are those of 9p.md's list of bugs.
"""

from __future__ import annotations

import asyncio

import pytest

from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error
from llambo9p.p9 import constants as c
from tests.files import reading, story, turns_of_the_loop

from .harness import conversing

TEXT = "h\u00e9 \u20ac \U0001f600!"


def multibyte(prompt: str) -> bytes:
    return TEXT.encode()


@story
async def test_reads_obey_offsets_and_counts():
    async with conversing() as place:
        await place.files.ask("hello")
        out = await place.files.open("out")
        assert await out.read(0, 3) == b"sim"
        assert await out.read(11, 100) == b"hello"
        assert await out.read(11, 2) == b"he"
        assert await out.read(0, 3) == b"sim", "any part, any number of times"
        assert await out.read_all() == b"simulated: hello"


@story
async def test_2_characters_reach_out_whole_and_small_counts_lose_nothing():
    gate = Gate()
    async with conversing(answer=multibyte, gate=gate) as place:
        await place.files.write("prompt", "x")
        pieces = []
        out = await place.files.open("out")
        gate.open()
        async for piece in out.chunks():
            piece.decode()  # what is new is whole characters
            pieces.append(piece)
        assert b"".join(pieces).decode() == TEXT
        for count in (1, 2, 3, 5):
            answer = b""
            while piece := await out.read(len(answer), count):
                assert len(piece) <= count
                answer += piece
            assert answer.decode() == TEXT


@story
async def test_5_a_read_returns_what_is_there_and_does_not_wait_to_fill_its_count():
    gate = Gate()
    async with conversing(gate=gate) as place:
        await place.files.write("prompt", "x")
        out = await place.files.open("out")
        for i, byte in enumerate(b"simul"):
            waiting = reading(out, i)
            await turns_of_the_loop()
            assert not waiting.done()
            gate.allow()
            assert (await waiting).data == bytes([byte])
        gate.open()
        assert await out.read_all() == b"simulated: x"


@story
async def test_6_two_readers_of_one_out_are_both_woken_at_their_own_pace():
    gate = Gate()
    async with conversing(gate=gate) as place, place.connect() as other:
        await place.files.write("prompt", "x")
        ahead = await place.files.open("out")
        behind = await other.open("out")
        both = reading(ahead), reading(behind)
        gate.allow()
        assert [(await r).data for r in both] == [b"s", b"s"]
        for at, byte in ((1, b"i"), (2, b"m")):
            waiting = reading(ahead, at)
            gate.allow()
            assert (await waiting).data == byte
        assert await behind.read(1) == b"im", "the slow one missed nothing"
        both = reading(ahead, 3), reading(behind, 3)
        gate.open()
        assert all([(await r).data for r in both])
        assert await ahead.read_all() == await behind.read_all() == b"simulated: x"


@story
async def test_7_a_late_reader_gets_all_and_a_read_after_the_end_is_eof():
    async with conversing() as place:
        assert await place.files.ask("hi") == "simulated: hi"
        async with place.connect() as late:
            out = await late.open("out")
            assert await out.read_all() == b"simulated: hi"
            for offset in (13, 13, 14, 10**12):
                assert await out.read(offset) == b""


@story
async def test_8_an_answer_that_nobody_reads_is_generated_to_its_end():
    async with conversing(answer=lambda _: b"x" * 3000) as place:
        await place.files.write("ctl", "max_tokens 5000")
        await place.files.write("prompt", "go")
        await place.idle()
        usage = await place.files.attrs("usage")
        assert (usage["completion_tokens"], usage["finish_reason"]) == ("3000", "stop")
        assert len(await place.files.read("out")) == 3000


@story
async def test_9_a_blocked_read_stalls_nobody():
    gate = Gate()
    async with conversing(gate=gate) as place, place.connect() as other:
        await place.files.write("prompt", "x")
        waiting = reading(await place.files.open("out"))
        assert "temperature" in await place.files.read("ctl"), "not its own connection"
        assert "temperature" in await other.read("ctl"), "nor another's"
        assert not waiting.done()
        gate.open()
        assert (await waiting).data


@story
async def test_out_before_any_submit_is_at_its_end():
    gate = Gate()
    async with conversing(gate=gate) as place:
        early = await place.files.open("out")
        assert await early.read(0) == b""
        await place.files.write("prompt", "x")
        assert await early.read(0) == b"", "it shows what was newest when it was opened"


@story
async def test_out_keeps_to_the_turn_it_was_opened_on():
    gate = Gate()
    async with conversing(gate=gate) as place:
        await place.files.write("prompt", "one")
        first = await place.files.open("out")
        waiting = reading(first)
        await place.files.write("prompt", "two")
        second = await place.files.open("out")
        gate.open()
        assert (await waiting).data
        assert await second.read_all() == b"simulated: two"
        assert await first.read_all() == b"simulated: one"
        assert await place.files.read("out") == "simulated: two"


@story
async def test_10_a_flushed_read_of_out_leaves_the_answer_alone():
    gate = Gate()
    async with conversing(gate=gate) as place:
        await place.files.write("prompt", "x")
        out = await place.files.open("out")
        for pipelined in (True, False):
            waiting = reading(out)
            if not pipelined:
                await turns_of_the_loop()
            waiting.cancel()
            await place.files.read("ctl")  # behind the Tflush
        gate.open()
        assert await out.read_all() == b"simulated: x"
        assert (await place.files.attrs("usage"))["finish_reason"] == "stop"


@story
async def test_11_a_clunk_or_a_disconnect_under_a_read_of_out_leaves_the_answer_alone():
    gate = Gate()
    async with conversing(gate=gate) as place:
        await place.files.write("prompt", "x")
        out = await place.files.open("out")
        waiting = reading(out)
        await out.clunk()
        with pytest.raises(Error, match="Interrupted"):
            await waiting
        async with place.connect() as other:
            lost = reading(await other.open("out"))
            await other.read("ctl")
        with pytest.raises(Error, match="connection"):
            await lost
        gate.open()
        assert await place.files.read("out") == "simulated: x"


@story
async def test_21_an_error_of_the_engine_fails_the_read_and_is_no_answer():
    gate = Gate()
    async with conversing(gate=gate, poison=b"simul") as place:
        await place.files.write("prompt", "x")
        out = await place.files.open("out")
        gate.open()
        answer = b""
        with pytest.raises(Error, match="^the step is poisoned$"):
            while True:
                piece = await out.read(len(answer))
                assert piece, "EOF would say that the answer is whole"
                answer += piece
        assert answer == b"simul", "what came before it stays readable"
        for _ in range(2):
            with pytest.raises(Error, match="^the step is poisoned$"):
                await out.read(5)
        status = await place.files.attrs("status")
        assert (status["state"], status["error"]) == ("idle", "the step is poisoned")
        assert await place.files.read("history") == "", "half an answer is not history"


@story
async def test_21_every_blocked_reader_is_told():
    gate = Gate()
    async with conversing(gate=gate, poison=b"x") as place, place.connect() as other:
        await place.files.write("prompt", "x")
        waiting = [reading(await files.open("out")) for files in (place.files, other)]
        gate.open()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(r) for r in results] == ["the step is poisoned"] * 2


@story
async def test_the_end_of_the_engine_fails_what_waits():
    gate = Gate()
    async with conversing(gate=gate) as place:
        await place.files.write("prompt", "x")
        waiting = reading(await place.files.open("out"))
        await place.files.read("ctl")
        stopping = asyncio.ensure_future(place.engine.stop())
        await turns_of_the_loop()
        gate.open()
        with pytest.raises(Error, match="the engine was stopped"):
            while (await waiting).data:
                waiting = reading(await place.files.open("out"), 1000)
        await stopping


@pytest.mark.parametrize("mode", [c.OWRITE, c.ORDWR, c.OEXEC, c.OREAD | c.OTRUNC])
def test_out_is_read_only(mode):
    async def main():
        async with conversing() as place:
            with pytest.raises(Error, match="permission denied"):
                await place.files.open("out", mode)

    asyncio.run(main())
