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
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import uvloop

from llambo9p.engine import gguf
from llambo9p.engine.base import Request, SamplingParams, State, Token, Usage
from llambo9p.engine.llama import TYPE_K, TYPE_V, LlamaRunner
from llambo9p.engine.thread import DecodeThread

N_CTX = 512
N_BATCH = 2048
N_UBATCH = 512
THREADS = len(os.sched_getaffinity(0))

Rates = dict[str, list[float]]
"""of each contender, one each round"""


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
        params.n_batch, params.n_ubatch = N_BATCH, N_UBATCH
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
        rows: list[tuple[int, int, int]] = []
        lengths: list[int] = []
        for seq_id, text in enumerate(texts):
            prompt = self._tokenize(text)
            lengths.append(len(prompt))
            rows += [(token, pos, seq_id) for pos, token in enumerate(prompt)]
        tokens = self._decode(rows, [end - 1 for end in itertools.accumulate(lengths)])
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

    def tokens(self, text: bytes, tokens: Sequence[Token]) -> None:
        self.count += len(tokens)

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
    """N prompts that share no long prefix, other ones each turn: nothing is cached.

    A model that was given numbers counts on: no answer ends early.  If some did, the
    engine would keep its running sequences dense and the bare loop would not
    (llama.cpp batches only consecutive ones), which is another measurement.
    """
    starts = [97 * (turn * n + i) for i in range(n)]
    return [", ".join(str(start + k) for k in range(4)) + "," for start in starts]


def in_process(serve: Callable[..., None], *args: object) -> Connection:
    """Run `serve(pipe, *args)` in a process of its own; this end of its pipe.

    It is sent (texts, n_tokens) and answers (tokens, seconds); None ends it.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    spawn.Process(target=serve, args=(theirs, *args), daemon=False).start()
    theirs.close()
    return ours


def serve(pipe: Connection, complete: Callable[[list[str], int], int]) -> None:
    """The other end of `in_process`: time `complete(texts, n_tokens)`."""
    while (asked := pipe.recv()) is not None:
        began = time.perf_counter()
        tokens = complete(*asked)
        pipe.send((tokens, time.perf_counter() - began))


def serve_bare(pipe: Connection, n_seq: int, n_threads: int) -> None:
    serve(pipe, BareLoop(n_seq, N_CTX, n_threads).complete)


def serve_engine(pipe: Connection, n_seq: int, n_threads: int) -> None:
    async def serve_async() -> None:
        path = gguf.default_model()
        engine = DecodeThread(LlamaRunner(path, n_ctx=N_CTX, n_seq=n_seq, n_threads=n_threads))
        await engine.start()
        while (asked := await asyncio.to_thread(pipe.recv)) is not None:
            began = time.perf_counter()
            tokens = await complete(engine, *asked)
            pipe.send((tokens, time.perf_counter() - began))
        await engine.stop()

    uvloop.run(serve_async())


def measure(contenders: dict[str, Connection], n: int, rounds: int, n_tokens: int) -> Rates:
    """Tokens a second of each contender in each round, in turns, after a warm-up.

    SystemExit when a contender gave less than what was asked for: then the rates would
    not compare.
    """
    rates: Rates = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, pipe in contenders.items():
            pipe.send((prompts(n, turn), n_tokens))
            tokens, seconds = pipe.recv()
            if tokens != n * n_tokens:
                raise SystemExit(f"{name} gave {tokens} tokens, not {n * n_tokens}")
            if turn:
                rates[name].append(tokens / seconds)
    return rates


def ratio(rates: Rates, ours: str, theirs: str) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(rates[ours], rates[theirs], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--sequences", default="1,4,16")
    parser.add_argument("--threads", type=int, default=THREADS)
    options = parser.parse_args()
    sequences = [int(n) for n in options.sequences.split(",")]
    contenders = {
        "bare": in_process(serve_bare, max(sequences), options.threads),
        "engine": in_process(serve_engine, max(sequences), options.threads),
    }
    print("tokens/s, medians of", options.rounds, "rounds in turns")
    print("sequences     bare   engine  engine/bare")
    for n in sequences:
        rates = measure(contenders, n, options.rounds, options.tokens)
        bare, engine = (statistics.median(rates[name]) for name in contenders)
        print(f"{n:9} {bare:8.1f} {engine:8.1f} {ratio(rates, 'engine', 'bare'):12.3f}", flush=True)
    for pipe in contenders.values():
        pipe.send(None)


if __name__ == "__main__":
    main()
