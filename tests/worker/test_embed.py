"""A worker's `embed`, through 9P, with the real model."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import numpy as np
import pytest

from llambo9p.engine.gguf import default_model
from llambo9p.engine.llama import LlamaRunner
from llambo9p.engine.runner import Embedding
from llambo9p.engine.simulated import Gate, SimulatedRunner
from llambo9p.errors import Error
from llambo9p.p9 import constants as c
from tests.files import Files, reading, story

from .harness import Place, hosting


class Endless(SimulatedRunner):
    """An embedding that never comes; the gate is asked for each part."""

    def embed(self, text: str) -> Embedding:
        while True:
            self._gate.wait()
            yield 1


@contextlib.asynccontextmanager
async def embedding() -> AsyncIterator[Place]:
    runner = LlamaRunner(default_model(), n_ctx=256, n_seq=4, n_threads=1, prefill_chunk=16)
    async with hosting(count=2, runner=runner) as place:
        yield place


async def embed(files: Files, text: str, worker: str = "worker-0000") -> bytes:
    file = await files.open(f"{worker}/embed", c.ORDWR)
    try:
        await file.write(text.encode())
        return await file.read_all()
    finally:
        await file.clunk()


def numbers(answer: bytes) -> np.ndarray:
    assert answer.endswith(b"\n") and answer.count(b"\n") == 1
    return np.array(answer.split(b" "), np.float32)


@story
async def test_like_is_near_to_like():
    async with embedding() as place:
        cat, kitten, stocks, shares = [
            numbers(await embed(place.files, text))
            for text in (
                "The cat sat on the mat.",
                "A kitten was lying on the rug.",
                "The stock market fell sharply today.",
                "Shares dropped on Wall Street.",
            )
        ]
        for vector in (cat, kitten, stocks, shares):
            assert vector.shape == (576,)
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        assert min(cat @ kitten, stocks @ shares) > 0.8
        assert max(cat @ stocks, cat @ shares, kitten @ stocks, kitten @ shares) < 0.8


@story
async def test_a_text_has_one_embedding_whoever_asks_and_what_else_is_asked():
    async with embedding() as place:
        files = place.files
        first = await embed(files, "What is a file?")
        await files.write("worker-0000/ctl", "temperature 0\nmax_tokens 24\nmode complete")
        await files.write("worker-0000/system", "Be brief.")
        alone = await files.ask("1, 2, 3, 4,", "worker-0000")
        await files.write("worker-0000/prompt", "1, 2, 3, 4,")
        out = await files.open("worker-0000/out")
        assert await embed(files, "What is a file?\n", "worker-0001") == first
        assert await embed(files, "What is a file?") == first
        assert (await out.read_all()).decode() == alone
        assert await embed(files, "What is a fid?") != first
        assert await files.read("worker-0000/history") == ""


@story
async def test_one_fid_embeds_one_text_after_the_other():
    async with embedding() as place:
        file = await place.files.open("worker-0000/embed", c.ORDWR)
        assert (await reading(file)).data == b""  # nothing was written
        await file.write("zwölf ".encode()[:3])
        await file.write("zwölf ".encode()[3:])
        twelve = await file.read_all()
        await file.write(b"thirteen")
        assert await file.read_all() == await embed(place.files, "thirteen") != twelve
        assert twelve == await embed(place.files, "zwölf ")
        usage = await place.files.attrs("worker-0000/usage")
        assert usage["completion_tokens"] == "0"
        assert int(usage["prompt_tokens"]) > 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n", "there is no text to embed"),
        ("word" + " word" * 256, "the text has 257 tokens, the context holds 256"),
        (b"\xff", "UTF-8"),
    ],
    ids=["empty", "too long", "no text"],
)
@story
async def test_what_cannot_be_embedded_fails_the_read(text, reason):
    async with embedding() as place:
        file = await place.files.open("worker-0000/embed", c.ORDWR)
        await file.write(text.encode() if isinstance(text, str) else text)
        with pytest.raises(Error, match=reason):
            await file.read_all()
        assert reason in (await place.files.attrs("worker-0000/status"))["error"]
        await file.write(b"a text")
        assert numbers(await file.read_all()).shape == (576,)


@story
async def test_it_must_be_open_for_both_and_a_draining_worker_embeds_nothing():
    async with embedding() as place:
        for mode in (c.OREAD, c.OWRITE):
            with pytest.raises(Error, match="embed must be opened for reading and writing"):
                await place.files.open("worker-0000/embed", mode)
        await place.files.write("worker-0000/ctl", "drain")
        with pytest.raises(Error, match="worker-0000 is draining"):
            await embed(place.files, "hello")


@story
async def test_a_clunk_stops_a_long_one():
    gate = Gate()
    async with hosting(gate=gate, runner=Endless(gate=gate)) as place:
        file = await place.files.open("worker-0000/embed", c.ORDWR)
        await file.write(b"hello")
        waiting = reading(file)
        for _ in range(3):
            gate.allow()
        await file.clunk()
        gate.open()
        with pytest.raises(Error):
            await waiting
        await place.idle()
        usage = await place.files.attrs("worker-0000/usage")
        assert usage["finish_reason"] == "cancelled"


@story
async def test_a_conversation_and_a_simulated_model_have_none():
    async with hosting() as place:
        with pytest.raises(Error, match="simulated: this model cannot embed"):
            await embed(place.files, "hello")
        clone = await place.files.open("worker-0000/clone", c.ORDWR)
        assert "embed" not in await place.files.ls("worker-0000/0")
        await clone.clunk()
