"""Every kind of memory, in every way that its cache can be used: answers as without any re-use.

The logits are compared bit by bit with a host that never re-uses anything.  CI has one model of
each kind of memory; the second tier has the whole zoo.
"""

from __future__ import annotations

import numpy as np
import pytest

from llambo9p.engine.base import Message
from tests.engine.battery import Battery, words
from tests.tiers import ALL
from tests.zoo.species import ZOO, write

N_CTX = 512
EXACT = [name for name, each in ZOO.items() if each.memory and name not in ("llama-80",)]
"""a head of 80 has no Q8_0 cells, and so bits that depend on the neighbours"""
IN_CI = ("llama", "gemma3", "llama4", "mamba2", "granitehybrid")
HEAD = words(30, 0)
TAILS = [" " + words(6, seed) for seed in range(1, 9)]


@pytest.fixture(scope="module", params=EXACT if ALL else IN_CI)
def battery(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo") / f"{request.param}.gguf"
    write(request.param, path)
    battery = Battery(path, N_CTX)
    yield battery
    battery.close()


def test_prompts_that_begin_alike_one_after_the_other(battery):
    host = battery.host()
    cached = []
    for tail in TAILS:
        answer = host.ask(HEAD + tail)
        assert answer == battery.alone(HEAD + tail)
        cached.append(answer.usage.cached_tokens)
    # whatever forgets has a checkpoint from the second time on
    assert min(cached[2:]) > 40


def test_eight_at_once_of_which_four_wait(battery):
    host = battery.host()
    asked = [host.submit(HEAD + tail) for tail in TAILS]
    host.run()
    for request, tail in zip(asked, TAILS, strict=True):
        assert host.answer(request) == battery.alone(HEAD + tail)
    assert sum(host.answer(request).usage.cached_tokens > 40 for request in asked) == 7


def test_different_ones_at_once(battery):
    prompts = [words(9 * seed, seed) for seed in range(1, 7)]
    host = battery.host()
    asked = [host.submit(prompt) for prompt in prompts]
    host.run()
    for request, prompt in zip(asked, prompts, strict=True):
        assert host.answer(request) == battery.alone(prompt)


@pytest.mark.parametrize("evicted", [False, True])
def test_a_text_that_grows_by_its_answers(battery, evicted):
    host = battery.host()
    text = HEAD
    for turn, tail in enumerate(TAILS[:5]):
        for other in range(5 if evicted else 0):
            host.ask(words(20, 10 * turn + other), conversation=f"other {other}")
        answer = host.ask(text, conversation="mine")
        assert answer == battery.alone(text)
        if turn:  # all but the newest words, and how an answer's end and they are cut into tokens
            assert answer.usage.cached_tokens > answer.usage.prompt_tokens - 80
        text += answer.text(battery.runner) + tail


def test_the_same_again_and_a_beginning_of_it(battery):
    text = HEAD + TAILS[0] + TAILS[1]
    for conversation in (None, "mine"):
        host = battery.host()
        for prompt in (text, text, HEAD, text, HEAD + TAILS[0], text):
            assert host.ask(prompt, conversation=conversation) == battery.alone(prompt)


def test_what_was_kept_of_another_conversation(battery):
    host = battery.host()
    for number in range(12):
        prompt = HEAD + TAILS[number % 3] + TAILS[number % 5]
        answer = host.ask(prompt, conversation=f"number {number}")
        assert answer == battery.alone(prompt)


def test_without_memory_for_checkpoints(battery):
    host = battery.host(ram=0)
    for prompt in (HEAD + TAILS[0], HEAD + TAILS[1], HEAD):
        assert host.ask(prompt) == battery.alone(prompt)


def test_an_answer_that_another_host_began(battery):
    whole = battery.alone(HEAD, max_tokens=16)
    for given in (1, 7):
        host = battery.host()
        asked = [
            host.submit(HEAD, answer=whole.tokens[:given], max_tokens=16),
            host.submit(words(12, 5)),
        ]
        host.run()
        answer = host.answer(asked[0])
        assert answer.tokens == whole.tokens
        assert answer.likeliest == whole.likeliest[given:]


def test_an_answer_that_gives_way_to_another_user(battery):
    host = battery.host()
    hers = [host.submit(HEAD + tail, user="alice", max_tokens=40) for tail in TAILS[:4]]
    for _ in range(8):
        host.step()
    his = host.submit(words(12, 5), user="bob")
    host.run()
    assert host.answer(his) == battery.alone(words(12, 5))
    for request, tail in zip(hers, TAILS, strict=False):
        assert host.answer(request) == battery.alone(HEAD + tail, max_tokens=40)


def test_the_turns_of_two_chats_with_one_system_prompt(battery):
    host = battery.host()
    system = Message("system", words(20, 3))
    cached = []
    chats = {name: [system] for name in ("one", "two")}
    for turn in range(3):
        for seed, (name, messages) in enumerate(chats.items()):
            messages.append(Message("user", words(5, 10 * seed + turn)))
            answer = host.ask(tuple(messages), conversation=name)
            assert answer == battery.alone(tuple(messages))
            cached.append(answer.usage.cached_tokens)
            messages.append(Message("assistant", answer.text(battery.runner)))
    assert cached[0] == 0 and min(cached[1:]) > 20, "the system prompt was found the first time"
    assert cached[2] > 30 and cached[4] > cached[2]


def test_a_constrained_answer_beside_another(battery):
    regex = "(red|green|blue)( [a-z]+){2}"
    host = battery.host()
    asked = [host.submit(HEAD, regex=regex), host.submit(HEAD + TAILS[0])]
    host.run()
    assert host.answer(asked[0]) == battery.alone(HEAD, regex=regex)
    assert host.answer(asked[1]) == battery.alone(HEAD + TAILS[0])


def test_an_embedding_beside_an_answer(battery):
    """In a context of its own, which an answer that goes on meanwhile does not change."""
    text = HEAD + TAILS[0]
    alone = embedding(battery.runner, text)
    assert abs(np.linalg.norm(alone) - 1) < 1e-5
    host = battery.host()
    asked = host.submit(HEAD, max_tokens=30)
    parts = battery.runner.embed(text)
    while True:
        host.step()
        try:
            next(parts)
        except StopIteration as end:
            beside = end.value
            break
    host.run()
    assert beside.tobytes() == alone.tobytes()
    assert host.answer(asked) == battery.alone(HEAD, max_tokens=30)
    assert embedding(battery.runner, HEAD).tobytes() != alone.tobytes()


def embedding(runner, text):
    parts = runner.embed(text)
    while True:
        try:
            next(parts)
        except StopIteration as end:
            return end.value
