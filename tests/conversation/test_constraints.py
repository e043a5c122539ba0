"""Texts that answers are held to, while it is found out whether they can be."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from llambo9p.conversation import settings
from llambo9p.conversation.conversation import Conversation
from llambo9p.conversation.limits import Limits
from llambo9p.engine.base import Usage
from llambo9p.errors import InvalidArgument, NoSpace
from tests.files import story


class Engine:
    """Answers at once; a text is checked when the test says so."""

    def __init__(self):
        self.asked = []
        self.checks = []

    def submit(self, request, listener):
        self.asked.append(request)
        asyncio.get_running_loop().call_soon(listener.done, Usage())

    def cancel(self, request):
        pass

    def forget(self, conversation):
        pass

    def check(self, constraint, user):
        self.checks.append((constraint, Future()))
        return self.checks[-1][1]

    def held_to(self):
        """What each of the requests is held to."""
        return [r.params.constraint and r.params.constraint.text for r in self.asked]

    def settle(self, number, error=None):
        _, check = self.checks[number]
        if error is None:
            check.set_result(None)
        else:
            check.set_exception(error)


def engine_and_conversation():
    engine = Engine()
    return engine, Conversation(engine)


async def begun(conversation, kind, text):
    """A write of the text, as far as its check."""
    writing = conversation.texts.write(kind, text.encode)
    await asyncio.sleep(0)
    return writing


@story
async def test_the_engine_is_asked_with_the_settings_of_the_conversation():
    engine, conversation = engine_and_conversation()

    conversation.settings = settings.change(conversation.settings, "lenient", True)
    await begun(conversation, "schema", "{}")
    ((constraint, _),) = engine.checks
    assert (constraint.kind, constraint.text, constraint.lenient) == ("schema", "{}", True)
    assert conversation.texts.constraint is None


@story
async def test_a_prompt_waits_for_a_text_that_is_checked():
    engine, conversation = engine_and_conversation()
    writing = await begun(conversation, "regex", "[a-z]+")
    conversation.submit(b"a prompt")
    turn = conversation.ask(b"a query")
    await asyncio.sleep(0)
    assert not engine.asked
    engine.settle(0)
    await writing
    assert sorted(engine.held_to()) == ["[a-z]+"] * 2
    await asyncio.sleep(0)
    assert turn.is_over and conversation.newest.is_over


@story
async def test_a_refused_text_leaves_the_old_one_and_prompts_fail_until_another_is_taken():
    engine, conversation = engine_and_conversation()
    writing = await begun(conversation, "grammar", 'root ::= "a"')
    engine.settle(0)
    await writing
    writing = await begun(conversation, "schema", "{")
    conversation.submit(b"a prompt")
    engine.settle(1, InvalidArgument("schema line 1: bad"))
    with pytest.raises(InvalidArgument, match="schema line 1: bad"):
        await writing
    assert conversation.texts.constraint == ("grammar", 'root ::= "a"')
    assert "schema line 1: bad" in str(conversation.newest.error)
    with pytest.raises(InvalidArgument, match="schema line 1: bad"):
        conversation.ask(b"a query")
    with pytest.raises(InvalidArgument, match="schema line 1: bad"):
        conversation.check_prompt(b"a prompt")
    assert not engine.asked
    writing = await begun(conversation, "regex", "b")
    conversation.submit(b"a prompt")
    engine.settle(2)
    await writing
    assert engine.held_to() == ["b"]


@story
async def test_of_several_texts_the_one_that_was_written_last_counts():
    engine, conversation = engine_and_conversation()
    first = await begun(conversation, "grammar", "start: X")
    second = await begun(conversation, "regex", "b")
    conversation.submit(b"a prompt")
    engine.settle(1)
    await second
    assert not engine.asked, "one is still checked"
    engine.settle(0)
    await first
    assert conversation.texts.constraint == ("regex", "b")
    assert engine.held_to() == ["b"]


@story
async def test_blank_is_none_at_once_and_a_check_that_ends_later_does_not_count():
    engine, conversation = engine_and_conversation()
    writing = await begun(conversation, "grammar", "start: X")
    assert conversation.texts.write("grammar", bytes) is None
    engine.settle(0)
    await writing
    assert conversation.texts.constraint is None
    assert conversation.texts.write("regex", lambda: b" \n") is None
    assert len(engine.checks) == 1


@story
async def test_a_query_that_waits_can_be_stopped():
    engine, conversation = engine_and_conversation()
    writing = await begun(conversation, "regex", "a")
    turn = conversation.ask(b"a query")
    conversation.stop(turn)
    assert turn.is_over
    engine.settle(0)
    await writing
    assert not engine.asked


@story
async def test_a_conversation_that_is_closed_meanwhile_keeps_nothing():
    engine, conversation = engine_and_conversation()
    writing = await begun(conversation, "regex", "a")
    turn = conversation.ask(b"a query")
    conversation.submit(b"a prompt")
    conversation.close()
    engine.settle(0)
    with pytest.raises(InvalidArgument, match="closed"):
        await writing
    assert turn.is_over and not engine.asked and conversation.texts.constraint is None


@story
async def test_what_is_checked_counts_as_written():
    limits = Limits()
    limits.buffer.limit = 10
    engine = Engine()
    conversation = Conversation(engine, limits=limits)
    writing = await begun(conversation, "regex", "a" * 8)
    with pytest.raises(NoSpace):
        conversation.texts.write("regex", lambda: b"b" * 8)
    with pytest.raises(NoSpace):
        conversation.ask(b"c" * 8)
    engine.settle(0)
    await writing
    assert limits.buffer.used == 0
