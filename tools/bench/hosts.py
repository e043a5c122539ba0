"""Simulated hosts of different speeds, all in one other process.

Each has `SLOTS` slots and as many workers, and decodes in steps that take `BASE` and
`PER_ROW` for each token in it, times how slow it is: the fastest takes in 4,500 tokens/s, or
decodes 1,050.  A token is a byte.  An answer has as many tokens as the last word of its
prompt says, so that the balancer does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from multiprocessing.connection import Connection

import uvloop

from llambo9p.engine.simulated import Latency, SimulatedRunner
from llambo9p.engine.thread import DecodeThread
from llambo9p.net import address
from llambo9p.net.server import Server
from llambo9p.worker.host import Host

SLOTS = 8
N_CTX = 4096
CHUNK = 256
"""rows of a step that are of prompts"""
BASE, PER_ROW = 0.006, 0.0002
"""seconds"""


@contextlib.contextmanager
def simulated_hosts(slowness: Sequence[float]) -> Iterator[list[address.Address]]:
    """Where they listen."""
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    process = spawn.Process(target=_run, args=(theirs, slowness))
    process.start()
    theirs.close()
    try:
        yield [address.parse(words) for words in pipe.recv()]
    finally:
        pipe.close()
        process.join()


def _run(pipe: Connection, slowness: Sequence[float]) -> None:
    uvloop.run(_serve(pipe, slowness))


async def _serve(pipe: Connection, slowness: Sequence[float]) -> None:
    """Until the other end of the pipe is closed."""
    parent_gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), parent_gone.set)
    async with contextlib.AsyncExitStack() as stack:
        addresses = [
            await stack.enter_async_context(_host(times, number * SLOTS))
            for number, times in enumerate(slowness)
        ]
        pipe.send([str(at) for at in addresses])
        await parent_gone.wait()


@contextlib.asynccontextmanager
async def _host(times: float, first: int) -> AsyncIterator[address.Address]:
    runner = SimulatedRunner(
        n_ctx=N_CTX, n_seq=SLOTS, prefill_chunk=CHUNK, answer=_answer,
        latency=Latency(BASE * times, PER_ROW * times), sleep=time.sleep,
    )  # fmt: skip
    engine = DecodeThread(runner)
    await engine.start()
    host = Host(
        engine, engine.info, node_type="tiny", context_size=N_CTX, shutdown=lambda: None
    )
    host.grow(SLOTS, first)
    server = Server(host.attach)
    try:
        yield await server.listen(address.parse("tcp!127.0.0.1!0"))
    finally:
        await server.close()
        await engine.stop()


def _answer(prompt: str) -> bytes:
    return b"x" * int(prompt.rsplit(maxsplit=1)[-1])
