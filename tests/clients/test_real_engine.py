"""What conversation/'s tests prove with scripted answers, once more on the real model,
through the orchestrator: clones, cancelled answers, late and several readers, prompts
cut anywhere.  The client is ours, for py9p's cannot flush.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from llambo9p.errors import NotFound
from llambo9p.net.address import Address
from llambo9p.p9 import constants as c
from tests.files import files_of, reading, story

from .cluster import Namespace, orchestrator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LONG = "Count to a thousand: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,"
"""continued, it runs into `max_tokens`"""
MAX_TOKENS = 400


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    with orchestrator(tmp_path_factory.mktemp("cluster")) as port:
        with Namespace(port) as ns:
            ns.write("ctl", b"spawn --count 2 --type tiny")
            ns.write("worker-0000/ctl", b"mode complete\ntemperature 0\nmax_tokens 400")
        yield Address("tcp", "127.0.0.1", port)


@pytest.mark.parametrize("how", ["Tflush", "Tclunk", "disconnect"])
@story
async def test_an_answer_that_nobody_waits_for_stops(address: Address, how: str) -> None:
    async with files_of(address) as files, files_of(address) as other:
        await files.write("worker-0000/ctl", "reset")
        data = await other.open("worker-0000/data", c.ORDWR)
        await data.write(LONG.encode())
        assert await data.read(0)
        waiting = reading(data)
        if how == "Tclunk":
            await data.clunk()
        elif how == "disconnect":
            other.client.close()
        while not (usage := await files.attrs("worker-0000/usage")):
            if how == "Tflush":  # more than once: a token may be faster than the Tflush
                waiting.cancel()
                waiting = reading(data)
            await asyncio.sleep(0.002)
        assert usage["finish_reason"] == "cancelled"
        assert 0 < int(usage["completion_tokens"]) < MAX_TOKENS / 2
        await asyncio.wait([waiting])


@story
async def test_an_answer_that_somebody_waits_for_does_not(address: Address) -> None:
    async with files_of(address) as files:
        data = await files.open("worker-0000/data", c.ORDWR)
        await data.write(LONG.encode())
        assert len(await data.read_all()) >= MAX_TOKENS
        usage = await files.attrs("worker-0000/usage")
        assert usage["finish_reason"] == "length"
        assert usage["completion_tokens"] == str(MAX_TOKENS)


@pytest.mark.parametrize("place", ["", "worker-0000/"])
@story
async def test_a_clone_is_a_conversation_while_it_is_held(address: Address, place: str) -> None:
    async with files_of(address) as files:
        clone = await files.open(f"{place}clone", c.ORDWR)
        number = (await clone.read(0)).decode().strip()
        await clone.write(b"mode chat\ntemperature 0\nmax_tokens 8")
        inside = f"{place}{number}"
        assert "max_tokens 8" in (await files.read(f"{inside}/ctl")).splitlines()
        assert (await files.ask("Name a colour.", inside)).strip()
        assert (await files.read(f"{inside}/history")).count('"role"') == 2
        before = await files.ls(place)
        assert number in before
        await clone.clunk()
        with pytest.raises(NotFound):
            await files.read(f"{inside}/ctl")
        assert set(before) - set(await files.ls(place)) == {number}


@story
async def test_readers_early_and_late_get_the_same_answer(address: Address) -> None:
    async with files_of(address) as files:
        await files.write("worker-0001/ctl", "temperature 0\nmax_tokens 60")
        await files.write("worker-0001/prompt", "Tell me about rivers.")
        first = await files.open("worker-0001/out")
        begun = await first.read(0)
        early, second = await asyncio.gather(first.read_all(), files.read("worker-0001/out"))
        assert early.decode() == second == await files.read("worker-0001/out")
        assert begun and early.startswith(begun) and len(begun) < len(early)


@story
async def test_a_prompt_may_be_cut_in_the_middle_of_a_character(address: Address) -> None:
    async with files_of(address) as files:
        text = "Wer ist Zoë? 東京 😀"
        data = text.encode()
        answers = set()
        for size in (1, 3, 1000):
            await files.write("worker-0001/ctl", "reset\ntemperature 0\nmax_tokens 8")
            prompt = await files.open("worker-0001/prompt", c.OWRITE)
            for at in range(0, len(data), size):
                await prompt.write(data[at : at + size])
            await prompt.clunk()
            answers.add(await files.read("worker-0001/out"))
            assert await files.read("worker-0001/prompt") == text
        assert len(answers) == 1
