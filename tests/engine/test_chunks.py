"""Llama 4's chunks of 8192 tokens: prompts that end, part and are gone on around such an end."""

from __future__ import annotations

import pytest

from tests.engine.battery import Battery, words
from tests.zoo.species import write

pytestmark = [pytest.mark.slow, pytest.mark.second_tier]

CHUNK = 8192


@pytest.fixture(scope="module")
def battery(tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo") / "llama4.gguf"
    write("llama4", path)
    battery = Battery(path, CHUNK + 512)
    yield battery
    battery.close()


def of_length(battery, tokens):
    """A text of about so many tokens."""
    text = words(3000, 1) + " " + words(3000, 2)
    ids = battery.runner.tokenize(text)
    assert len(ids) > tokens
    return battery.runner.model.text_of(ids[:tokens])


@pytest.mark.parametrize("before", [60, 5, -5])
def test_prompts_part_near_the_end_of_a_chunk(battery, before):
    head = of_length(battery, CHUNK - before)
    host = battery.host()
    for seed in range(4):
        prompt = head + " " + words(8, seed)
        answer = host.ask(prompt, conversation=f"number {seed}")
        assert answer == battery.alone(prompt)
        # the first to part from another makes the checkpoint
        assert seed < 2 or answer.usage.cached_tokens > CHUNK - before - 20
    # what another took the place of, and goes on into the next chunk
    longer = head + " " + words(60, 9)
    assert host.ask(longer, conversation="number 0") == battery.alone(longer)
    shorter = head[: len(head) // 2]
    assert host.ask(shorter, conversation="number 0") == battery.alone(shorter)
