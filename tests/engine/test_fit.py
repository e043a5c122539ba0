"""Which turns of a chat are dropped when it does not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p import errors
from llambo9p.engine.base import Message, Request, SamplingParams
from llambo9p.engine.cache import common_prefix
from llambo9p.engine.fit import Fitted, fit, split_turns
from llambo9p.engine.simulated import SimulatedRunner
from tests.engine.harness import user

tokenize = SimulatedRunner().tokenize
ONE = SamplingParams(max_tokens=1)


def chat(n: int, size: int = 8, system: str = "sys") -> tuple[Message, ...]:
    messages = [Message("system", system)]
    for i in range(n):
        messages += [Message("user", f"{i:0{size}}"), Message("assistant", f"{i:0{size}}")]
    return (*messages, Message("user", "last"))


def kept_of(tokens: list[int]) -> str:
    return bytes(t for t in tokens if t < 256).decode()


def test_a_chat_that_fits_is_whole():
    prompt = chat(3)
    assert fit(Request(prompt, ONE), 500, tokenize) == Fitted(prompt, tokenize(prompt), 0)


def test_the_oldest_turns_go_first_and_the_system_prompt_stays():
    _, tokens, trimmed = fit(Request(chat(10), ONE), 100, tokenize)
    assert len(tokens) <= 100 and trimmed == 6
    assert kept_of(tokens) == "sys" + "".join(f"{i:08}" * 2 for i in range(6, 10)) + "last"


def test_room_is_left_for_an_answer_while_there_are_turns_to_drop():
    asked = SamplingParams(max_tokens=1000)
    assert len(fit(Request(chat(10), asked), 100, tokenize).tokens) <= 75
    assert len(fit(Request(user("x" * 90), asked), 100, tokenize).tokens) == 93


def test_a_prompt_that_cannot_fit_says_both_numbers():
    with pytest.raises(errors.ContextOverflow, match="103 tokens.* 100"):
        fit(Request(user("x" * 100), ONE), 100, tokenize)
    with pytest.raises(errors.ContextOverflow, match="101 tokens.* 100"):
        fit(Request("x" * 101), 100, tokenize)
    assert len(fit(Request("x" * 100), 100, tokenize).tokens) == 100


def test_overflow_error_drops_nothing():
    with pytest.raises(errors.ContextOverflow):
        fit(Request(chat(10), ONE, overflow="error"), 100, tokenize)


def test_a_growing_chat_keeps_its_prefix_for_several_turns():
    previous: list[int] = []
    kept = 0
    for n in range(40, 60):
        tokens = fit(Request(chat(n), ONE), 400, tokenize).tokens
        kept += common_prefix(previous, tokens) > 200
        previous = tokens
    assert kept >= 14


def test_the_work_is_bounded_by_the_context_not_by_the_history():
    longest = 0

    def counted(prompt):
        nonlocal longest
        longest = max(longest, len(prompt))
        return tokenize(prompt)

    fit(Request(chat(10_000), ONE), 400, counted)
    assert longest < 100


@given(st.lists(st.integers(0, 60), max_size=30), st.integers(10, 300), st.integers(1, 99))
def test_every_trim_keeps_whole_newest_turns(sizes, n_ctx, max_tokens):
    messages = [Message("system", "s")]
    for i, size in enumerate(sizes):
        messages.append(Message("user" if i % 2 == 0 else "assistant", chr(97 + i % 26) * size))
    messages.append(Message("user", "end"))
    prompt = tuple(messages)
    asked = Request(prompt, SamplingParams(max_tokens=max_tokens))
    _, tokens, trimmed = fit(asked, max(n_ctx, 70), tokenize)
    head, turns = split_turns(prompt)
    suffixes = [
        tokenize((*head, *(m for turn in turns[i:] for m in turn))) for i in range(len(turns))
    ]
    assert suffixes[trimmed] == tokens
