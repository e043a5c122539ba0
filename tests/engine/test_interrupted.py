"""Answers that give up their slots to other users, and go on later as if nothing had been.

The simulated runner asserts that each token is sampled from exactly the prompt and the answer so
far; the real one is compared token by token, logprob by logprob, with an undisturbed answer.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.engine import cache, fair
from llambo9p.engine.base import Request, SamplingParams, State, Token, Usage
from llambo9p.engine.fair import WAIT
from llambo9p.engine.gguf import default_model
from llambo9p.engine.llama import LlamaRunner
from llambo9p.engine.scheduler import TELL, Failed, Finished, Progress, Scheduler, Tokens
from llambo9p.engine.simulated import Gate, SimulatedRunner
from tests.engine.forgetful import KINDS
from tests.engine.harness import ask, prepared, running
from tests.engine.test_scheduler import SHARED, World, expected, letters

RAM = 1 << 28

submits = st.fixed_dictionaries(
    {
        "prompt": st.builds(
            lambda head, tail: SHARED[:head] + tail,
            st.sampled_from([0, 20, 39]),
            st.text("xyz", min_size=1, max_size=50),
        ),
        "user": st.sampled_from("abc"),
        "conversation": st.sampled_from([None, None, "1", "2", "3"]),
        "max_tokens": st.integers(1, 40),
        "stop": st.sampled_from([(), ("klm",), ("q",)]),
        "logprobs": st.sampled_from([0, 2]),
        "given": st.integers(0, 9),
        "priority": st.sampled_from([0, 0, 0, -1]),
        "marks": st.lists(st.integers(1, 60), max_size=2),
    }
)
actions = st.lists(
    st.one_of(submits, st.just("step"), st.tuples(st.just("cancel"), st.integers(0, 30))),
    max_size=50,
)


@pytest.mark.parametrize("kind", ["", *KINDS])
@given(
    actions,
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 20),
    st.sampled_from([0, 900, RAM]),
    st.lists(st.sampled_from([0, 0, 1, 3]), min_size=1, max_size=9),
)
def test_every_answer_is_as_if_undisturbed(kind, actions, n_seq, slots, chunk, ram, late):
    """A step takes a second here, so that whoever waits for one step may have a slot."""
    with mock.patch.object(cache, "EVERY", 24):
        undisturbed(kind, actions, n_seq, slots, chunk, ram, late)


def undisturbed(kind, actions, n_seq, slots, chunk, ram, late):
    world = World(
        n_seq=n_seq, chunk=chunk, slots=min(slots, n_seq), max_queue=100,
        cache_ram=ram, late=late, kind=kind,
    )  # fmt: skip
    requests, cancelled = [], set()
    for action in actions:
        match action:
            case "step":
                world.step()
            case "cancel", i:
                if i < len(requests) and requests[i] not in world.ended:
                    world.scheduler.cancel(requests[i], world.now)
                    world.collect()
                    cancelled.add(requests[i])
                    assert world.ended[requests[i]].finish_reason == "cancelled"
            case dict():
                given = letters(action["prompt"])[: action["given"]]
                options = {name: v for name, v in action.items() if name != "given"}
                requests.append(world.submit(**options, answer=tuple(given)))
    world.run()
    for request in requests:
        usage, ids = world.ended[request], world.ids[request]
        assert isinstance(usage, Usage)
        assert usage.completion_tokens == len(ids)
        assert bytes(token.id for token in ids) == letters(request.prompt)[: len(ids)]
        if request in cancelled:
            assert letters(request.prompt).startswith(world.text[request])
            continue
        assert (world.text[request], usage.finish_reason) == expected(request, 96)
        assert usage.prompt_tokens == len(request.prompt) >= usage.cached_tokens
        if request.params.logprobs and not any(late):  # the harness's late tokens have none
            bare = len(request.answer)
            assert all(token.logprobs.chosen.id == token.id for token in ids[bare:])
    book = world.scheduler._cache
    assert not any(s.busy or isinstance(s.owner, Request) for s in book.sequences)
    assert not any(isinstance(owner, Request) for owner in book._saved)
    assert book.saved_bytes <= ram


def beside(world, prompt="a long one", **options):
    """A request of bob's that waits behind alice's, and what alice's was given up for it."""
    for _ in range(world.scheduler.slots):
        alices = world.submit(prompt, user="alice", **options)
    for _ in range(4):
        world.step()
    bobs = world.submit("a short one", user="bob")
    return alices, bobs


def long(_):
    return b"x" * 30


