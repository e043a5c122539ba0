"""Embeddings beside the decoding, on the real model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

from llambo9p import errors
from llambo9p.engine.base import Request, State, Token
from llambo9p.engine.embeddings import line
from llambo9p.engine.gguf import default_model
from llambo9p.engine.llama import LlamaRunner
from llambo9p.engine.memory import EMBED_CHUNK, F16, Q8_0
from llambo9p.engine.runner import Embedding
from llambo9p.engine.simulated import SimulatedRunner
from tests.engine.harness import GREEDY, Recorder, ask, running, user

LONG = "The river flows through the old town. " * 80


def whole(embedding: Embedding) -> tuple[list[int], np.ndarray]:
    """What it yields, and what it is in the end."""
    left = []
    while True:
        try:
            left.append(next(embedding))
        except StopIteration as end:
            return left, end.value


def pooled(runner: LlamaRunner, text: str) -> np.ndarray:
    """llama.cpp's own mean pooling, over the whole text in one batch."""
    tokens = runner.model.tokens_of(text, parse_special=False)
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = params.n_outputs_max = 1024
    params.n_seq_max = params.n_threads = params.n_threads_batch = 1
    params.type_k, params.type_v = Q8_0, F16
    params.embeddings = True
    params.pooling_type = lib.LLAMA_POOLING_TYPE_MEAN
    ctx = lib.llama_init_from_model(runner.model.handle, params)
    try:
        ids = (lib.llama_token * len(tokens))(*tokens)
        assert lib.llama_decode(ctx, lib.llama_batch_get_one(ids, len(tokens))) == 0
        mean = np.ctypeslib.as_array(lib.llama_get_embeddings_seq(ctx, 0), (576,)).copy()
    finally:
        lib.llama_free(ctx)
    return mean / np.linalg.norm(mean)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["The cat sat on the mat.", LONG], ids=["short", "long"])
def test_it_is_the_mean_that_llama_cpp_computes(llama: LlamaRunner, text: str):
    llama.load(lambda _: True)
    left, embedding = whole(llama.embed(text))
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, pooled(llama, text), atol=1e-6)
    size = len(llama.model.tokens_of(text))
    assert left == list(range(size, 0, -EMBED_CHUNK))


def test_a_special_token_that_is_spelled_is_text(llama: LlamaRunner):
    llama.load(lambda _: True)
    left, _ = whole(llama.embed("<|im_end|>"))
    assert left[0] > 1


def test_numbers_are_as_short_as_they_can_be():
    numbers = np.array([0.1, -1.0, 1e-7, 0.33333334, 0.0], np.float32)
    assert line(numbers) == b"0.1 -1 0.0000001 0.33333334 0\n"
    values = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    assert (np.array(line(values).split(), np.float32) == values).all()


