"""Continuous batching against a model of the KV cache.

The simulated runner holds real cells and asserts that every row continues its
sequence and that each token is sampled from exactly the prompt and the answer so far.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p import errors
from llambo9p.engine.base import Message, Request, SamplingParams, State, Usage
from llambo9p.engine.prefill import CHUNK_MIN, STALL
from llambo9p.engine.runner import DecodeError
from llambo9p.engine.scheduler import (
    Failed,
    Finished,
    Progress,
    Scheduler,
    Tokens,
)
from llambo9p.engine.simulated import EOG, N_VOCAB, SimulatedRunner
from tests.engine.forgetful import Forgetful
from tests.engine.harness import prepared

SHARED = "a prefix that is shared by many prompts"


def letters(prompt: str) -> bytes:
    """An answer whose length and text depend on the prompt."""
    n = sum(prompt.encode()) % 31
    return bytes(97 + (n + i) % 26 for i in range(n))


class Late:
    """A token that is known when it has been asked for `polls` times."""

    logprobs = None

    def __init__(self, token, polls):
        self._token = token
        self._polls = polls

    def token(self):
        self._polls -= 1
        if self._polls > 0:
            return None
        if isinstance(self._token, errors.Error):
            raise self._token
        return self._token


class World:
    """A scheduler, its runner and a clock that goes one second a step.  `late` says after how
    many steps each token is known, over and over; 0 is at once."""

    def __init__(
        self, answer=letters, n_seq=4, n_ctx=96, chunk=16, stall=None, late=(0,), kind="", **options
    ):
        self.late = itertools.cycle(late)
        make = functools.partial(Forgetful, kind) if kind else SimulatedRunner
        self.runner = make(n_seq=n_seq, n_ctx=n_ctx, prefill_chunk=chunk, answer=answer)
        self.chunk = chunk
        self.read = set()
        """slots of which prompt tokens were read since the last step that decoded"""
        self.in_a_row = 0
        """tokens of prompts that were read in a row while somebody waited for his next one"""
        self.scheduler = Scheduler(
            self.runner, n_seq=n_seq, n_ctx=n_ctx, prefill_chunk=chunk, stall=stall,
            sizes=self.runner.sizes, retention=self.runner.retention, **options,
        )  # fmt: skip
        self.now = 0.0
        self.seconds = 1.0
        self.text = {}
        self.ids = {}
        self.ended = {}
        self.states = {}

    def submit(self, prompt, **options):
        params = SamplingParams(
            max_tokens=options.pop("max_tokens", 1000),
            stop=options.pop("stop", ()),
            logprobs=options.pop("logprobs", 0),
        )
        marks = tuple(options.pop("marks", ()))
        request = Request(prompt, params, **options)
        self.text[request] = b""
        self.ids[request] = []
        self.states[request] = []
        try:
            ready = prepared(request, self.runner)
        except errors.Error as error:
            self.ended[request] = error
        else:
            self.scheduler.submit(replace(ready, marks=marks), self.now)
        return request

    def step(self):
        plan = self.scheduler.plan(self.now)
        self.now += 1
        if plan is not None:
            self.check(plan)
            sampled = [
                Late(token, polls) if (polls := next(self.late)) else token
                for token in self.runner.run(plan.step)
            ]
            self.scheduler.commit(plan, sampled, self.now, self.seconds)
            for s in self.scheduler._cache.sequences:
                assert self.runner.cells[s.seq_id][: len(s.tokens)] == s.tokens
        self.collect()
        return plan

    def fail(self):
        """A step that cannot be decoded and spoils the cells of its sequences."""
        plan = self.scheduler.plan(self.now)
        for slot, _, _ in plan.parts:
            self.runner.cells[slot.sequence.seq_id] = [EOG] * len(slot.sequence.tokens)
        self.scheduler.abort(plan, DecodeError("no"))
        self.collect()

    def check(self, plan):
        step = plan.step
        busy = [slot.sequence.seq_id for slot in self.scheduler._active]
        assert sorted(busy) == list(range(len(busy)))
        assert len(busy) <= self.scheduler.slots
        prefill = sum(rows for slot, rows, _ in plan.parts if slot.next_token is None)
        assert prefill <= self.chunk
        assert len(step.token) - prefill <= self.scheduler.slots
        assert prefill == plan.prefill
        planned = {slot for slot, _, _ in plan.parts}
        decoding = {
            slot
            for slot in self.scheduler._active
            if slot.next_token is not None and slot.later is None
        }
        assert all(slot.later is None for slot in planned)
        if prefill:
            assert not planned & decoding
            self.read |= planned
            self.in_a_row = self.in_a_row + prefill if decoding else 0
            assert self.in_a_row < self.chunk + CHUNK_MIN
        else:
            assert planned == decoding
            self.read, self.in_a_row = set(), 0

    def collect(self):
        for event in self.scheduler.events():
            request = event.request
            assert request not in self.ended
            match event:
                case Progress(_, state, position, _):
                    self.states[request].append((state, position))
                case Tokens(_, text, tokens):
                    assert len(tokens) <= 1 + len(request.answer)
                    self.ids[request] += tokens
                    self.text[request] += text
                case Finished(_, usage):
                    self.ended[request] = usage
                case Failed(_, error):
                    self.ended[request] = error

    def run(self, limit=5000):
        for _ in range(limit):
            if self.scheduler.idle:
                break
            self.step()
        self.collect()
        assert self.scheduler.idle, "starved"


def expected(request, n_ctx):
    """Text and finish_reason of a text request, by the rules of `base`."""
    answer = letters(request.prompt)
    cap = min(request.params.max_tokens, n_ctx - len(request.prompt) + 1)
    for s in request.params.stop:
        at = answer.find(s.encode())
        if 0 <= at and at + len(s) <= cap:
            return answer[:at], "stop"
    if len(answer) >= cap:
        return answer[:cap], "length"
    return answer, "stop"


submits = st.fixed_dictionaries(
    {
        "prompt": st.builds(
            lambda head, tail: SHARED[:head] + tail,
            st.sampled_from([0, 5, 20, 39]),
            st.text("xyz", min_size=1, max_size=60),
        ),
        "conversation": st.sampled_from([None, None, "a", "b", "c", "d", "e"]),
        "max_tokens": st.integers(1, 40),
        "stop": st.sampled_from([(), ("klm",), ("q",)]),
    }
)
actions = st.lists(
    st.one_of(
        submits,
        st.sampled_from(["step", "step", "step", "forget"]),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
    ),
    max_size=60,
)


@given(
    actions,
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 20),
    st.lists(st.integers(0, 3), min_size=1, max_size=9),
)
def test_every_request_ends_once_with_its_own_answer(actions, n_seq, slots, chunk, late):
    world = World(n_seq=n_seq, chunk=chunk, slots=min(slots, n_seq), max_queue=100, late=late)
    requests = []
    cancelled = set()
    for action in actions:
        match action:
            case "step":
                world.step()
            case "forget":
                world.scheduler.forget("a")
            case "cancel", i:
                if i < len(requests) and requests[i] not in world.ended:
                    world.scheduler.cancel(requests[i], world.now)
                    world.collect()
                    cancelled.add(requests[i])
                    assert requests[i] in world.ended
            case dict():
                requests.append(world.submit(**action))
    world.run()
    for request in requests:
        usage = world.ended[request]
        if len(request.prompt) > 96:
            assert isinstance(usage, errors.ContextOverflow) or request in cancelled
            continue
        assert isinstance(usage, Usage)
        text, reason = expected(request, 96)
        if request in cancelled:
            assert usage.finish_reason == "cancelled"
            assert letters(request.prompt).startswith(world.text[request])
        else:
            assert (world.text[request], usage.finish_reason) == (text, reason)
            assert usage.prompt_tokens == len(request.prompt) > usage.cached_tokens
        assert world.states[request] == sorted(world.states[request], key=order)
    assert not any(s.busy for s in world.scheduler._cache.sequences)


def order(state_position):
    """QUEUED with falling positions, then PREFILL, then DECODE."""
    state, position = state_position
    return [State.QUEUED, State.PREFILL, State.DECODE].index(state), -position


def test_a_token_that_is_not_known_yet_holds_up_its_own_answer_only():
    world = World(answer=lambda _: b"abcd", n_seq=2, late=(50, *[0] * 9))
    slow, quick = world.submit("slow"), world.submit("quick")
    while quick not in world.ended:
        world.step()
    assert world.text[quick] == b"abcd" and slow not in world.ended
    world.run()
    assert world.text[slow] == b"abcd"


def test_a_token_that_cannot_be_chosen_fails_its_own_request_only():
    world = World(answer=lambda _: b"abcd", n_seq=2)
    slot, other = world.submit("bad"), world.submit("good")
    plan = world.scheduler.plan(world.now)
    sampled = list(world.runner.run(plan.step))
    sampled[0] = Late(errors.InvalidArgument("too complex"), 1)
    world.scheduler.commit(plan, sampled, world.now, 1.0)
    world.run()
    assert str(world.ended[slot]) == "too complex"
    assert world.text[other] == b"abcd"


def test_when_no_token_is_known_there_is_nothing_to_decode_but_the_scheduler_is_not_idle():
    world = World(answer=lambda _: b"ab", n_seq=2, late=(2,))
    request = world.submit("x")
    assert world.step() is not None
    assert world.step() is None and not world.scheduler.idle
    # a prompt that comes is read meanwhile
    other = world.submit("y" * 20)
    plan = world.step()
    assert plan is not None and plan.prefill
    world.run()
    assert world.text[request] == world.text[other] == b"ab"


def test_a_request_that_is_cancelled_while_its_token_is_not_known_is_over():
    world = World(answer=lambda _: b"ab", n_seq=1, late=(9,))
    request = world.submit("x")
    world.step()
    world.scheduler.cancel(request, world.now)
    world.collect()
    assert world.ended[request].finish_reason == "cancelled"
    assert world.scheduler.idle and world.step() is None


def test_admission_is_first_come_first_served():
    world = World(slots=1, answer=lambda _: b"1")
    requests = [world.submit(f"prompt {i}") for i in range(4)]
    world.step()
    assert world.states[requests[3]] == [(State.QUEUED, 3)]
    world.run()
    assert list(world.ended) == requests
    assert world.states[requests[3]][:3] == [(State.QUEUED, n) for n in (3, 2, 1)]


def test_who_has_patience_lets_others_go_first_but_not_for_ever():
    world = World(slots=1, answer=lambda _: b"1")
    world.submit("running")
    world.step()
    names = {}
    for name, world.now, priority in (
        ("patient", 1, -1), ("later", 2, -1), ("soon", 5, 0), ("late", 11.5, 0)
    ):  # fmt: skip
        names[world.submit(name, priority=priority)] = name
    world.run()
    assert [names[request] for request in world.ended if request in names] == [
        "soon", "patient", "late", "later"
    ]  # fmt: skip


def test_the_queue_is_bounded():
    world = World(slots=2, max_queue=1)
    for _ in range(3):
        world.submit("x")
    with pytest.raises(errors.Busy):
        world.submit("x")


def test_equal_prompts_are_answered_in_the_order_in_which_they_came():
    world = World(n_ctx=400, chunk=20, answer=lambda _: b"1", n_seq=4)
    requests = [world.submit(letter * 50) for letter in "pqrs"]
    world.run()
    assert list(world.ended) == requests


@pytest.mark.parametrize(
    ("seconds", "rows"), [(0.001, 256), (0.1, 64), (1.0, CHUNK_MIN), (math.inf, CHUNK_MIN)]
)
def test_a_chunk_is_what_takes_as_long_as_others_may_be_held_up(seconds, rows):
    world = World(n_ctx=4000, chunk=256, stall=0.1)
    world.submit("p" * 3900)
    for _ in range(12):
        # a step of 64 rows takes `seconds`, others in proportion
        share = world.scheduler._prefill.budget(1) / 64
        world.seconds = seconds * share
        plan = world.step()
    assert abs(plan.prefill - rows) <= 1


def test_equal_prompts_are_prefilled_once():
    world = World(n_ctx=400, n_seq=4, chunk=16)
    prompt = "p" * 200
    for i in range(4):
        world.submit(prompt + str(i))
    world.run()
    rows = sum(len(step.token) - len(step.outputs) for step in world.runner.steps)
    assert rows <= 200 + 8
    assert sorted(u.cached_tokens for u in world.ended.values()) == [0, 200, 200, 200]


def test_a_second_turn_finds_the_first_in_the_cache():
    world = World(n_ctx=400)
    first = (Message("user", "hello, who are you?"),)
    world.submit(first, conversation="c")
    world.run()
    (request,) = world.text
    answer = Message("assistant", world.text[request].decode())
    second = world.submit((*first, answer, Message("user", "and now?")), conversation="c")
    world.run()
    usage = world.ended[second]
    # Everything but the end of the last turn, which was sampled and never decoded.
    assert usage.cached_tokens == len(world.runner.tokenize((*first, answer))) - 2


def test_conversations_beyond_the_sequences_find_what_they_had():
    world = World(n_ctx=400, n_seq=2, cache_ram=10_000)
    turns = {}
    for number in (1, 2):
        for name in "abcdef":
            before = turns.get(name, ())
            asked = (*before, Message("user", f"{name} asks for the time of day, {number}"))
            request = world.submit(asked, conversation=name)
            world.run()
            answer = Message("assistant", world.text[request].decode())
            turns[name] = (*asked, answer)
            if number == 2:
                held = len(world.runner.tokenize(before)) - 2
                assert world.ended[request].cached_tokens == held
    saved = world.scheduler._cache.saved_bytes
    assert 0 < saved <= 10_000
    for name in "abcdef":
        world.scheduler.forget(name)
    assert world.scheduler._cache.saved_bytes == 0


@given(
    st.text("xyz", min_size=1, max_size=90),
    st.integers(1, 40),
    st.sampled_from([(), ("klm",), ("q",)]),
    st.data(),
)
def test_an_answer_continues_from_its_tokens_as_if_it_had_never_stopped(
    prompt, max_tokens, stop, data
):
    def ask(answer):
        world = World(n_ctx=96)
        options = {"max_tokens": max_tokens, "stop": stop, "answer": answer}
        request = world.submit(prompt, **options)
        world.run()
        usage = world.ended[request]
        assert usage.completion_tokens == len(world.ids[request])
        said = (world.text[request], world.ids[request])
        return *said, usage.finish_reason, usage.prompt_tokens

    whole = ask(())
    given = data.draw(st.integers(0, len(whole[1])))
    assert ask(tuple(token.id for token in whole[1][:given])) == whole
    assert [token.end for token in whole[1]] == sorted(token.end for token in whole[1])


@pytest.mark.parametrize("answer", [(N_VOCAB,), (-1,), (97, EOG), (98,)])
def test_tokens_that_no_answer_begins_with_are_refused(answer):
    world = World(answer=lambda _: b"a")
    request = world.submit("x", answer=answer)
    world.run()
    assert isinstance(world.ended[request], errors.InvalidArgument)
    assert not world.runner.steps


@pytest.mark.parametrize("again", ["a", "b"])
def test_cells_of_a_step_that_failed_are_used_by_nobody(again):
    world = World(n_seq=2)
    failed = world.submit("p" * 60, conversation="a")
    world.step()
    world.step()
    world.fail()
    assert isinstance(world.ended[failed], DecodeError)
    request = world.submit("p" * 60, conversation=again)
    world.run()
    assert world.ended[request].cached_tokens == 0
    assert world.text[request] == letters("p" * 60)


def test_a_conversation_whose_step_failed_loses_its_sequence_before_another_does():
    world = World(n_seq=2, answer=lambda _: b"1")
    failed = world.submit("p" * 90, conversation="failed")
    kept = world.submit("kept", conversation="kept")
    while kept not in world.ended:
        world.step()
    assert failed not in world.ended
    world.fail()
    world.submit("new", conversation="new")
    again = world.submit("kept", conversation="kept")
    world.run()
    assert world.ended[again].cached_tokens == len("kept") - 1


def test_operations_of_a_request_that_needed_no_step_are_not_lost():
    world = World(n_seq=1, answer=lambda _: b"12", cache_ram=1000)
    world.submit("what the first one asks", conversation="a")
    world.run()
    given = world.submit("x" * 30, max_tokens=1, answer=(ord("1"),))
    world.run()
    assert world.ended[given].finish_reason == "length"
    assert world.text[given] == b"1"
    again = world.submit("what the first one asks for", conversation="a")
    world.run()
    assert world.ended[again].cached_tokens == len("what the first one asks")


def test_given_tokens_that_are_cached_are_not_counted_as_the_prompts():
    world = World(answer=lambda _: b"123456")
    world.submit("x" * 50, conversation="c")
    world.run()
    again = world.submit("x" * 50, conversation="c", answer=tuple(b"1234"))
    world.run()
    usage = world.ended[again]
    assert usage.prompt_tokens == usage.cached_tokens == 50
    assert world.runner.steps[-3].pos == [53], "though those before the last one are, too"


def test_a_cancelled_answer_keeps_the_tokens_that_it_was_given():
    world = World(answer=lambda _: b"123")
    request = world.submit("x" * 50, answer=(ord("1"), ord("2")))
    world.step()
    assert world.text[request] == b""
    world.scheduler.cancel(request, world.now)
    world.collect()
    assert world.text[request] == b"12"


def test_logprobs_come_with_their_tokens():
    world = World(answer=lambda _: b"12")
    plain = world.submit("plain")
    asked = world.submit("asked", logprobs=3)
    world.run()
    assert [token.logprobs for token in world.ids[plain]] == [None, None]
    assert [token.logprobs.chosen.text for token in world.ids[asked]] == [b"1", b"2"]


def test_a_trimmed_prompt_uses_what_the_cache_has_of_it():
    """The system prompt in any case, and between two trims all that was there before."""
    world = World(n_ctx=600, answer=lambda _: b"yes, and that is all that there is")
    turns = [Message("system", "You are a machine that answers in one line.")]
    head = len(world.runner.tokenize(tuple(turns))) - 1
    before, trims, cached, asked = 0, 0, 0, 0
    for number in range(40):
        turns.append(Message("user", f"question {number} of many"))
        request = world.submit(tuple(turns), conversation="c", max_tokens=100)
        world.run()
        usage = world.ended[request]
        if usage.prompt_tokens < before:
            trims += 1
            assert usage.cached_tokens >= head
        elif number:
            assert usage.cached_tokens >= before
        cached += usage.cached_tokens
        asked += usage.prompt_tokens
        before = usage.prompt_tokens
        turns.append(Message("assistant", world.text[request].decode()))
    assert 3 < trims < 20
    assert cached > asked / 2


def seconds_of(base, row, stall):
    """That a prompt of 2000 tokens takes, with nobody beside it."""
    world = World(n_ctx=4000, n_seq=1, chunk=512, stall=stall, decode_seconds=base + row)
    world.submit("A" * 2000, max_tokens=1)
    total = 0.0
    while not world.scheduler.idle:
        plan = world.scheduler.plan(total)
        took = base + row * len(plan.step.token)
        total += took
        world.scheduler.commit(plan, world.runner.run(plan.step), total, took)
    return total


@pytest.mark.parametrize("base", [0.0, 0.005, 0.09, 0.12, 0.5, 2.0])
@pytest.mark.parametrize("row", [0.0001, 0.001, 0.002, 0.05])
def test_a_prompt_alone_takes_no_more_than_twice_what_it_must(base, row):
    assert seconds_of(base, row, STALL) <= 2 * seconds_of(base, row, None)


def first_token(prefix):
    """In which step a short prompt has its first token, beside two long ones and a stream of
    others that are a little longer than it."""
    world = World(n_seq=16, n_ctx=4000, chunk=32)
    for prompt in ("A" * 3000, "B" * 40 + "C" * 2000):
        world.submit(prompt, max_tokens=1)
    for step in range(1000):
        if step == 1:
            short = world.submit(prefix * 40 + "x", max_tokens=1)
        if step % 3 == 0:
            world.submit(f"{step:048d}"[::-1], max_tokens=1)
        world.step()
        if step and world.text[short]:
            return step
    raise AssertionError("starved")


def test_who_waits_for_a_shared_prefix_waits_no_longer_than_for_its_own():
    assert first_token("B") <= 2 * first_token("D")


def test_given_tokens_beyond_what_an_answer_can_have_cost_nothing():
    world = World(n_ctx=96, answer=lambda _: b"1" * 1000)
    asked = []
    sampler = world.runner.sampler
    world.runner.sampler = lambda ready: asked.append(len(ready.given)) or sampler(ready)
    request = world.submit("x" * 50, answer=(ord("1"),) * 100_000)
    world.run()
    assert asked == [96 - 50 + 1]
    assert world.text[request] == b"1" * 47
    assert world.ended[request].finish_reason == "length"


def test_times_are_measured_from_submit():
    world = World(slots=1, answer=lambda _: b"12345")
    world.submit("x")
    late = world.submit("y")
    world.run()
    usage = world.ended[late]
    assert (usage.queue_ms, usage.ttft_ms, usage.total_ms) == (6000, 7000, 12000)
    assert usage.tokens_per_second == pytest.approx(4 / 5)


def test_a_prompt_that_fails_to_render_fails_alone():
    world = World()
    bad = world.submit("")
    good = world.submit("good")
    world.run()
    assert isinstance(world.ended[bad], errors.InvalidArgument)
    assert isinstance(world.ended[good], Usage)


def test_a_request_whose_admission_breaks_fails_alone():
    world = World()
    sampler = world.runner.sampler
    world.runner.sampler = lambda ready: 1 / 0 if len(ready.prompt) == 3 else sampler(ready)
    bad, good = world.submit("bad"), world.submit("good")
    world.run()
    assert isinstance(world.ended[bad], ZeroDivisionError)
    assert isinstance(world.ended[good], Usage)


@pytest.mark.parametrize("steps", range(12))
def test_who_waits_for_one_that_waits_goes_on_with_what_that_one_has(steps):
    """E is read first, of which C has some, of which B has more; the last one, that has the
    place that E had, has a part of it."""
    world = World(n_ctx=300)
    shared, more = "abcdefghijklmnopqrst", "0123456789" * 4
    world.submit(shared + "E" * 40, max_tokens=1)
    for end in ("C", "B"):
        world.submit(shared + more + end * 5)
    for _ in range(steps):
        world.step()
    last = world.submit(shared + more[:30] + "A" * 5)
    world.run()
    assert all(isinstance(end, Usage) for end in world.ended.values())
    assert world.ended[last].cached_tokens >= len(shared)