@pytest.mark.parametrize("conversation", [None, "c"])
def test_its_cells_stay_in_memory_and_nothing_is_read_again(conversation):
    world = World(n_seq=2, chunk=64, answer=long, cache_ram=10_000)
    alices, bobs = beside(world, "p" * 40, conversation=conversation)
    assert world.scheduler._cache.saved_bytes == 0
    world.step()
    world.step()
    assert world.states[alices][-1] == (State.QUEUED, 1)
    assert world.states[bobs][-1][0] is not State.QUEUED
    assert world.scheduler._cache.saved_bytes > 0
    world.run()
    assert world.text[alices] == world.text[bobs] == b"x" * 30
    assert [state for state, _ in world.states[alices]][-3:] == [
        State.QUEUED, State.PREFILL, State.DECODE
    ]  # fmt: skip
    rows = sum(len(step.token) for step in world.runner.steps)
    # of alice's two prompts one was copied, but for its last token
    assert rows == 40 + 1 + len("a short one") + 3 * 30
    assert world.scheduler._cache.saved_bytes == 0 or conversation
    assert world.ended[alices].cached_tokens == 39


def test_without_memory_for_its_cells_it_is_read_again():
    world = World(n_seq=1, chunk=64, answer=long)
    alices, _ = beside(world, "p" * 40)
    world.run()
    assert world.text[alices] == b"x" * 30
    assert world.ended[alices].cached_tokens == 0


def test_time_in_the_queue_is_none_of_the_answers():
    world = World(
        n_seq=2, chunk=64, answer=lambda prompt: b"x" * 30 if prompt[0] == "p" else b"1",
        cache_ram=10_000,
    )  # fmt: skip
    alices, bobs = beside(world, "p" * 40)
    world.run()
    usage, his = world.ended[alices], world.ended[bobs]
    assert usage.interrupted_ms == his.total_ms - his.queue_ms > 0
    assert usage.queue_ms == 0
    # the first token came in the second step; the others took a step each, and one was bob's
    assert usage.ttft_ms == 2000
    assert usage.total_ms == 2000 + 30_000 + usage.interrupted_ms
    assert usage.tokens_per_second == pytest.approx(29 / 30)


def test_who_is_interrupted_before_the_first_token_was_queued():
    world = World(n_seq=1, chunk=16, answer=lambda _: b"1", cache_ram=10_000)
    alices = world.submit("p" * 80, user="alice")
    world.submit("a short one", user="bob")
    world.run()
    usage = world.ended[alices]
    assert usage.queue_ms > 0 and usage.interrupted_ms == 0
    assert usage.ttft_ms - usage.queue_ms == 5000, "it is in 5 steps that the prompt is read"


def test_a_cancelled_one_leaves_nothing():
    world = World(n_seq=2, chunk=64, answer=long, cache_ram=10_000)
    alices, _ = beside(world, "p" * 40)
    world.step()
    world.step()
    before = world.text[alices]
    world.scheduler.cancel(alices, world.now)
    world.collect()
    assert world.ended[alices].finish_reason == "cancelled"
    assert world.text[alices] == before != b""
    assert world.scheduler._cache.saved_bytes == 0
    world.run()


def test_nobody_is_interrupted_for_his_own_or_before_the_time():
    world = World(n_seq=2, answer=long)
    world.now = 10.0
    alices, bobs = beside(world, "p" * 5)
    for _ in range(10):
        world.submit("another", user="alice")
    world.scheduler.plan(world.now + WAIT - 0.01)
    assert world.scheduler._queued.keys() >= {bobs}
    assert alices not in world.scheduler._queued


def test_the_load_counts_it_among_those_that_wait(monkeypatch):
    monkeypatch.setattr(fair, "WAIT", 0.0)

    async def main():
        gate = Gate()
        async with running(SimulatedRunner(gate=gate, answer=long, n_seq=2), slots=2) as engine:
            alices = [ask(engine, Request("x", user="alice")) for _ in range(2)]
            await asyncio.to_thread(gate.entered)
            bobs = ask(engine, Request("y", user="bob"))
            while not bobs.states:
                gate.allow()
                await asyncio.to_thread(gate.entered)
            assert (engine.load.active, engine.load.queued) == (2, 1)
            assert alices[1].states[-1] == (State.QUEUED, 1)
            gate.open()
            for recorder in (*alices, bobs):
                await recorder.usage()
                assert recorder.text == "x" * 30
            assert (engine.load.active, engine.load.queued) == (0, 0)

    asyncio.run(main())


def test_requests_of_a_user_wait_in_the_order_of_arrival_however_long_they_are_prepared():
    """Or another host could not be told which of them this one can have begun."""
    slow = threading.Event()
    order: list[str] = []

    class Runner(SimulatedRunner):
        def tokenize(self, prompt):
            if prompt == "slow":
                slow.wait()
            return super().tokenize(prompt)

    def answer(prompt):
        order.append(prompt)
        return b"x"

    async def main():
        async with running(Runner(answer=answer), slots=1) as engine:
            asked = [ask(engine, Request(text, user="alice")) for text in ("slow", "a", "b")]
            await ask(engine, Request("bob's", user="bob")).usage()
            slow.set()
            for recorder in asked:
                await recorder.usage()
            assert order == ["bob's", "slow", "a", "b"]

    asyncio.run(main())


