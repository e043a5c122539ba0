"""`ctl`: settings that read back as they are written, all or nothing, and actions.

Numbers are those of 9p.md's list of bugs.
"""

from __future__ import annotations

import pytest

from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error
from llambo9p.p9 import constants as c
from tests.files import reading, story

from .harness import conversing

CHANGED = """\
mode complete
max_tokens 77
temperature 0.123456789
top_p 0.5
top_k 7
min_p 0.25
repeat_penalty 1.1
seed 42
stop END 'two words' 'it''s' 'a
line' '
'
logprobs 5
whitespace_flexible on
coerce_one_of on
lenient on
overflow error
priority -3
type medium
request_id trace/7:a
cache_label team-1
"""


@story
async def test_every_setting_reads_back_and_can_be_written_back_whole():
    async with conversing() as place:
        default = await place.files.read("ctl")
        names = [line.split()[0] for line in default.splitlines()]
        assert all(f"\n{name} " in f"\n{CHANGED}" for name in names), "it changes them all"
        await place.files.write("ctl", CHANGED)
        assert await place.files.read("ctl") == CHANGED
        await place.files.write("ctl", default)
        assert await place.files.read("ctl") == default
        await place.files.write("ctl", CHANGED, c.OWRITE | c.OTRUNC)
        await place.files.truncate("ctl")
        assert await place.files.read("ctl") == CHANGED, "a truncate empties no ctl"
        await place.files.write("ctl", "stop\nseed random")
        assert place.conversation.settings.params.stop == ()
        assert place.conversation.settings.params.seed is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max_tokens 0", "max_tokens must be a whole number 1..1048576, not 0"),
        ("max_tokens 1.5", "max_tokens must be a whole number 1..1048576, not 1.5"),
        ("max_tokens", "usage: max_tokens 1..1048576"),
        ("max_tokens 1 2", "usage: max_tokens 1..1048576"),
        ("temperature 5.01", "temperature must be a number 0..5, not 5.01"),
        ("temperature nan", "temperature must be a number 0..5, not nan"),
        ("temperature hot", "temperature must be a number 0..5, not hot"),
        ("top_p -0.1", "top_p must be a number 0..1, not -0.1"),
        ("top_k -1", "top_k must be a whole number 0..1048576, not -1"),
        ("min_p inf", "min_p must be a number 0..1, not inf"),
        ("repeat_penalty 0", "repeat_penalty must be a number 0.1..10, not 0"),
        ("seed -1", "seed must be random or 0..4294967294, not -1"),
        ("seed 4294967295", "seed must be random or 0..4294967294, not 4294967295"),
        ("mode talk", "mode must be chat|complete, not talk"),
        ("logprobs 21", "logprobs must be a whole number 0..20, not 21"),
        ("priority 1", "priority must be a whole number -10..0, not 1"),
        ("type 'a b'", "type must be a node type's name, not 'a b'"),
        ("type a b", "usage: type [NAME]"),
        ("cache_label 'a b'", "cache_label must be at most 64 letters, digits and any of ._:/@=+-, "
         "or nothing, not 'a b'"),
        ("request_id 'a b'", "request_id must be random or at most 64 letters, digits and any of "
         "._:/@=+-, not 'a b'"),
        ("overflow 'a b'", "overflow must be trim|error, not 'a b'"),
        ("stop ok ''", "stop must not be an empty string; stop alone clears the list"),
        ("stop 'open", "quote is not closed: stop 'open"),
        ("stop " + "x " * 17, "usage: stop [STRING]..."),
        ("reset now", "usage: reset"),
        ("shout", "unknown verb shout; verbs are mode max_tokens temperature top_p top_k min_p "
         "repeat_penalty seed stop logprobs whitespace_flexible coerce_one_of lenient overflow "
         "priority type request_id cache_label reset cancel"),
        (b"seed \xff", "not UTF-8: byte 0xff at 34"),
    ],
)  # fmt: skip
@story
async def test_18_a_bad_line_is_named_with_what_is_allowed_and_nothing_changes(line, said):
    async with conversing() as place:
        before = await place.files.read("ctl")
        bad = line if isinstance(line, bytes) else line.encode()
        with pytest.raises(Error) as refused:
            await place.files.write("ctl", b"max_tokens 9\ntemperature 0.5\n" + bad)
        assert str(refused.value) == said
        assert await place.files.read("ctl") == before


@story
async def test_a_bad_line_keeps_the_good_ones_from_acting():
    async with conversing() as place:
        await place.files.ask("remember me")
        for text in ("reset\nshout", "shout\nreset"):
            with pytest.raises(Error, match="unknown verb shout"):
                await place.files.write("ctl", text)
        assert "remember me" in await place.files.read("history")


