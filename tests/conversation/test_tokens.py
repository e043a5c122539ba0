"""`tokens` and `logprobs`: what an answer is made of, and going on from there."""

from __future__ import annotations

import json

import pytest

from llambo9p.conversation.limits import Limits, kept
from llambo9p.engine.base import Request
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error, NoSpace
from llambo9p.p9 import constants as c
from tests.engine.harness import Recorder
from tests.files import reading, story, turns_of_the_loop

from .harness import conversing

ANSWER = b"simulated: hello"
LINES = "".join(f"{byte} {end}\n" for end, byte in enumerate(ANSWER, 1))


@story
async def test_tokens_have_an_id_and_an_end_and_come_as_the_answer_does():
    gate = Gate()
    async with conversing(gate=gate) as place:
        assert await place.files.read("tokens") == ""
        await place.files.write("prompt", "hello")
        tokens = await place.files.open("tokens")
        line = b""
        for end, byte in enumerate(ANSWER[:3], 1):
            waiting = reading(tokens, len(line))
            await turns_of_the_loop()
            assert not waiting.done()
            gate.allow()
            assert (await waiting).data == b"%d %d\n" % (byte, end)
            line += (await waiting).data
        gate.open()
        assert (await tokens.read_all()).decode() == LINES
        await place.files.read("out")
        assert await place.files.read("tokens") == LINES, "of the newest answer, at any time"


@story
async def test_ends_are_those_of_whole_characters():
    async with conversing(answer=lambda _: "\u20ac!".encode()) as place:
        await place.files.ask("x")
        ends = [line.split()[1] for line in (await place.files.read("tokens")).splitlines()]
        assert ends == ["0", "0", "3", "4"]


@pytest.mark.parametrize("count", [0, 1, 5, len(ANSWER)])
@story
async def test_an_answer_goes_on_from_tokens_that_another_began_with(count):
    gate = Gate()
    gate.open()
    async with conversing(gate=gate) as place:
        await place.files.write("tokens", "".join(LINES.splitlines(keepends=True)[:count]))
        assert await place.files.ask("hello") == ANSWER.decode()
        assert await place.files.read("tokens") == LINES
        assert (await place.files.attrs("usage"))["completion_tokens"] == str(len(ANSWER))
        decoded = sum(len(step.outputs) for step in place.runner.steps)
        assert decoded == len(ANSWER) - count + 1
        history = (await place.files.read("history")).splitlines()
        assert json.loads(history[-1])["content"] == ANSWER.decode()
        assert await place.files.ask("hello") == ANSWER.decode(), "they are of one answer only"


@story
async def test_tokens_that_are_not_are_refused_with_their_line():
    async with conversing() as place:
        for text, said in (
            ("115 1\nx\n", "tokens line 2 does not begin with a token's id"),
            ("-1", "tokens line 1 does not begin with a token's id"),
            (f"{2**31}", "tokens line 1 does not begin with a token's id"),
        ):
            tokens = await place.files.open("tokens", c.OWRITE)
            await tokens.write(text.encode())
            with pytest.raises(Error, match=said):
                await tokens.clunk()
            assert (await place.files.attrs("status"))["error"] == said
        await place.files.write("tokens", "3000")
        with pytest.raises(Error, match="no such token: 3000"):
            await place.files.ask("hello")
        assert await place.files.ask("hello") == ANSWER.decode()


@pytest.mark.parametrize("how", ["blank", "truncate", "reset"])
@story
async def test_tokens_can_be_taken_back(how):
    async with conversing() as place:
        await place.files.write("tokens", "3000")
        if how == "blank":
            await place.files.write("tokens", "\n")
        elif how == "truncate":
            await place.files.truncate("tokens")
        else:
            await place.files.write("ctl", "reset")
        assert await place.files.ask("hello") == ANSWER.decode()
        assert place.conversation.limits.buffer.used == 0


@story
async def test_logprobs_are_json_lines_when_they_are_asked_for():
    async with conversing() as place:
        await place.files.ask("hello")
        assert await place.files.read("logprobs") == ""
        await place.files.write("ctl", "logprobs 1")
        await place.files.ask("hello")
        lines = [json.loads(line) for line in (await place.files.read("logprobs")).splitlines()]
        assert bytes(line["id"] for line in lines) == ANSWER
        first = {"id": 115, "token": "s", "bytes": [115], "logprob": 0.0}
        assert lines[0] == {**first, "top_logprobs": [first]}


@story
async def test_logprobs_are_kept_and_end_when_there_is_no_room_for_them():
    limits = Limits(kept=kept(1500))
    async with conversing(limits) as place:
        await place.files.write("ctl", "logprobs 1")
        assert await place.files.ask("hello") == ANSWER.decode(), "the answer does not"
        with pytest.raises(NoSpace, match="1500 bytes of histories"):
            await place.files.read("logprobs")
        assert limits.kept.used > 1000
        await place.files.write("ctl", "logprobs 0")
        await place.files.ask("hello")
        assert limits.kept.used == place.conversation.history_bytes + len("hello")
        await place.files.write("ctl", "reset")
        assert limits.kept.used == 0


@story
async def test_tokens_that_wait_are_in_the_buffer():
    gate = Gate()
    limits = Limits()
    async with conversing(limits, gate=gate) as place:
        await place.files.write("prompt", "first")
        lines = "49151\n" * 1000
        for count in range(1, 4):
            await place.files.write("tokens", lines)
            assert limits.buffer.used == count * len(lines) + count - 1
            await place.files.write("prompt", "x")
        await place.files.write("ctl", "reset")
        assert limits.buffer.used == 0


@story
async def test_tokens_are_used_up_by_a_prompt_that_is_refused():
    gate = Gate()
    async with conversing(gate=gate, slots=1, max_queue=0) as place:
        other = Recorder()
        place.engine.submit(Request("x"), other)
        await place.files.write("tokens", "3000")
        with pytest.raises(Error, match="busy"):
            await place.files.ask("hello")
        gate.open()
        await other.usage()
        assert await place.files.ask("hello") == ANSWER.decode()
        assert place.conversation.limits.buffer.used == 0


@story
async def test_logprobs_of_turns_that_nobody_can_see_are_not_kept():
    """One-shots, and turns that were replaced or reset while they ran."""
    gate = Gate()
    gate.open()
    limits = Limits()
    async with conversing(limits, gate=gate) as place:
        await place.files.write("ctl", "logprobs 1\nmode complete")
        async with await place.files.open("data", c.ORDWR) as data:
            await data.write(b"hello")
            assert await data.read_all() == ANSWER
        assert limits.kept.used == 0
        for how in ("prompt", "reset"):
            await place.files.write("prompt", "hello")
            if how == "prompt":
                await place.files.write("prompt", "again")
            out = await place.files.open("out")
            if how == "reset":
                await place.files.write("ctl", "reset")
            await out.read_all()
            await place.idle()
            await turns_of_the_loop()
            assert (limits.kept.used > 0) == (how == "prompt")
        await place.files.ask("hello")
        first = limits.kept.used
        await place.files.ask("hello")
        assert limits.kept.used == first > 0, "of the newest one only"
