"""`infer`: answers, what is told of them, and what is refused."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from pathlib import Path

import pytest

from llambo9p import Context, InferenceRequest, Message, Model, errors, infer
from llambo9p.engine.base import Request, SamplingParams
from llambo9p.engine.gguf import default_model
from llambo9p.engine.llama import LlamaRunner
from tests.engine.harness import ask, running, user

QUESTIONS = ["What is a file?", "Name three rivers.", "Why is the sky blue?"]


def greedy(prompt: str, max_tokens: int = 16, **settings) -> InferenceRequest:
    return InferenceRequest(prompt, max_tokens=max_tokens, temperature=0, **settings)


def test_an_answer_is_that_of_a_host(ctx):
    async def host() -> tuple[str, int]:
        async with running(LlamaRunner(default_model(), n_ctx=512, n_threads=1)) as engine:
            params = SamplingParams(temperature=0, max_tokens=16)
            recorder = ask(engine, Request(user(QUESTIONS[0]), params))
            await recorder.usage()
            return recorder.text, recorder.count

    response = ctx.infer(greedy(QUESTIONS[0]))
    assert (response.text, response.token_count) == asyncio.run(host())


def test_a_response_tells_tokens_and_time(ctx):
    response = ctx.infer(greedy(QUESTIONS[0]))
    assert len(response.tokens) == response.token_count == 16
    assert ctx.model.detokenize(response.tokens) == response.text
    assert response.finish_reason == "length"
    assert 0 < response.usage.ttft_ms < response.completion_time
    short = ctx.infer(greedy("What is 1+1? Answer briefly.", 100))
    assert short.finish_reason == "stop"
    assert len(short.tokens) == short.token_count < 100


def test_the_second_prompt_finds_the_first_ones_beginning(ctx):
    first = ctx.infer(greedy(QUESTIONS[0]))
    again = ctx.infer(greedy(QUESTIONS[0]))
    assert again.text == first.text
    assert first.usage.cached_tokens == 0
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1


def test_many_at_once_answer_as_each_alone(model, ctx):
    requests = [greedy(question, 8 + i) for i, question in enumerate(QUESTIONS)]
    with Context(model, 512, 16, 1, n_seq=2) as two:
        together = two.infer_all(requests)
        assert two.infer_all([]) == []
    assert [response.token_count for response in together] == [8, 9, 10]
    alone = [ctx.infer(request) for request in requests]
    assert [(r.text, r.tokens) for r in together] == [(r.text, r.tokens) for r in alone]


def test_a_chat_is_messages_and_a_completion_a_text(ctx):
    turns = [
        Message("system", "You are a parrot."),
        Message("user", "Say: seven."),
        Message("assistant", "Seven."),
        Message("user", "Say: eight."),
    ]
    chat = ctx.infer(InferenceRequest(turns, max_tokens=8, temperature=0))
    assert "eight" in chat.text.lower()
    counted = ctx.infer(greedy("1, 2, 3, 4, 5,", 6, mode="complete"))
    assert counted.text == " 6, 7,"


def test_the_settings_are_those_of_a_conversation(ctx):
    def sampled(**settings) -> str:
        return ctx.infer(InferenceRequest("Invent a name.", max_tokens=12, **settings)).text

    assert sampled(seed=7, temperature=1.5) == sampled(seed=7, temperature=1.5)
    assert sampled(seed=7, temperature=1.5) != sampled(seed=8, temperature=1.5)
    assert sampled(grammar='root ::= "Ada" | "Bob"') in ("Ada", "Bob")
    counted = greedy("1, 2, 3, 4, 5,", 16, mode="complete", stop=["8, 9", "x"])
    response = ctx.infer(counted)
    assert response.text == " 6, 7, "
    assert ctx.model.detokenize(response.tokens) == " 6, 7, 8, 9"
    schema = {"properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "type": "object"}
    closed = json.dumps(schema | {"additionalProperties": False})
    assert json.loads(sampled(schema=closed, temperature=0))["n"] in (1, 2)
    assert re.fullmatch("[A-D][a-z]{1,5}", sampled(regex="[A-D][a-z]{1,5}"))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_tokens": 0}, r"max_tokens is out of range 1\.\.1048576: 0"),
        ({"temperature": -0.1}, r"temperature is out of range 0\.\.5: -0.1"),
        ({"temperature": float("nan")}, r"temperature is out of range 0\.\.5: nan"),
        ({"top_p": 1.5}, r"top_p is out of range 0\.\.1: 1.5"),
        ({"top_k": -1}, "top_k is out of range"),
        ({"min_p": 2}, "min_p is out of range"),
        ({"repeat_penalty": 0}, r"repeat_penalty is out of range 0\.1\.\.10: 0"),
        ({"seed": -1}, "seed is out of range"),
        ({"seed": 2**32 - 1}, "seed is out of range"),
        ({"stop": "end"}, "stop must be strings, as a list or a tuple"),
        ({"grammar": "root ::= name"}, "grammar line 1: .*name"),
        ({"schema": "{"}, "schema line 1: "),
        ({"grammar": 'root ::= "x"', "schema": "{}"}, "grammar, a schema or a regex, not several"),
        ({"mode": "talk"}, "mode must be chat or complete, not talk"),
        ({"prompt": [Message("user", "x")], "mode": "complete"}, "a text, not messages"),
        ({"prompt": [Message("boss", "x")]}, "role must be one of system, user, assistant"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_makes_no_sense_is_refused_and_the_next_is_answered(ctx, settings, error):
    with pytest.raises(errors.InvalidArgument, match=error):
        ctx.infer(InferenceRequest(**{"prompt": "x", **settings}))
    assert ctx.infer(greedy("1, 2, 3, 4, 5,", 3, mode="complete")).text == " 6,"


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(ctx):
    with pytest.raises(errors.ContextOverflow, match="has 600 tokens, the context holds 512"):
        ctx.infer(greedy("word" + " word" * 599, mode="complete"))
    with pytest.raises(errors.ContextOverflow, match="1000000 bytes, too many for a context of"):
        ctx.infer(greedy("x" * 1_000_000, mode="complete"))
    with pytest.raises(errors.ContextOverflow):
        ctx.infer(greedy("word " * 600))


def test_one_that_fails_ends_those_beside_it(model):
    with Context(model, 512, 64, 1, n_seq=2) as ctx:
        with pytest.raises(errors.ContextOverflow):
            ctx.infer_all([greedy(QUESTIONS[0]), greedy("word " * 600)])
        assert ctx.infer(greedy("1, 2, 3, 4, 5,", 3, mode="complete")).text == " 6,"
        nothing = greedy("x", grammar="root ::= [^\\x00-\\U0010FFFF]")
        with pytest.raises(errors.InvalidArgument, match="no finite text matches `root`"):
            ctx.infer_all([greedy(QUESTIONS[0]), nothing])
        assert ctx.infer(greedy("1, 2, 3, 4, 5,", 3, mode="complete")).text == " 6,"


def test_a_chat_with_a_model_that_has_no_template_is_refused(tmp_path: Path):
    path = tmp_path / "bare.gguf"
    # the same length, so that all else stays where it is
    path.write_bytes(default_model().read_bytes().replace(b".chat_template", b".chat_tempLATE", 1))
    with Model.load(path) as model, Context(model, 512, 64, 1) as ctx:
        assert not model.info.has_chat_template
        with pytest.raises(errors.ModelError, match=f"{path}: the model has no chat template"):
            ctx.infer(greedy("hello"))
        assert ctx.infer(greedy("1, 2, 3, 4, 5,", 3, mode="complete")).text == " 6,"


def test_the_mean_logprob_is_told_when_it_is_asked_for(ctx):
    assert ctx.infer(greedy("1, 2, 3, 4, 5,", 3, mode="complete")).mean_logprob is None
    sure = ctx.infer(greedy("1, 2, 3, 4, 5,", 3, mode="complete", logprobs=True))
    assert sure.text == " 6," and -0.5 < sure.mean_logprob < 0
    wild = InferenceRequest("1, 2, 3,", max_tokens=9, temperature=5, seed=1, logprobs=True)
    assert ctx.infer(wild).mean_logprob < sure.mean_logprob
    nothing = greedy("1, 2, 3, 4, 5,", 3, mode="complete", logprobs=True, stop=[" 6"])
    assert ctx.infer(nothing).text == ""


def test_infer_needs_a_context(ctx):
    with pytest.raises(errors.InvalidArgument, match="the request has no ctx"):
        infer(InferenceRequest("hello"))
    assert infer(greedy("1, 2, 3, 4, 5,", 3, mode="complete", ctx=ctx)).text == " 6,"


def test_an_interrupt_in_a_step_leaves_a_context_that_answers_right(ctx, monkeypatch):
    expected = ctx.infer(greedy(QUESTIONS[1])).text
    run = LlamaRunner.run
    steps = 0

    def interrupted(self, step):
        nonlocal steps
        steps += 1
        sampled = run(self, step)
        if steps == 3:
            raise KeyboardInterrupt
        return sampled

    monkeypatch.setattr(LlamaRunner, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ctx.infer(greedy(QUESTIONS[1]))
    assert steps == 3
    assert ctx.infer(greedy(QUESTIONS[1])).text == expected


def test_threads_take_turns_in_a_context(ctx):
    expected = [ctx.infer(greedy(question, 8)).text for question in QUESTIONS]
    texts: dict[str, str] = {}

    def work(question: str) -> None:
        texts[question] = ctx.infer(greedy(question, 8)).text

    threads = [threading.Thread(target=work, args=(question,)) for question in QUESTIONS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [texts[question] for question in QUESTIONS] == expected