@story
async def test_18_a_write_acts_once_at_whatever_offset_and_before_the_clunk():
    async with conversing() as place:
        ctl = await place.files.open("ctl", c.ORDWR)
        await ctl.write(b"max_tokens 3\n\n  temperature   0 \n")
        settings = await place.files.attrs("ctl")
        assert (settings["max_tokens"], settings["temperature"]) == ("3", "0")
        assert b"max_tokens 256" in await ctl.read(0), "reads show what was at the open"
        await place.files.write("ctl", "max_tokens 5")
        await ctl.clunk()
        assert (await place.files.attrs("ctl"))["max_tokens"] == "5"


@story
async def test_settings_hold_for_the_requests_that_start_after_them():
    async with conversing(answer=lambda _: b"one STOP two\nthree") as place:
        await place.files.write("ctl", "max_tokens 2")
        assert await place.files.ask("x") == "on"
        assert (await place.files.attrs("usage"))["finish_reason"] == "length"
        await place.files.write("ctl", "max_tokens 99\nstop nothing 'P t' '\n'")
        assert await place.files.ask("x") == "one STO"
        assert (await place.files.attrs("usage"))["finish_reason"] == "stop"
        await place.files.write("ctl", "stop '\n'")
        assert await place.files.ask("x") == "one STOP two"
        await place.files.write("ctl", "stop")
        assert await place.files.ask("x") == "one STOP two\nthree"


@story
async def test_24_cancel_stops_the_running_request_and_not_the_queued():
    gate = Gate()
    async with conversing(gate=gate, answer=lambda p: b"a" * 500 if p == "1" else b"b") as place:
        await place.files.write("prompt", "1")
        first = await place.files.open("out")
        await place.files.write("prompt", "2")
        second = await place.files.open("out")
        waiting = reading(first)
        gate.allow()
        assert (await waiting).data == b"a"
        await place.files.write("ctl", "cancel")
        gate.open()
        answer = await first.read_all()
        assert answer.startswith(b"a") and len(answer) < 20
        assert await second.read_all() == b"b"
        assert place.engine.steps < 30
        assert (await place.files.attrs("status"))["turns"] == "2", "seen answers are history"


@story
async def test_24_cancel_of_a_queued_request_leaves_the_running_one():
    gate = Gate()
    async with conversing(gate=gate, slots=1) as place:
        clone = await place.files.open("clone", c.ORDWR)
        await place.files.write("prompt", "runs" * 50)
        await place.files.write("0/prompt", "waits")
        while (await place.files.attrs("0/status"))["position"] != "1":
            gate.step()
        await clone.write(b"cancel")
        gate.open()
        assert await place.files.read("0/out") == ""
        assert (await place.files.attrs("0/usage"))["finish_reason"] == "cancelled"
        assert await place.files.read("out") == "simulated: " + "runs" * 50


@story
async def test_cancel_of_nothing_is_nothing():
    async with conversing() as place:
        await place.files.write("ctl", "cancel")
        assert await place.files.ask("x") == "simulated: x"
        await place.files.write("ctl", "cancel")
        assert await place.files.read("out") == "simulated: x"


@story
async def test_reset_forgets_the_history_and_keeps_the_settings():
    asked: list[str] = []

    def answer(prompt: str) -> bytes:
        asked.append(prompt)
        return b"ok"

    async with conversing(answer=answer) as place:
        await place.files.write("system", "sys")
        await place.files.write("ctl", "seed 5")
        await place.files.ask("one")
        await place.files.write("prompt", b"\xff")
        await place.files.write("ctl", "reset")
        for name in ("history", "usage", "out", "prompt"):
            assert await place.files.read(name) == "", name
        assert "error" not in await place.files.attrs("status")
        assert (await place.files.attrs("ctl"))["seed"] == "5"
        await place.files.ask("two")
        assert asked == ["sys\n\none", "sys\n\ntwo"]


@story
async def test_reset_stops_the_running_turn_and_fails_the_queued():
    gate = Gate()
    async with conversing(gate=gate, answer=lambda p: b"a" * 500 if p != "3" else b"c") as place:
        outs = []
        for prompt in ("1", "2"):
            await place.files.write("prompt", prompt)
            outs.append(await place.files.open("out"))
        waiting = reading(outs[0])
        gate.allow()
        await waiting
        await place.files.write("ctl", "reset")
        with pytest.raises(Error, match="the conversation was reset"):
            await outs[1].read(0)
        await place.files.write("prompt", "3")
        gate.open()
        assert len(await outs[0].read_all()) < 20
        assert await place.files.read("out") == "c"
        history = await place.files.read("history")
        assert history.splitlines() == [
            '{"role": "user", "content": "3"}',
            '{"role": "assistant", "content": "c"}',
        ]
