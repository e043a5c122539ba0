"""Aggregate tokens/s of N clients on N worker files, against what could serve them else.

Two contenders, each a process of its own with the same model, threads, KV types and
prompts, measured in turns within one run, idle while another is measured:

- files: `llambo-worker`, N clients that write `prompt` and read `out` over TCP;
- lock:  llama-cpp-python's high-level `Llama` behind a lock, as a simple server has it.

Every contender answers the same N prompts greedily; the time is from the first prompt
given to the last token received, prefill included.  Printed are medians over the
rounds and the ratio of files to lock within each round.

    python -m llambo9p_tools.bench.throughput [--rounds 5] [--tokens 128] [--clients 1,4,16]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from llambo9p.engine import gguf
from llambo9p.net import address
from llambo9p.net.client import Client
from llambo9p.p9 import constants as c

N_CTX = 512
THREADS = len(os.sched_getaffinity(0))


def prompts(n: int, round_: int) -> list[str]:
    """N prompts that share no long prefix; other ones each round, so nothing is cached."""
    topics = ["rivers", "bread", "chess", "glass", "winter", "maps", "bees", "clocks"]
    return [
        f"{topics[(i + round_) % len(topics)].title()} number {round_ * 97 + i}: a long essay."
        for i in range(n)
    ]


class Process:
    """A contender in a process: one JSON request a line in, one answer a line out."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--contender", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, texts: list[str], n_tokens: int) -> float:
        """Tokens a second for answering all of `texts`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([texts, n_tokens]) + "\n")
        self._process.stdin.flush()
        tokens, seconds = json.loads(self._process.stdout.readline())
        return float(tokens / seconds)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(answer: Callable[[list[str], int], int]) -> None:
    """The other end of `Process`: time `answer`, which returns its tokens."""
    for line in sys.stdin:
        texts, n_tokens = json.loads(line)
        began = time.perf_counter()
        tokens = answer(texts, n_tokens)
        print(json.dumps([tokens, time.perf_counter() - began]), flush=True)


def lock() -> None:
    import threading

    from llama_cpp import GGML_TYPE_F16, GGML_TYPE_Q8_0, Llama

    llama: Any = Llama(
        str(gguf.default_model()), n_ctx=N_CTX, n_threads=THREADS,
        type_k=GGML_TYPE_Q8_0, type_v=GGML_TYPE_F16, verbose=False,
    )  # fmt: skip
    mutex = threading.Lock()

    def answer(texts: list[str], n_tokens: int) -> int:
        counts: list[int] = []

        def ask(text: str) -> None:
            with mutex:
                reply = llama.create_completion(text, max_tokens=n_tokens, temperature=0)
                counts.append(reply["usage"]["completion_tokens"])

        threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts)

    serve(answer)


def files() -> None:
    host = subprocess.Popen(
        [
            sys.executable, "-m", "llambo9p_nodes.worker", "--listen", "tcp!127.0.0.1!0",
            "--count", "16", "--slots", "16", "--context", str(N_CTX), "--threads", str(THREADS),
            "--exit-with-stdin",
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert host.stdout is not None and host.stdin is not None
    for line in host.stdout:
        if line.startswith("listening"):
            break
    at = address.parse(line.split()[1])
    serve(lambda texts, n_tokens: asyncio.run(_ask_files(at, texts, n_tokens)))
    host.stdin.close()
    host.wait()


async def _ask_files(at: address.Address, texts: list[str], n_tokens: int) -> int:
    async def ask(i: int, text: str) -> int:
        client = await Client.connect(at)
        try:
            root, _ = await client.attach("bench", f"worker-{i:04d}")

            async def write(path: str, data: str) -> None:
                file = await client.open(root, path, c.OWRITE)
                await file.write(data.encode())
                await file.clunk()

            await write("ctl", f"reset\nmode complete\ntemperature 0\nmax_tokens {n_tokens}")
            await write("prompt", text)
            async with await client.open(root, "out", c.OREAD) as out:
                await out.read_all()
            async with await client.open(root, "usage", c.OREAD) as usage:
                lines = (await usage.read_all()).decode().splitlines()
            said = dict(line.split(" ", 1) for line in lines)
            return int(said["completion_tokens"])
        finally:
            client.close()

    return sum(await asyncio.gather(*(ask(i, text) for i, text in enumerate(texts))))


CONTENDERS = {"files": files, "lock": lock}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        CONTENDERS[options.contender]()
        return
    contenders = {name: Process(name) for name in CONTENDERS}
    for contender in contenders.values():
        contender.measure(prompts(1, 0), 8)  # load and warm up
    print("clients    files     lock  files/lock")
    for n in map(int, options.clients.split(",")):
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for round_ in range(1, options.rounds + 1):
            for name, contender in contenders.items():
                rates[name].append(contender.measure(prompts(n, round_), options.tokens))
        median = {name: statistics.median(values) for name, values in rates.items()}
        ratio = statistics.median(
            a / b for a, b in zip(rates["files"], rates["lock"], strict=True)
        )
        print(f"{n:7} {median['files']:8.1f} {median['lock']:8.1f} {ratio:11.3f}")
    for contender in contenders.values():
        contender.close()


if __name__ == "__main__":
    main()
