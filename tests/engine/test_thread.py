"""The decode thread and its door on the event loop, over the simulated runner."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from llambo9p import errors
from llambo9p.engine.base import Load, Request, SamplingParams, State
from llambo9p.engine.simulated import Gate, SimulatedRunner
from llambo9p.engine.thread import DecodeThread
from tests.engine.harness import Recorder, all_prepared, ask, running, user
from tests.files import until


def long_answer(_: str) -> bytes:
    return b"x" * 1000


def test_an_answer_arrives_and_is_accounted():
    async def main():
        async with running(SimulatedRunner()) as engine:
            recorder = ask(engine, Request(user("hello")))
            assert engine.load == Load(16, 0, 1, 2, 256)
            usage = await recorder.usage()
            assert recorder.text == "simulated: hello"
            assert usage.completion_tokens == recorder.count == len(recorder.text)
            assert usage.finish_reason == "stop"
            assert recorder.states == [(State.PREFILL, 0), (State.DECODE, 0)]
            assert engine.load == Load(
                *(16, 0, 0, 0, 0, engine.steps, usage.prompt_tokens, usage.prompt_tokens, 0),
                len(recorder.text),
            )
            assert engine.info.name == "simulated"

    asyncio.run(main())


def test_characters_of_several_tokens_arrive_whole():
    async def main():
        runner = SimulatedRunner(answer=lambda _: "h\u00e9\U0001f600".encode() + b"\xff!")
        async with running(runner) as engine:
            recorder = ask(engine, Request("x"))
            await recorder.usage()
            assert recorder.text == "h\u00e9\U0001f600\ufffd!"
            assert recorder.pieces[1:3] == [b"", "\u00e9".encode()]

    asyncio.run(main())


class Counting(SimulatedRunner):
    """It knows how many prompts were tokenized."""

    tokenized = 0

    def tokenize(self, prompt):
        self.tokenized += 1
        return super().tokenize(prompt)


def test_events_of_a_step_reach_the_loop_in_one_call():
    async def main():
        gate = Gate()
        runner = Counting(gate=gate, answer=long_answer)
        async with running(runner) as engine:
            loop = asyncio.get_running_loop()
            calls = 0
            threadsafe = loop.call_soon_threadsafe

            def counting(*args, **kwargs):
                nonlocal calls
                calls += 1
                return threadsafe(*args, **kwargs)

            asked = SamplingParams(max_tokens=10)
            recorders = [ask(engine, Request(str(i), asked)) for i in range(8)]
            await asyncio.to_thread(gate.entered)
            await until(lambda: runner.tokenized == 8)
            loop.call_soon_threadsafe = counting
            gate.open()
            for recorder in recorders:
                await recorder.usage()
            assert calls <= engine.steps + 1
            assert engine.steps <= 14

    asyncio.run(main())


@pytest.mark.parametrize(("seconds", "told"), [(1, 6), (3, 11), (4, 21), (5, 21)])
def test_tokens_alone_wait_for_others_but_not_long(seconds, told):
    """The first one does not; then a step takes `seconds`, and the loop is told every 4."""

    async def main():
        now = 0

        def sleep(_):
            nonlocal now
            now += seconds

        runner = SimulatedRunner(answer=lambda _: b"x" * 20, sleep=sleep)
        async with running(runner, tell=4, clock=lambda: now) as engine:
            loop = asyncio.get_running_loop()
            threadsafe = loop.call_soon_threadsafe
            calls = []

            def counting(call, *args):
                calls.append(call)
                return threadsafe(call, *args)

            loop.call_soon_threadsafe = counting
            recorder = ask(engine, Request("hi"))
            await recorder.usage()
            assert recorder.text == "x" * 20
            assert recorder.count == 20
            reading, *tokens = calls
            assert len(tokens) == told
            assert len(recorder.pieces) == min(told, 20)

    asyncio.run(main())


def test_cancel_ends_a_decoding_request_within_one_step():
    async def main():
        gate = Gate()
        runner = SimulatedRunner(gate=gate, answer=long_answer)
        async with running(runner) as engine:
            request = Request("x")
            recorder = ask(engine, request)
            for _ in range(3):
                await asyncio.to_thread(gate.entered)
                gate.allow()
            await asyncio.to_thread(gate.entered)
            engine.cancel(request)
            gate.open()
            usage = await recorder.usage()
            assert usage.finish_reason == "cancelled"
            assert recorder.count == engine.steps == 4
            engine.cancel(request)

    asyncio.run(main())


def test_cancel_ends_a_long_prefill_within_one_chunk():
    async def main():
        gate = Gate()
        runner = SimulatedRunner(gate=gate, prefill_chunk=16)
        async with running(runner) as engine:
            request = Request("x" * 1000)
            recorder = ask(engine, request)
            await asyncio.to_thread(gate.entered)
            engine.cancel(request)
            gate.open()
            assert (await recorder.usage()).finish_reason == "cancelled"
            assert len(runner.steps[0].token) == 16
            assert engine.steps == 1

    asyncio.run(main())


def test_cancel_of_a_queued_request_and_at_once():
    async def main():
        async with running(SimulatedRunner()) as engine:
            request = Request("x")
            recorder = ask(engine, request)
            engine.cancel(request)
            assert recorder.ends == 0
            assert (await recorder.usage()).finish_reason == "cancelled"
            assert engine.steps == 0

    asyncio.run(main())


def test_a_full_queue_is_busy_and_the_load_is_right_at_once():
    async def main():
        gate = Gate()
        async with running(SimulatedRunner(gate=gate), slots=2, max_queue=3) as engine:
            recorders = [ask(engine, Request(str(i))) for i in range(5)]
            assert engine.load.queued == 5
            with pytest.raises(errors.Busy):
                ask(engine, Request("one too many"))
            await all_prepared(engine)
            gate.open()
            for recorder in recorders:
                await recorder.usage()
            assert recorders[4].states[0] == (State.QUEUED, 3)
            await ask(engine, Request("again")).usage()

    asyncio.run(main())


def test_a_failing_decode_fails_only_what_it_must():
    async def main():
        runner = SimulatedRunner(poison=b"bad")
        async with running(runner) as engine:
            good = [ask(engine, Request(f"good {i}")) for i in range(3)]
            bad = ask(engine, Request("bad"))
            for recorder in good:
                await recorder.usage()
            assert [recorder.text for recorder in good] == [
                f"simulated: good {i}" for i in range(3)
            ]
            with pytest.raises(errors.Error, match="poisoned"):
                await bad.usage()

    asyncio.run(main())


def test_a_listener_that_raises_harms_no_other():
    class Broken(Recorder):
        def tokens(self, text, tokens):
            raise RuntimeError("broken")

    async def main():
        async with running(SimulatedRunner()) as engine:
            broken = Broken()
            engine.submit(Request("a"), broken)
            other = ask(engine, Request("b"))
            await other.usage()
            await broken.usage()
            assert other.text == "simulated: b"

    asyncio.run(main())


def test_the_death_of_the_thread_fails_everything_and_later_submits():
    async def main():
        gate = Gate()
        runner = SimulatedRunner(gate=gate, answer=long_answer)
        async with running(runner, slots=1) as engine:
            recorders = [ask(engine, Request(str(i))) for i in range(2)]
            await asyncio.to_thread(gate.entered)
            gate.allow()
            await asyncio.to_thread(gate.entered)
            runner.cells[0].append(0)  # what no scheduler does: the runner asserts
            gate.open()
            for recorder in recorders:
                with pytest.raises(errors.HostLost, match="decode thread died"):
                    await recorder.usage()
            with pytest.raises(errors.HostLost, match="decode thread died"):
                ask(engine, Request("later"))
            assert "decode thread died" in engine.lost.result()
            assert runner.closed

    asyncio.run(main())


@pytest.mark.parametrize("embeds", [False, True])
def test_work_that_does_not_end_loses_the_host(embeds):
    """The thread hangs in a step, or in a part of an embedding: all requests fail, what waits too,
    and later ones.  What the thread says when it goes on after all is heard by nobody."""

    async def main():
        gate = Gate()
        runner = SimulatedRunner(gate=gate, answer=long_answer)
        runner.embed = lambda text: gate.wait()
        async with running(runner, slots=1, step_timeout=0.1) as engine:
            recorders = [ask(engine, Request(str(i), embed=embeds)) for i in range(3)]
            for recorder in recorders:
                with pytest.raises(errors.HostLost, match="has not ended after"):
                    await recorder.usage()
            assert engine.lost.result().startswith("host is lost: a ")
            with pytest.raises(errors.HostLost, match="has not ended after"):
                ask(engine, Request("later"))
            gate.open()

    asyncio.run(main())


def test_a_thread_that_waits_is_not_lost():
    async def main():
        gate = Gate()
        async with running(SimulatedRunner(gate=gate), step_timeout=0.1) as engine:
            await asyncio.sleep(1.2)  # more than two looks, and the bound
            assert not engine.lost.done()
            recorder = ask(engine, Request("x"))
            gate.open()
            await recorder.usage()

    asyncio.run(main())


def test_stop_fails_what_is_pending():
    async def main():
        gate = Gate()
        runner = SimulatedRunner(gate=gate, answer=long_answer)
        async with running(runner, slots=1) as engine:
            recorders = [ask(engine, Request(str(i))) for i in range(3)]
            await asyncio.to_thread(gate.entered)
            stopping = asyncio.create_task(engine.stop())
            await asyncio.sleep(0)
            gate.open()
            await stopping
            for recorder in recorders:
                with pytest.raises(errors.WorkerLost, match="stopped"):
                    await recorder.usage()
            with pytest.raises(errors.WorkerLost, match="stopped"):
                ask(engine, Request("later"))
            assert runner.closed

    asyncio.run(main())


def test_26_start_waits_for_the_model_and_fails_with_the_reason():
    async def main():
        told = []
        engine = DecodeThread(SimulatedRunner())
        with pytest.raises(errors.WorkerLost, match="not started"):
            ask(engine, Request("early"))
        await engine.start(told.append)
        assert told == [0.0, 0.5, 1.0]
        await engine.stop()

        runner = SimulatedRunner(load_error=errors.ModelError("no such model"))
        engine = DecodeThread(runner)
        with pytest.raises(errors.ModelError, match="no such model"):
            await engine.start()
        await engine.stop()
        assert runner.closed

    asyncio.run(main())


def test_more_conversations_than_sequences():
    async def main():
        async with running(SimulatedRunner(n_seq=2), max_queue=100) as engine:
            for turn in range(2):
                recorders = [
                    ask(engine, Request(f"conversation {i} turn {turn}", conversation=i))
                    for i in range(10)
                ]
                for i, recorder in enumerate(recorders):
                    await recorder.usage()
                    assert recorder.text == f"simulated: conversation {i} turn {turn}"
            engine.forget(9)

    asyncio.run(main())


def test_embeddings_leave_room_for_prompts():
    async def main():
        gate = Gate()
        async with running(SimulatedRunner(gate=gate), max_queue=4) as engine:
            ask(engine, Request("x"))
            texts = [ask(engine, Request("text", embed=True)) for _ in range(5)]
            with pytest.raises(errors.Busy):
                ask(engine, Request("text", embed=True))
            prompts = [ask(engine, Request("one more")) for _ in range(19)]
            with pytest.raises(errors.Busy):
                ask(engine, Request("one more"))
            gate.open()
            for text in texts:
                with pytest.raises(errors.ModelError, match="cannot embed"):
                    await text.usage()
            for prompt in prompts:
                await prompt.usage()
            assert engine.load.prompt_tokens == len("x") + 19 * len("one more")

    asyncio.run(main())


def test_the_rate_is_of_the_tokens_that_were_decoded():
    async def main():
        ticks = itertools.count()
        runner = SimulatedRunner(answer=lambda _: b"a" * 100)
        async with running(runner, clock=lambda: next(ticks) / 10) as engine:
            whole = await ask(engine, Request("x")).usage()
            rest = await ask(engine, Request("x", answer=(97,) * 95)).usage()
            assert rest.given_tokens == 95
            assert rest.tokens_per_second <= 2 * whole.tokens_per_second

    asyncio.run(main())


def test_tokens_that_an_answer_was_given_were_not_generated():
    async def main():
        async with running(SimulatedRunner(answer=lambda _: b"a" * 10)) as engine:
            recorder = ask(engine, Request("x", answer=(97,) * 7))
            await recorder.usage()
            assert (recorder.count, engine.load.generated_tokens) == (10, 3)

    asyncio.run(main())