def test_positions_of_many_are_told_seldom():
    world = World(slots=1, max_queue=2000, answer=lambda _: b"1")
    requests = [world.submit(f"{i}") for i in range(1001)]

    def told(now):
        world.scheduler.plan(now)
        events = world.scheduler.events()
        return sum(isinstance(e, Progress) and e.state is State.QUEUED for e in events)

    assert told(0.0) == 1000
    world.scheduler.cancel(requests[1], 0.0)
    assert told(TELL * 900) == 0
    assert told(TELL * 1000) == 999
    assert told(TELL * 3000) == 0, "for nothing has changed"


# -- the real model -----------------------------------------------------------------

SCHEMA = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'
ASKED = {
    "greedy": SamplingParams(24, temperature=0),
    "seeded": SamplingParams(24, temperature=1.0, seed=7, repeat_penalty=1.3),
    "logprobs": SamplingParams(24, temperature=0, logprobs=3),
    "grammar": SamplingParams(24, temperature=0.8, seed=5, grammar='root ::= ("a" | "bc "){60}'),
    "schema": SamplingParams(24, temperature=0.5, seed=5, schema=SCHEMA),
    "stop": SamplingParams(48, temperature=0, stop=("the", " of a")),
}
PROMPT = "A file system is a way to keep things, and"


class Host:
    """A scheduler over the real model, in which each step takes half a second."""

    def __init__(self, runner, cache_ram):
        self.runner = runner
        self.scheduler = Scheduler(
            runner, n_seq=runner.n_seq, n_ctx=256, prefill_chunk=512, stall=None,
            cache_ram=cache_ram, sizes=runner.sizes, retention=runner.retention,
        )  # fmt: skip
        self.now = 0.0
        self.woken = threading.Event()
        runner.wake = self.woken.set
        self.text = defaultdict(bytes)
        self.tokens: dict[Request, list[Token]] = defaultdict(list)
        self.states = defaultdict(list)
        self.ended = {}

    def ask(self, params, user, prompt=PROMPT, **options):
        request = Request(prompt, params, user=user, **options)
        self.scheduler.submit(prepared(request, self.runner), self.now)
        return request

    def step(self):
        plan = self.scheduler.plan(self.now)
        self.now += 0.5
        self.woken.clear()
        if plan is not None:
            self.scheduler.commit(plan, self.runner.run(plan.step), self.now, 0.01)
        if any(slot.later is not None for slot in self.scheduler._active):
            assert self.woken.wait(10)
        for event in self.scheduler.events():
            match event:
                case Tokens(request, text, tokens):
                    self.text[request] += text
                    self.tokens[request] += tokens
                case Progress(request, state, _, _):
                    self.states[request].append(state)
                case Finished(request, usage):
                    self.ended[request] = usage
                case Failed(request, error):
                    raise error

    def said(self, request):
        while request not in self.ended:
            self.step()
        usage = self.ended[request]
        counts = usage.prompt_tokens, usage.completion_tokens, usage.finish_reason
        return self.text[request], self.tokens[request], counts


@pytest.fixture(scope="module")
def runner():
    runner = LlamaRunner(default_model(), n_ctx=256, n_seq=2, n_threads=1)
    runner.load(lambda _: True)
    yield runner
    runner.close()


@pytest.mark.parametrize(("given", "cache_ram"), [(0, 0), (0, RAM), (5, RAM)])
@pytest.mark.parametrize("params", ASKED.values(), ids=ASKED)
def test_a_real_answer_is_as_if_undisturbed(runner, params, cache_ram, given):
    alone = Host(runner, cache_ram)
    options = {"answer": ()}
    if given:
        first = alone.said(alone.ask(params, "alice"))
        options["answer"] = tuple(token.id for token in first[1][:given])
        alone = Host(runner, cache_ram)
    undisturbed = alone.said(alone.ask(params, "alice", **options))
    host = Host(runner, cache_ram)
    host.ask(SamplingParams(200, temperature=0), "alice", prompt="The other slot is hers, too:")
    disturbed = host.ask(params, "alice", **options)
    short = SamplingParams(2, temperature=0)
    while disturbed not in host.ended:
        if host.scheduler.slots == len(host.scheduler._active) and not host.scheduler._queued:
            host.ask(short, "bob", prompt="Bob asks about")
        host.step()
    times = host.states[disturbed].count(State.PREFILL) - 1
    assert times >= 1, "it was interrupted"
    assert host.said(disturbed) == undisturbed
