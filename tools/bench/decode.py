"""The bare decode loop, and how near the engine comes to it.

`BareLoop` is the peer of the throughput benches: llama_batch, llama_decode and a greedy
argmax in a tight loop over the low-level bindings, with the engine's model, threads and
KV types, and nothing else: no scheduler, no cache, no text, no event loop.

Run as a program it measures three that take turns on the same prompts, for N sequences at
once: `BareLoop` with a stream of the KV cache for each sequence, as the engine has them;
`BareLoop` with one cache for all (`kv_unified`); and `DecodeThread`.  Printed are the
medians, and the medians of the ratios of each turn.  All decode as many tokens.

    python -m llambo9p_tools.bench.decode [--rounds 7] [--tokens 128] [--sequences 1,4,16]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import uvloop

from llambo9p.engine import gguf
from llambo9p.engine.base import Request, SamplingParams, State, Token, Usage
from llambo9p.engine.llama import LlamaRunner
from llambo9p.engine.memory import F16, Q8_0
from llambo9p.engine.thread import DecodeThread

from .turns import N_CTX, THREADS, Answer, Answering, Contender, Question, measure, print_table

N_BATCH = 2048
N_UBATCH = 512


class BareLoop:
    """N prompts in, n_tokens greedy tokens for each, as fast as llama_decode goes."""

    def __init__(self, n_seq: int, n_ctx: int, n_threads: int, *, unified: bool) -> None:
        """`unified`: all sequences share one KV cache, as long as all of theirs."""
        log = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(log, None)
        self._log = log
        path = os.fsencode(gguf.default_model())
        model = lib.llama_model_load_from_file(path, lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        params.n_seq_max = n_seq
        params.n_ctx = n_ctx * n_seq
        params.n_batch, params.n_ubatch = N_BATCH, N_UBATCH
        params.n_threads = params.n_threads_batch = n_threads
        params.type_k, params.type_v = Q8_0, F16
        params.kv_unified = unified
        params.no_perf = True
        self._ctx: Any = lib.llama_init_from_model(model, params)
        self._vocab: Any = lib.llama_model_get_vocab(model)
        self._n_vocab = lib.llama_vocab_n_tokens(self._vocab)
        self._batch: Any = lib.llama_batch_init(N_BATCH, 0, 1)

    def complete(self, questions: list[Question]) -> list[Answer]:
        """Answer each question, to its end or the first one's `n_tokens`."""
        began = time.perf_counter()
        lib.llama_memory_clear(lib.llama_get_memory(self._ctx), False)
        rows: list[tuple[int, int, int]] = []
        lengths: list[int] = []
        for seq_id, question in enumerate(questions):
            prompt = self._tokenize(question.text)
            lengths.append(len(prompt))
            rows += [(token, pos, seq_id) for pos, token in enumerate(prompt)]
        tokens = self._decode(rows, [end - 1 for end in itertools.accumulate(lengths)])
        live = list(range(len(questions)))
        counts = [0] * len(questions)
        for left in reversed(range(questions[0].n_tokens)):
            live = [s for s in live if not lib.llama_vocab_is_eog(self._vocab, tokens[s])]
            for s in live:
                counts[s] += 1
            if not live or not left:
                break
            rows = [(tokens[s], lengths[s], s) for s in live]
            for s, token in zip(live, self._decode(rows, list(range(len(rows)))), strict=True):
                tokens[s] = token
                lengths[s] += 1
        ended = time.perf_counter() - began
        return [Answer(0.0, ended, tokens=count) for count in counts]

    def _decode(self, rows: list[tuple[int, int, int]], wanted: list[int]) -> list[int]:
        batch = self._batch
        for i, (token, pos, seq_id) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = pos
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = seq_id
            batch.logits[i] = False
        for i in wanted:
            batch.logits[i] = True
        batch.n_tokens = len(rows)
        if lib.llama_decode(self._ctx, batch) != 0:
            raise SystemExit("llama_decode failed")
        at = lib.llama_get_logits(self._ctx)
        logits = np.ctypeslib.as_array(at, (len(wanted), self._n_vocab))
        best: list[int] = logits.argmax(axis=1).tolist()
        return best

    def _tokenize(self, text: str) -> list[int]:
        data = text.encode()
        tokens = (lib.llama_token * (len(data) + 8))()
        n = lib.llama_tokenize(
            self._vocab, data, len(data), ctypes.cast(tokens, lib.llama_token_p),
            len(tokens), True, True,
        )  # fmt: skip
        return list(tokens[:n])


class _Count:
    """A listener that counts, as cheaply as a file's would at least."""

    def __init__(self) -> None:
        self.count = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def progress(self, state: State, position: int) -> None:
        pass

    def tokens(self, text: bytes, tokens: Sequence[Token]) -> None:
        self.count += len(tokens)

    def done(self, usage: Usage) -> None:
        self.ended.set_result(None)

    def failed(self, error: Exception) -> None:
        self.ended.set_exception(error)


async def complete(engine: DecodeThread, questions: list[Question]) -> list[Answer]:
    """What `BareLoop.complete` does, through the engine."""
    began = time.perf_counter()
    counts = []
    for question in questions:
        params = SamplingParams(temperature=0, max_tokens=question.n_tokens)
        counts.append(_Count())
        engine.submit(Request(question.text, params), counts[-1])
    for each in counts:
        await each.ended
    ended = time.perf_counter() - began
    return [Answer(0.0, ended, tokens=each.count) for each in counts]


@contextlib.contextmanager
def bare(n_seq: int, n_threads: int = THREADS, *, unified: bool = False) -> Iterator[Answering]:
    """A contender."""
    yield BareLoop(n_seq, N_CTX, n_threads, unified=unified).complete


@contextlib.contextmanager
def bare_engine(n_seq: int, n_threads: int = THREADS) -> Iterator[Answering]:
    """A contender."""
    runner = LlamaRunner(gguf.default_model(), n_ctx=N_CTX, n_seq=n_seq, n_threads=n_threads)
    engine = DecodeThread(runner)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(engine.start())
        try:
            yield lambda questions: loop.run(complete(engine, questions))
        finally:
            loop.run(engine.stop())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--sequences", default="1,4,16")
    parser.add_argument("--threads", type=int, default=THREADS)
    options = parser.parse_args()
    sequences = [int(n) for n in options.sequences.split(",")]
    n_seq, threads = max(sequences), options.threads
    starts: dict[str, Callable[[], Contender]] = {
        "bare": partial(Contender, bare, n_seq, threads),
        "unified": partial(Contender, bare, n_seq, threads, unified=True),
        "engine": partial(Contender, bare_engine, n_seq, threads),
    }
    print("tokens/s, medians of", options.rounds, "rounds in turns", flush=True)
    rates = measure(starts, sequences, options.rounds, options.tokens)
    print_table("sequences", rates, [("unified", "bare"), ("engine", "bare")], digits=3)


if __name__ == "__main__":
    main()
