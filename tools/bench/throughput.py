"""Aggregate tokens/s of N clients on N worker files, against what else could serve them.

Three contenders, each in processes of its own with the same model, threads, KV types
and prompts, measured in turns within one run, idle while another is measured:

- files: `llambo-worker`, N clients that write `prompt` and read `out` over TCP;
- bare:  the bare decode loop (see `decode`), which serves nobody;
- lock:  llama-cpp-python's high-level `Llama` behind a lock, as a simple server has it.

Every contender answers the same N prompts greedily with the same number of tokens; the
time is from the first prompt given to the last token received, prefill included.
Printed are medians over the rounds, and the medians of the rounds' ratios.

    python -m llambo9p_tools.bench.throughput [--rounds 5] [--tokens 128] [--clients 1,4,16]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from llambo9p.engine import gguf
from llambo9p.engine.llama import TYPE_K, TYPE_V
from llambo9p.net import address
from llambo9p.net.client import Client
from llambo9p.p9 import constants as c

from .decode import N_CTX, THREADS, in_process, measure, ratio, serve, serve_bare


def serve_lock(pipe: Connection) -> None:
    from llama_cpp import Llama

    llama: Any = Llama(
        str(gguf.default_model()), n_ctx=N_CTX, n_threads=THREADS,
        type_k=TYPE_K, type_v=TYPE_V, verbose=False,
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

    serve(pipe, answer)


def serve_files(pipe: Connection, count: int) -> None:
    """The clients; the host is a process below this one."""
    command = [
        sys.executable, "-m", "llambo9p_nodes.worker", "--listen", "tcp!127.0.0.1!0",
        "--count", str(count), "--slots", str(count), "--context", str(N_CTX),
        "--threads", str(THREADS), "--exit-with-stdin",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdout is not None and host.stdin is not None
        for line in host.stdout:
            if line.startswith("listening"):
                break
        at = address.parse(line.split()[1])
        serve(pipe, lambda texts, n_tokens: uvloop.run(_ask_files(at, texts, n_tokens)))
        host.stdin.close()


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--clients", default="1,4,16")
    options = parser.parse_args()
    clients = [int(n) for n in options.clients.split(",")]
    contenders = {
        "files": in_process(serve_files, max(clients)),
        "bare": in_process(serve_bare, max(clients), THREADS),
        "lock": in_process(serve_lock),
    }
    print("tokens/s, medians of", options.rounds, "rounds in turns")
    print("clients    files     bare     lock  files/bare  files/lock")
    for n in clients:
        rates = measure(contenders, n, options.rounds, options.tokens)
        files, bare, lock = (statistics.median(rates[name]) for name in contenders)
        print(
            f"{n:7} {files:8.1f} {bare:8.1f} {lock:8.1f} "
            f"{ratio(rates, 'files', 'bare'):11.3f} {ratio(rates, 'files', 'lock'):11.2f}",
            flush=True,
        )
    for pipe in contenders.values():
        pipe.send(None)


if __name__ == "__main__":
    main()
