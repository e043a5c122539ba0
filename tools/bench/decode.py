"""The bare decode loop, and how near the engine comes to it.

`BareLoop` is the peer of the throughput benches: llama_batch, llama_decode and a greedy
argmax in a tight loop over the low-level bindings, with the engine's model, threads and
KV types, and nothing else: no scheduler, no cache, no text, no event loop.

Run as a program it measures `BareLoop` and `DecodeThread`, taking turns on the same
prompts, for N sequences at once, and prints the medians and the median of the ratios of
each turn.  Greedy answers are equal, so both decode the same tokens.  Each has a process
of its own, idle while the other is measured: in one process libgomp sees two teams of
threads, more than CPUs, and both wait at barriers asleep (measured: a third slower).

    python -m llambo9p_tools.bench.decode [--rounds 7] [--tokens 128] [--sequences 1,4,16]
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from llambo9p.engine import gguf
from llambo9p.engine.base import Request, SamplingParams, State, Usage
from llambo9p.engine.llama import TYPE_K, TYPE_V, LlamaRunner
from llambo9p.engine.thread import DecodeThread

N_CTX = 512
N_BATCH = 512
THREADS = len(os.sched_getaffinity(0))


class BareLoop:
    """N prompts in, n_tokens greedy tokens for each, as fast as llama_decode goes."""

    def __init__(self, n_seq: int, n_ctx: int = N_CTX, n_threads: int = THREADS) -> None:
        log = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(log, None)
        self._log = log
        path = os.fsencode(gguf.default_model())
        model = lib.llama_model_load_from_file(path, lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        params.n_seq_max = n_seq
        params.n_ctx = n_ctx * n_seq
        params.n_batch = params.n_ubatch = N_BATCH
        params.n_threads = params.n_threads_batch = n_threads
        params.type_k, params.type_v = TYPE_K, TYPE_V
        params.kv_unified = False
        params.no_perf = True
        self._ctx: Any = lib.llama_init_from_model(model, params)
        self._vocab: Any = lib.llama_model_get_vocab(model)
        self._n_vocab = lib.llama_vocab_n_tokens(self._vocab)
        self._batch: Any = lib.llama_batch_init(N_BATCH, 0, 1)

    def complete(self, texts: list[str], n_tokens: int) -> int:
        """Answer each text, to its end or `n_tokens`; how many tokens that were."""
        lib.llama_memory_clear(lib.llama_get_memory(self._ctx), False)
        tokens: list[int] = []
        lengths: list[int] = []
        for seq_id, text in enumerate(texts):
            prompt = self._tokenize(text)
            lengths.append(len(prompt))
            rows = [(token, pos, seq_id) for pos, token in enumerate(prompt)]
            tokens += self._decode(rows, [len(rows) - 1])
        live = list(range(len(texts)))
        count = 0
        for left in reversed(range(n_tokens)):
            live = [s for s in live if not lib.llama_vocab_is_eog(self._vocab, tokens[s])]
            count += len(live)
            if not live or not left:
                break
            rows = [(tokens[s], lengths[s], s) for s in live]
            for s, token in zip(live, self._decode(rows, list(range(len(rows)))), strict=True):
                tokens[s] = token
                lengths[s] += 1
        return count

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

    def tokens(self, text: bytes, count: int) -> None:
        self.count += count

    def done(self, usage: Usage) -> None:
        self.ended.set_result(None)

    def failed(self, error: Exception) -> None:
        self.ended.set_exception(error)


async def complete(engine: DecodeThread, texts: list[str], n_tokens: int) -> int:
    """What `BareLoop.complete` does, through the engine."""
    params = SamplingParams(temperature=0, max_tokens=n_tokens)
    counts = []
    for text in texts:
        counts.append(_Count())
        engine.submit(Request(text, params), counts[-1])
    for each in counts:
        await each.ended
    return sum(each.count for each in counts)


def prompts(n: int, turn: int) -> list[str]:
    """N texts that differ at once, so that no prefix is shared."""
    return [f"{turn * 100 + i} stories are told in this long book, which" for i in range(n)]


def serve_bare(pipe: Connection, n_seq: int, n_threads: int) -> None:
    bare = BareLoop(n_seq, N_CTX, n_threads)
    while (asked := pipe.recv()) is not None:
        began = time.perf_counter()
        tokens = bare.complete(*asked)
        pipe.send((tokens, time.perf_counter() - began))


def serve_engine(pipe: Connection, n_seq: int, n_threads: int) -> None:
    async def serve() -> None:
        path = gguf.default_model()
        engine = DecodeThread(LlamaRunner(path, n_ctx=N_CTX, n_seq=n_seq, n_threads=n_threads))
        await engine.start()
        while (asked := await asyncio.to_thread(pipe.recv)) is not None:
            began = time.perf_counter()
            tokens = await complete(engine, *asked)
            pipe.send((tokens, time.perf_counter() - began))
        await engine.stop()

    asyncio.run(serve())


def measure(sequences: list[int], rounds: int, n_tokens: int, n_threads: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    for serve in (serve_bare, serve_engine):
        ours, theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(theirs, max(sequences), n_threads), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    print("sequences  bare tok/s  engine tok/s  engine/bare")
    for n in sequences:
        rates: list[tuple[float, float]] = []
        for turn in range(rounds + 1):
            answered = []
            for pipe in pipes:
                pipe.send((prompts(n, turn), n_tokens))
                answered.append(pipe.recv())
            (bare, bare_s), (engine, engine_s) = answered
            if bare != engine:
                raise SystemExit(f"the bare loop gave {bare} tokens, the engine {engine}")
            rates.append((bare / bare_s, engine / engine_s))
        del rates[0]  # the warm-up
        print(
            f"{n:9} {statistics.median(b for b, _ in rates):11.1f} "
            f"{statistics.median(e for _, e in rates):13.1f} "
            f"{statistics.median(e / b for b, e in rates):12.3f}",
            flush=True,
        )
    for pipe in pipes:
        pipe.send(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--sequences", default="1,4,16")
    parser.add_argument("--threads", type=int, default=THREADS)
    options = parser.parse_args()
    sequences = [int(n) for n in options.sequences.split(",")]
    measure(sequences, options.rounds, options.tokens, options.threads)


if __name__ == "__main__":
    main()
