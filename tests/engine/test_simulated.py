"""The simulated runner: what it remembers of what it did."""

from __future__ import annotations

import asyncio

from llambo9p.engine.base import Request, SamplingParams
from llambo9p.engine.simulated import KEPT_STEPS, SimulatedRunner
from llambo9p.engine.thread import DecodeThread

from .harness import Recorder


def test_it_remembers_its_newest_steps_only() -> None:
    runner = SimulatedRunner(answer=lambda prompt: b"x" * (2 * KEPT_STEPS))

    async def run() -> None:
        engine = DecodeThread(runner)
        await engine.start()
        recorder = Recorder()
        engine.submit(Request("?", SamplingParams(max_tokens=2 * KEPT_STEPS)), recorder)
        await recorder.usage()
        assert engine.steps >= 2 * KEPT_STEPS
        await engine.stop()

    asyncio.run(run())
    assert len(runner.steps) == KEPT_STEPS
