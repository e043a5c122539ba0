"""What serves models: our programs, and the servers that they are compared with.

Each is a context manager to give to `turns.Contender`, of `slots` sequences with `n_ctx`
tokens each; model, threads and KV types are the same in all:

- files:   `llambo-worker` with a worker for each question of a round, over TCP: a client
  sets its worker's `ctl`, writes `prompt` and reads `out`;
- through: the same files through an orchestrator, which started that host;
- root:    conversations cloned at the orchestrator's root, which chooses the worker;
- server:  llama-server, streaming over HTTP: the program that $LLAMA_SERVER names, else that
  which xllamacpp carries (extra `bench`), whose llama.cpp is newer than ours, and compiled
  for every CPU;
- lock:    llama-cpp-python's high-level `Llama` behind a lock, as a simple server has it.

The clients of all but the last are tasks of one uvloop beside the server, each with
connections of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import uvloop
import yaml

from llambo9p.engine import gguf
from llambo9p.engine.memory import F16, Q8_0
from llambo9p.net import address
from llambo9p.net.client import Client
from llambo9p.p9 import constants as c

from .turns import THREADS, Answer, Answering, Question

SERVER = os.environ.get("LLAMA_SERVER", "")


def has_server() -> bool:
    """Whether there is a llama-server here; says which, or what to do."""
    if SERVER or importlib.util.find_spec("xllamacpp"):
        print("llama-server:", SERVER or "xllamacpp's")
        return True
    print("no llama-server here: set LLAMA_SERVER, or pip install xllamacpp")
    return False


# -- the programs -------------------------------------------------------------------


@contextlib.contextmanager
def listening(*command: str) -> Iterator[tuple[address.Address, int]]:
    """One of our programs, as long as the context lasts: its address and its pid."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-m", *command], stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("listening"):
                    yield address.parse(line.split()[1]), process.pid
                    return
            raise SystemExit(f"{command[0]} did not start")
        finally:
            process.terminate()


@contextlib.contextmanager
def cluster(
    slots: int, n_ctx: int, model: str = "default"
) -> Iterator[tuple[address.Address, int]]:
    """An orchestrator that has no workers yet: its address and its pid."""
    with tempfile.TemporaryDirectory() as directory:
        configure(directory, slots, n_ctx, model)
        with orchestrator(directory) as started:
            yield started


def configure(
    directory: str, slots: int, n_ctx: int, model: str, workers_per_host: int | None = None
) -> None:
    """What `orchestrator` runs there."""
    resources = {
        "model": model, "context_size": n_ctx, "slots": slots, "threads": THREADS, "memory": "1GB",
    }  # fmt: skip
    tiny = {"resources": resources, "workers_per_host": workers_per_host}
    config = {"cluster": {"nodes": {"tiny": tiny}}}
    Path(directory, "cluster.yaml").write_text(yaml.safe_dump(config))


@contextlib.contextmanager
def orchestrator(directory: str) -> Iterator[tuple[address.Address, int]]:
    """With the configuration and the state file there: its address and its pid."""
    with listening(
        "llambo9p_nodes.orchestrator", "--listen", "tcp!127.0.0.1!0",
        "--config", f"{directory}/cluster.yaml", "--state", f"{directory}/state",
    ) as started:  # fmt: skip
        yield started


async def write_root(at: address.Address, path: str, text: str) -> None:
    """Write a file of the tree that is served at `at`."""
    client = await Client.connect(at)
    try:
        root, _ = await client.attach("bench")
        await _write(client, root, path, text)
    finally:
        client.close()


# -- the contenders -----------------------------------------------------------------


@contextlib.contextmanager
def files(slots: int, n_ctx: int, model: str = "default") -> Iterator[Answering]:
    with listening(
        "llambo9p_nodes.worker", "--listen", "tcp!127.0.0.1!0", "--exit-with-stdin",
        "--count", str(slots), "--slots", str(slots), "--context", str(n_ctx),
        "--threads", str(THREADS), "--model", model,
    ) as (at, _):  # fmt: skip
        yield lambda questions: uvloop.run(ask_all(questions, lambda: FilesClient(at)))


@contextlib.contextmanager
def through(slots: int, n_ctx: int) -> Iterator[Answering]:
    with cluster(slots, n_ctx) as (at, _):
        uvloop.run(write_root(at, "ctl", f"spawn --count {slots}"))
        yield lambda questions: uvloop.run(ask_all(questions, lambda: FilesClient(at)))


