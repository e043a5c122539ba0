"""What others ask, and what becomes of it, is in no answer: with the real model, step by step."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from llambo9p.engine import llama
from llambo9p.engine.base import Request, SamplingParams
from llambo9p.engine.gguf import default_model
from llambo9p.engine.llama import LlamaRunner
from llambo9p.engine.llama_matcher import Matcher
from llambo9p.engine.runner import (
    Copy,
    Output,
    Remove,
    Restore,
    Save,
    SavedCells,
    Step,
)
from llambo9p.engine.scheduler import Scheduler, Tokens
from tests.engine.harness import prepared

ALICE = "My secret password is swordfish and my bank account number is 12345 12345 12345 so"
BOB = "The capital of France is the beautiful city of Paris, and its river is the Seine. The museum"


def loaded(n_seq):
    runner = LlamaRunner(default_model(), n_ctx=256, n_seq=n_seq, n_threads=1)
    runner.load(lambda _: True)
    return runner


def answers(runner, *rounds):
    """What is answered in the last round, at temperature 0."""
    scheduler = Scheduler(
        runner, n_seq=runner.n_seq, n_ctx=256, prefill_chunk=512, stall=None, cache_ram=1 << 28,
        sizes=runner.sizes, retention=runner.retention,
    )  # fmt: skip
    for asked in rounds:
        text = {}
        for prompt, conversation, user in asked:
            request = Request(
                prompt, SamplingParams(16, temperature=0), conversation=conversation, user=user
            )
            text[request] = b""
            scheduler.submit(prepared(request, runner), 0.0)
        while not scheduler.idle:
            plan = scheduler.plan(0.0)
            scheduler.commit(plan, runner.run(plan.step), 0.0, 0.0)
            for event in scheduler.events():
                if isinstance(event, Tokens):
                    text[event.request] += event.text
    return list(text.values())


def test_no_answer_is_made_of_another_users_cells():
    asked = (BOB + " called", "b2", "bob")
    runner = loaded(2)
    (alone,) = answers(runner, [asked])
    runner.close()
    runner = loaded(2)
    got = answers(
        runner, [(ALICE, "a1", "alice")], [(BOB, "b1", "bob")],
        [asked, (ALICE + " I", "a2", "alice")],
    )  # fmt: skip
    runner.close()
    assert got[0] == alone


@pytest.mark.parametrize("what", ["restored into the source", "saved"])
def test_a_copy_is_of_what_there_was_when_it_was_asked_for(what):
    runner = loaded(4)
    tokens, others = runner.tokenize(BOB)[:16], runner.tokenize(ALICE)[:16]

    def logits(seq_id, ops=(), token=17):
        runner.run(Step(list(ops), [token], [16], [seq_id], [Output(0, None)]))
        return runner.logits(1).copy()

    for seq_id, row in enumerate((tokens, others, tokens)):
        runner.run(Step([], list(row), list(range(16)), [seq_id] * 16, [Output(15, None)]))
    exact = logits(2)
    saved, other = SavedCells(), SavedCells()
    if what == "saved":
        logits(2, [Remove(2, 16), Copy(0, 1), Save(1, saved)])
        got = logits(3, [Restore(saved, 3)])
    else:
        logits(2, [Remove(2, 16), Save(1, other)])
        got = logits(3, [Copy(0, 3), Restore(other, 0)])
    runner.close()
    assert np.array_equal(got, exact)


def test_a_seeded_answer_is_the_same_whether_its_masks_come_at_once_or_late(monkeypatch):
    runner = LlamaRunner(default_model(), n_ctx=256, n_seq=2, n_threads=1)
    known, in_vain = threading.Event(), threading.Event()
    runner.wake = known.set
    runner.load(lambda _: True)
    late = 0

    def answer(seed):
        nonlocal late
        scheduler = Scheduler(runner, n_seq=2, n_ctx=256, prefill_chunk=512, stall=None)
        params = SamplingParams(6, temperature=2.5, seed=seed, logprobs=2, regex="[a-z ]*")
        scheduler.submit(prepared(Request("Once upon a time", params), runner), 0.0)
        tokens = []
        while not scheduler.idle:
            known.clear()
            plan = scheduler.plan(0.0)
            if plan is None:
                late += not scheduler.idle
                in_vain.set()
                assert scheduler.idle or known.wait(60)
            else:
                scheduler.commit(plan, runner.run(plan.step), 0.0, 0.0)
            for event in scheduler.events():
                if isinstance(event, Tokens):
                    tokens += [(event.text, *token) for token in event.tokens]
        in_vain.set()  # a mask that nobody asks for
        return tokens

    try:
        monkeypatch.setattr(llama, "MASK_WAIT", 1e6)
        at_once = [answer(seed) for seed in range(5)]
        assert not late
        monkeypatch.setattr(llama, "MASK_WAIT", 0.0)
        after = Matcher._after

        def slow(self, tokens):
            assert in_vain.wait(60)
            in_vain.clear()
            return after(self, tokens)

        monkeypatch.setattr(Matcher, "_after", slow)
        assert [answer(seed) for seed in range(5)] == at_once
        assert late
    finally:
        runner.close()
