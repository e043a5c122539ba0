"""What the engine's tests share: a listener that records, and an engine that runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from llambo9p.engine.base import Message, Request, SamplingParams, State, Token, Usage
from llambo9p.engine.preparing import prepare
from llambo9p.engine.runner import Prepared, Runner
from llambo9p.engine.sandbox.compiler import Compiler
from llambo9p.engine.thread import DecodeThread

_COMPILER = Compiler()

GREEDY = SamplingParams(temperature=0, max_tokens=32)


class Recorder:
    """A listener that keeps everything, and whose `usage()` awaits the end."""

    def __init__(self) -> None:
        self.states: list[tuple[State, int]] = []
        self.pieces: list[bytes] = []
        self.count = 0
        self.all_tokens: list[Token] = []
        self.ends = 0
        self._end: asyncio.Future[Usage] = asyncio.get_running_loop().create_future()

    @property
    def text(self) -> str:
        return b"".join(self.pieces).decode()

    def progress(self, state: State, position: int) -> None:
        assert self.ends == 0
        self.states.append((state, position))

    def tokens(self, text: bytes, tokens: Sequence[Token]) -> None:
        assert self.ends == 0
        text.decode()  # whole characters only
        self.pieces.append(text)
        self.count += len(tokens)
        self.all_tokens += tokens

    def done(self, usage: Usage) -> None:
        self.ends += 1
        self._end.set_result(usage)

    def failed(self, error: Exception) -> None:
        self.ends += 1
        self._end.set_exception(error)

    async def usage(self) -> Usage:
        return await self._end


@asynccontextmanager
async def running(runner: Runner, **options: Any) -> AsyncIterator[DecodeThread]:
    engine = DecodeThread(runner, **options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def all_prepared(engine: DecodeThread) -> None:
    """The decode thread has been given all that was asked for."""
    while engine._arrival._lines:  # noqa: ASYNC110 (its threads do not tell the loop)
        await asyncio.sleep(0.001)


def user(text: str, system: str = "") -> tuple[Message, ...]:
    head = (Message("system", system),) if system else ()
    return (*head, Message("user", text))


def prepared(request: Request, runner: Runner) -> Prepared:
    """The request, as the scheduler takes it.  Raises what is wrong with it."""
    return prepare(request, runner, runner.n_ctx, _COMPILER)


def ask(engine: DecodeThread, request: Request) -> Recorder:
    recorder = Recorder()
    engine.submit(request, recorder)
    return recorder