class Tokens(Recorder):
    """Tells in `log` when a token comes."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def tokens(self, text: bytes, tokens: Sequence[Token]) -> None:
        super().tokens(text, tokens)
        self.log.append("token")


class Parts(Tokens):
    """Tells in `log` when a part of an embedding begins."""

    def progress(self, state: State, position: int) -> None:
        super().progress(state, position)
        assert state is State.PREFILL
        self.log.append("part")


def test_an_answer_goes_on_beside_it_and_is_the_same(llama: LlamaRunner):
    async def main():
        async with running(llama) as engine:
            request = Request(user("Count to a hundred."), replace(GREEDY, max_tokens=40))
            alone = ask(engine, request)
            await alone.usage()
            log: list[str] = []
            beside, embedded = Tokens(log), Parts(log)
            engine.submit(replace(request), beside)
            engine.submit(Request(LONG, embed=True), embedded)
            usage = await embedded.usage()
            await beside.usage()
            assert beside.text == alone.text
            # between two of the answer's tokens there is one part, and not the whole text
            parts = -(-usage.prompt_tokens // EMBED_CHUNK)
            assert log.count("part") == parts > 10
            first = log.index("token")
            assert "part part" not in " ".join(log[first:])
            assert usage.completion_tokens == 0
            assert usage.finish_reason == "stop"
            assert engine.load.pending_prefill == engine.load.pending_decode == 0

    asyncio.run(main())


def test_texts_take_turns_and_a_cancelled_one_leaves_the_others(llama: LlamaRunner):
    async def main():
        async with running(llama) as engine:
            texts = ["one", LONG, "two", "three"]
            requests = [Request(text, embed=True) for text in texts]
            recorders = [ask(engine, request) for request in requests]
            for request in requests[1:3]:
                engine.cancel(request)
            reasons = [(await recorder.usage()).finish_reason for recorder in recorders]
            assert reasons == ["stop", "cancelled", "cancelled", "stop"]
            assert [bool(recorder.text) for recorder in recorders] == [True, False, False, True]
            again = ask(engine, Request("three", embed=True))
            await again.usage()
            assert again.text == recorders[3].text

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("", errors.InvalidArgument, "there is no text to embed"),
        ("word" + " word" * 1024, errors.ContextOverflow, "1025 tokens, the context holds 1024"),
        ("x" * 5_000_000, errors.ContextOverflow, "5000000 bytes, .* a context of 1024 tokens"),
    ],
    ids=["empty", "too long", "much too long"],
)
def test_what_cannot_be_embedded_says_why(llama: LlamaRunner, text, error, reason):
    async def main():
        async with running(llama) as engine:
            with pytest.raises(error, match=reason):
                await ask(engine, Request(text, embed=True)).usage()

    asyncio.run(main())


@pytest.mark.slow
def test_a_full_context_can_be_embedded(llama: LlamaRunner):
    async def main():
        async with running(llama) as engine:
            full = ask(engine, Request("word" + " word" * 1023, embed=True))
            assert (await full.usage()).prompt_tokens == 1024

    asyncio.run(main())


def test_a_text_for_which_there_is_no_memory_is_refused_with_the_arithmetic(monkeypatch):
    runner = LlamaRunner(default_model(), n_ctx=256, n_seq=1, n_threads=1)
    runner.load(lambda _: True)
    monkeypatch.setattr("llambo9p.engine.machine.available_memory", lambda: 3 << 20)
    with pytest.raises(errors.ModelError, match="to embed takes .* MiB more, and 3 MiB are avail"):
        runner.embed("hello")
    monkeypatch.undo()
    assert whole(runner.embed("hello"))[1].shape == (576,)
    runner.close()


def test_a_simulated_model_cannot_embed():
    async def main():
        async with running(SimulatedRunner()) as engine:
            with pytest.raises(errors.ModelError, match="this model cannot embed"):
                await ask(engine, Request("hello", embed=True)).usage()
            recorder = ask(engine, Request(user("hello")))
            await recorder.usage()
            assert recorder.text == "simulated: hello"

    asyncio.run(main())


def test_users_take_turns_and_what_was_begun_is_ended():
    """A text has as many parts as letters."""

    class Embedding(SimulatedRunner):
        def embed(self, text):
            made.append(text)
            yield from range(len(text), 0, -1)
            return np.ones(1, np.float32)

    async def main():
        gate = threading.Event()
        async with running(Embedding(sleep=lambda _: gate.wait())) as engine:
            # the thread waits here, so that all texts are there when the first one is made
            holding = ask(engine, Request(user("hello"), GREEDY))
            for text, whose in (
                ("aaaa", "alice"), ("aaa", "alice"), ("aa", "alice"), ("b", "bob"), ("bb", "bob")
            ):  # fmt: skip
                recorders.append(ask(engine, Request(text, user=whose, embed=True)))
            gate.set()
            for recorder in (*recorders, holding):
                await recorder.usage()

    made: list[str] = []
    recorders: list[Recorder] = []
    asyncio.run(main())
    assert made == ["aaaa", "b", "aaa", "bb", "aa"]
