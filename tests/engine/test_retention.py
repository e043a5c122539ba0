"""What a memory that forgets still finds: how much of a prompt need not be read again.

Whether the answers are right then is asked in `test_interrupted` and, with real models, in
`test_battery`.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.engine.base import Message
from llambo9p.engine.marks import marks
from llambo9p.engine.retention import Attention, Chunks, Sizes, State, Window
from llambo9p.engine.runner import Keep
from llambo9p.engine.simulated import SimulatedRunner
from tests.engine.forgetful import KINDS
from tests.engine.test_scheduler import World

ALL = [Attention(), Window(6), Chunks(6), State()]
LONG = "a text that is long enough to be worth a checkpoint, " * 3


def cached(world, prompt, **options):
    request = world.submit(prompt, max_tokens=3, **options)
    world.run()
    return world.ended[request].cached_tokens


def world_of(kind, ram=100_000, **options):
    return World(kind=kind, n_seq=2, n_ctx=800, chunk=64, cache_ram=ram, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_prompt_again_is_read_but_for_its_last_token(kind):
    world = world_of(kind)
    assert cached(world, LONG, conversation="a") == 0
    assert cached(world, LONG, conversation="a") == len(LONG) - 1
    assert cached(world, LONG, conversation="b") == len(LONG) - 1, "nor by another"


@pytest.mark.parametrize("kind", KINDS)
def test_the_third_that_begins_alike_finds_it(kind):
    world = world_of(kind)
    asked = [cached(world, LONG + str(n), conversation=str(n)) for n in range(4)]
    assert asked[0] == 0 and asked[2:] == [len(LONG)] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_mark_makes_the_second_find_it(kind):
    world = world_of(kind)
    for n in range(2):
        found = cached(world, LONG + str(n) * 80, conversation=str(n), marks=[len(LONG)])
    assert found == len(LONG)


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_that_lost_its_sequence_goes_back_to_where_an_answer_ended(kind):
    world = world_of(kind, answer=lambda _: b"it goes on until it comes to its end")
    first = LONG + "and then? "
    request = world.submit(first, conversation="a")
    world.run()
    second = first + world.text[request].decode()
    cached(world, second + " so it goes on and on", conversation="a")
    for other in "xyz":
        cached(world, other * 90, conversation=other)
    found = cached(world, second + " or it ends here, who knows?", conversation="a")
    assert found >= len(second) - 1


@pytest.mark.parametrize("kind", KINDS)
def test_all_at_once_wait_for_the_one_that_came_first(kind):
    world = world_of(kind)
    asked = [world.submit(LONG + letter, max_tokens=3) for letter in "abcdef"]
    world.run()
    assert [world.ended[request].cached_tokens for request in asked] == [0] + [len(LONG)] * 5


@pytest.mark.parametrize("kind", KINDS)
def test_without_memory_for_it_no_checkpoint_is_made(kind):
    world = world_of(kind, ram=0)
    for n in range(3):
        cached(world, LONG + str(n), conversation=str(n))
    ops = [op for step in world.runner.steps for op in step.ops]
    assert ops and not any(isinstance(op, Keep) for op in ops)


def test_attention_needs_none():
    world = world_of("")
    for n in range(3):
        cached(world, LONG + str(n), conversation=str(n))
    assert not any(isinstance(op, Keep) for step in world.runner.steps for op in step.ops)


@given(st.sampled_from(ALL), st.integers(1, 40))
def test_what_is_saved_can_be_gone_on_from(retention, held):
    assert retention.saved(held) <= retention.needed(held)
    assert retention.floor(0, held) <= retention.needed(held)


@given(st.sampled_from(ALL), st.integers(1, 40), st.integers(1, 40))
def test_later_never_needs_what_earlier_does_not(retention, one, other):
    first, second = sorted((one, other))
    assert retention.needed(first) <= retention.needed(second)
    assert retention.saved(first) <= retention.saved(second)


def test_what_is_saved_takes_a_window_once():
    sizes = Sizes(cell=10, window_cell=3, window=5, fixed=100)
    assert [sizes.checkpoint(n) for n in (0, 2, 9)] == [100, 106, 115]
    assert [sizes.whole(n) for n in (0, 2, 9)] == [100, 126, 205]


# Where a chat's next prompts part from this one.

tokenize = SimulatedRunner().tokenize


def chat(*messages):
    return tuple(Message(role, text) for role, text in messages)


def parts(prompt, tokens=tokenize):
    whole = tokens(prompt)
    return [whole[:at] for at in marks(prompt, whole, tokens)]


def test_a_chat_is_marked_where_its_system_prompt_ends_and_where_it_does():
    system, user = ("system", "be kind"), ("user", "what is x?")
    whole = tokenize(chat(system, user))
    begun = len(tokenize(chat(system))) - 1  # without whose turn it is
    assert parts(chat(system, user)) == [whole[: begun + 1], whole]
    assert parts(chat(user)) == [tokenize(chat(user))]
    assert parts("a text") == []


def test_what_the_next_prompt_leaves_out_is_behind_the_mark():
    def thinking(prompt):
        tokens = tokenize(prompt)
        return [*tokens, *b"<think>"] if prompt[-1].role == "user" else tokens

    def next_turn(prompt):
        tokens = []
        for message in prompt:
            tokens += tokenize((message,))[:-1]
        return [*tokens, *thinking(prompt[-1:])[len(tokenize(prompt[-1:])) - 1 :]]

    prompt = chat(("user", "why?"))
    whole = next_turn(prompt)
    (mark,) = marks(prompt, whole, next_turn)
    assert bytes(token for token in whole[mark:] if token < 256) == b"<think>"


def test_a_template_that_refuses_more_turns_gives_no_mark():
    from llambo9p import errors

    def refusing(prompt):
        if len(prompt) > 1:
            raise errors.InvalidArgument("no")
        return tokenize(prompt)

    prompt = chat(("user", "why?"))
    assert marks(prompt, refusing(prompt), refusing) == ()