@contextlib.contextmanager
def root(slots: int, n_ctx: int) -> Iterator[Answering]:
    with cluster(slots, n_ctx) as (at, _):
        uvloop.run(write_root(at, "ctl", f"spawn --count {slots}"))
        yield lambda questions: uvloop.run(ask_all(questions, lambda: CloneClient(at)))


@contextlib.contextmanager
def server(
    slots: int,
    n_ctx: int,
    model: str = "default",
    *,
    caching: bool = False,
    clients: int | None = None,
) -> Iterator[Answering]:
    """With `caching` its prompt caches are on, as they are by default: where nothing is
    asked twice they only cost it time."""
    start = _program if SERVER else _xllamacpp
    path = gguf.default_model() if model == "default" else Path(model)
    with start(path, slots, n_ctx, caching) as at:
        yield lambda questions: uvloop.run(ask_all(questions, lambda: HttpClient(at), clients))


@contextlib.contextmanager
def _program(model: Path, slots: int, n_ctx: int, caching: bool) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options: dict[str, object] = {
        "--model": model, "--host": "127.0.0.1", "--port": port,
        "--parallel": slots, "--ctx-size": n_ctx * slots,
        "--threads": THREADS, "--threads-batch": THREADS,
        "--cache-type-k": "q8_0", "--cache-type-v": "f16",
    }  # fmt: skip
    words = ["--no-kv-unified"]
    if not caching:
        words += ["--no-cache-prompt", "--cache-ram", "0"]
    command = [SERVER, *words, *(str(word) for option in options.items() for word in option)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while not _is_healthy(port):
                if process.poll() is not None:
                    raise SystemExit(f"{SERVER} did not start")
                time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _is_healthy(port: int) -> bool:
    with contextlib.suppress(OSError):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


@contextlib.contextmanager
def _xllamacpp(model: Path, slots: int, n_ctx: int, caching: bool) -> Iterator[str]:
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_parallel = slots
    params.n_ctx = n_ctx * slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.cache_type_k = xllamacpp.ggml_type(Q8_0)
    params.cache_type_v = xllamacpp.ggml_type(F16)
    params.kv_unified = False
    params.hostnames, params.port, params.verbosity = ["127.0.0.1"], 0, 0
    params.cache_prompt = caching
    if not caching:
        params.cache_ram_mib = 0
    running = xllamacpp.Server(params)
    yield urlsplit(running.listening_address).netloc


@contextlib.contextmanager
def lock(n_ctx: int) -> Iterator[Answering]:
    from llama_cpp import Llama

    llama: Any = Llama(
        str(gguf.default_model()), n_ctx=n_ctx, n_threads=THREADS,
        type_k=Q8_0, type_v=F16, verbose=False,
    )  # fmt: skip
    mutex = threading.Lock()

    def answer(questions: list[Question]) -> list[Answer]:
        began = time.perf_counter()
        answers = [Answer(0.0) for _ in questions]

        def ask(question: Question, answer: Answer) -> None:
            with mutex:
                reply = llama.create_completion(
                    question.text, max_tokens=question.n_tokens, temperature=0
                )
            answer.ended = time.perf_counter() - began
            answer.tokens = reply["usage"]["completion_tokens"]
            answer.prompt_tokens = reply["usage"]["prompt_tokens"]

        threads = [
            threading.Thread(target=ask, args=each) for each in zip(questions, answers, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    yield answer


# -- their clients ------------------------------------------------------------------


class AClient(Protocol):
    """Asks one question after the other."""

    async def ask(self, number: int, question: Question, came: Callable[[], None]) -> Answer:
        """Ask question `number` of the round, and call `came` for each part of the text.
        The answer has tokens and no times."""

    def close(self) -> None: ...


async def ask_all(
    questions: list[Question], connect: Callable[[], AClient], clients: int | None = None
) -> list[Answer]:
    """Ask all questions, with so many clients (default: one for each)."""
    answers: dict[int, Answer] = {}
    waiting = iter(enumerate(questions))
    began = time.perf_counter()

    async def work() -> None:
        client = connect()
        try:
            for number, question in waiting:
                await asyncio.sleep(began + question.after - time.perf_counter())
                answers[number] = await _timed(began, client, number, question)
        finally:
            client.close()

    await asyncio.gather(*(work() for _ in range(clients or len(questions))))
    return [answers[number] for number in range(len(questions))]


async def _timed(began: float, client: AClient, number: int, question: Question) -> Answer:
    now = time.perf_counter
    arrivals: list[float] = []
    asked = now() - began
    answer = await client.ask(number, question, lambda: arrivals.append(now() - began))
    answer.asked, answer.arrivals, answer.ended = asked, arrivals, arrivals[-1]
    return answer


class FilesClient:
    """Each question is asked of the worker with its number, all over one connection."""

    def __init__(self, at: address.Address) -> None:
        self._at = at
        self._client: Client | None = None

    async def ask(self, number: int, question: Question, came: Callable[[], None]) -> Answer:
        if self._client is None:
            self._client = await Client.connect(self._at)
        max_tokens = question.max_tokens or question.n_tokens
        # on plain TCP requests without a label share no prefix
        settings = f"mode complete\ntemperature 0\nmax_tokens {max_tokens}\ncache_label bench"
        return await self._converse(self._client, number, settings, question, came)

    async def _converse(
        self,
        client: Client,
        number: int,
        settings: str,
        question: Question,
        came: Callable[[], None],
    ) -> Answer:
        root, _ = await client.attach("bench", f"worker-{number:04d}")
        await _write(client, root, "ctl", f"reset\n{settings}")
        answer = await _read_answer(client, root, "", question, came)
        client.forget(root)
        return answer

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


class CloneClient(FilesClient):
    """Each question is asked of a new conversation of the root."""

    async def _converse(
        self,
        client: Client,
        number: int,
        settings: str,
        question: Question,
        came: Callable[[], None],
    ) -> Answer:
        root, _ = await client.attach("bench")
        async with await client.open(root, "clone", c.ORDWR) as ctl:
            directory = (await ctl.read(0)).decode().strip()
            await ctl.write(settings.encode())
            answer = await _read_answer(client, root, f"{directory}/", question, came)
        client.forget(root)
        return answer


async def _write(client: Client, root: int, path: str, text: str) -> None:
    file = await client.open(root, path, c.OWRITE)
    await file.write(text.encode())
    await file.clunk()


async def _read_answer(
    client: Client, root: int, directory: str, question: Question, came: Callable[[], None]
) -> Answer:
    if question.held_to is not None:
        kind, text = question.held_to
        await _write(client, root, f"{directory}{kind}", text)
    await _write(client, root, f"{directory}prompt", question.text)
    async with await client.open(root, f"{directory}out", c.OREAD) as out:
        async for _ in out.chunks():
            came()
    async with await client.open(root, f"{directory}usage", c.OREAD) as usage:
        lines = (await usage.read_all()).decode().splitlines()
    said = dict(line.split(" ", 1) for line in lines)
    return Answer(
        0.0,
        tokens=int(said["completion_tokens"]),
        prompt_tokens=int(said["prompt_tokens"]),
        cached_tokens=int(said["cached_tokens"]),
    )


class HttpClient:
    """llama-server's /completion, a connection a question: one that waits for its next
    question would keep a thread of the server from other clients."""

    def __init__(self, netloc: str) -> None:
        self._netloc = netloc

    async def ask(self, number: int, question: Question, came: Callable[[], None]) -> Answer:
        host, _, port = self._netloc.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**20)
        asked = {
            "prompt": question.text, "n_predict": question.n_tokens, "temperature": 0,
            "stream": True,
        }  # fmt: skip
        if question.held_to is not None:
            kind, text = question.held_to
            asked |= {"grammar": text} if kind == "grammar" else {"json_schema": json.loads(text)}
        body = json.dumps(asked)
        writer.write(
            f"POST /completion HTTP/1.1\r\nHost: {self._netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        said: dict[str, Any] = {}
        async for line in reader:
            if line.startswith(b"data: "):
                said = json.loads(line.removeprefix(b"data: "))
                if said["content"]:
                    came()
        writer.close()
        timings = said["timings"]
        return Answer(
            0.0,
            tokens=said["tokens_predicted"],
            prompt_tokens=timings["cache_n"] + timings["prompt_n"],
            cached_tokens=timings["cache_n"],
        )

    def close(self) -> None:
        pass
