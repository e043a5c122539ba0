"""Aggregate tokens/s of N clients on N worker files, against what else could serve them.

The contenders, each in processes of its own with the same model, threads, KV types
and prompts, measured in turns within one run, idle while another is measured:

- files: `llambo-worker`, N clients that write `prompt` and read `out` over TCP;
- bare:  the bare decode loop (see `decode`), which serves nobody;
- lock:  llama-cpp-python's high-level `Llama` behind a lock, as a simple server has it;
- server: llama-server, which xllamacpp carries (extra `bench`), with as many slots as there
  are clients, which stream over HTTP.  Its llama.cpp is newer than ours, and compiled for
  every CPU.

Every contender answers the same N prompts greedily with the same number of tokens; the
time is from the first prompt given to the last token received, prefill included.
Printed are medians over the rounds, and the medians of the rounds' ratios.

    python -m llambo9p_tools.bench.throughput [--rounds 5] [--tokens 128] [--clients 1,4,16]
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import importlib.util
import json
import statistics
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

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


def serve_server(pipe: Connection, count: int) -> None:
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = str(gguf.default_model())
    params.n_parallel = count
    params.n_ctx = N_CTX * count
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.cache_type_k = xllamacpp.ggml_type(TYPE_K)
    params.cache_type_v = xllamacpp.ggml_type(TYPE_V)
    params.kv_unified = False
    params.hostnames, params.port, params.verbosity = ["127.0.0.1"], 0, 0
    server = xllamacpp.Server(params)
    at = urlsplit(server.listening_address)

    def answer(texts: list[str], n_tokens: int) -> int:
        with ThreadPoolExecutor(len(texts)) as clients:
            return sum(clients.map(lambda text: _ask_server(at.netloc, text, n_tokens), texts))

    serve(pipe, answer)


def _ask_server(netloc: str, text: str, n_tokens: int) -> int:
    connection = http.client.HTTPConnection(netloc)
    asked = {
        "prompt": text, "n_predict": n_tokens, "temperature": 0, "stream": True,
        "cache_prompt": False,
    }  # fmt: skip
    connection.request(
        "POST", "/completion", json.dumps(asked), {"Content-Type": "application/json"}
    )
    events = [line for line in connection.getresponse() if line.startswith(b"data: ")]
    connection.close()
    said: dict[str, Any] = json.loads(events[-1].removeprefix(b"data: "))
    return int(said["tokens_predicted"])


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
    if importlib.util.find_spec("xllamacpp"):
        contenders["server"] = in_process(serve_server, max(clients))
    else:
        print("no llama-server here: pip install xllamacpp")
    peers = [name for name in contenders if name != "files"]
    print("tokens/s, medians of", options.rounds, "rounds in turns")
    names = [f"{name:>8}" for name in contenders]
    print("clients", *names, *(f"files/{name:6}" for name in peers))
    for n in clients:
        rates = measure(contenders, n, options.rounds, options.tokens)
        medians = [f"{statistics.median(rates[name]):8.1f}" for name in contenders]
        ratios = [f"{ratio(rates, 'files', name):12.2f}" for name in peers]
        print(f"{n:7}", *medians, *ratios, flush=True)
    for pipe in contenders.values():
        pipe.send(None)


if __name__ == "__main__":
    main()
