"""`system`, `history`, `usage` and `status`: the texts of a conversation."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.conversation import history, texts
from llambo9p.conversation.limits import Limits
from llambo9p.engine.base import Message, Usage
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error, InvalidArgument
from llambo9p.p9 import constants as c
from tests.files import reading, story, turns_of_the_loop, until

from .harness import conversing


class Asked(list[str]):
    """A script that keeps what it is asked."""

    def __call__(self, prompt: str) -> bytes:
        self.append(prompt)
        return b"ok"


def line(role: str, content: str) -> str:
    return json.dumps({"role": role, "content": content}) + "\n"


@story
async def test_system_is_set_replaced_and_read_back():
    asked = Asked()
    async with conversing(answer=asked) as place:
        assert await place.files.read("system") == ""
        await place.files.write("system", "be brief\n")
        assert await place.files.read("system") == "be brief\n"
        await place.files.ask("one")
        await place.files.write("system", "be \u00e9loquent")
        await place.files.ask("two")
        assert asked == ["be brief\n\none", "be \u00e9loquent\n\none\n\nok\n\ntwo"]


@story
async def test_a_truncate_empties_system_and_nothing_else():
    async with conversing() as place:
        await place.files.ask("hello")
        history = await place.files.read("history")
        for name in ("system", "history", "prompt", "ctl"):
            await place.files.write("system", "be brief")
            before = await place.files.read(name)
            await place.files.truncate(name)
            assert (await place.files.read(name) == "") == (name == "system")
            await place.files.write("system", "be brief")
            await (await place.files.open(name, c.OWRITE | c.OTRUNC)).clunk()
            assert await place.files.read(name) == ("" if name == "system" else before)
        assert await place.files.read("history") == history


@story
async def test_a_grammar_or_a_schema_is_set_replaced_and_emptied():
    grammar, schema = 'root ::= "yes" | "no"\n', '{"type": "integer"}'
    async with conversing() as place:
        files = place.files
        await files.write("grammar", grammar)
        assert await files.read("grammar") == grammar
        await files.write("schema", schema)
        assert (await files.read("grammar"), await files.read("schema")) == ("", schema)
        await files.write("grammar", "\n")
        assert await files.read("schema") == schema, "no grammar is no grammar, and no more"
        await files.write("grammar", grammar)
        assert (await files.read("grammar"), await files.read("schema")) == (grammar, "")
        await files.write("ctl", "reset")
        assert await files.read("grammar") == grammar
        await files.truncate("grammar")
        assert await files.read("grammar") == ""
        await files.write("schema", schema)
        await (await files.open("schema", c.OWRITE | c.OTRUNC)).clunk()
        assert await files.read("schema") == ""


@story
async def test_a_bad_grammar_or_schema_is_refused_at_the_clunk_and_the_old_one_stays():
    async with conversing() as place:
        files = place.files
        await files.write("grammar", 'root ::= "a"')
        why = "grammar line 2: the rule `b` is used and not defined"
        with pytest.raises(Error, match=why):
            await files.write("grammar", 'root ::=\n b')
        assert (await files.attrs("status"))["error"] == why
        with pytest.raises(Error, match="schema line 1: no JSON: Expecting"):
            await files.write("schema", "{")
        with pytest.raises(Error, match="grammar: more than 262144 bytes in one write"):
            await files.write("grammar", "x" * 262145)
        assert await files.read("grammar") == 'root ::= "a"'


@story
async def test_a_bad_system_prompt_is_refused_at_the_clunk_and_kept_in_status():
    async with conversing(Limits(prompt_bytes=10)) as place:
        await place.files.write("system", "good")
        with pytest.raises(Error, match="not UTF-8: byte 0xff at 0"):
            await place.files.write("system", b"\xff")
        assert await place.files.read("system") == "good\n"
        assert (await place.files.attrs("status"))["error"] == "not UTF-8: byte 0xff at 0"
        with pytest.raises(Error, match="system: more than 10 bytes in one write"):
            await place.files.write("system", "x" * 11)
        assert await place.files.read("system") == "good\n"


@story
async def test_history_reads_as_json_lines():
    async with conversing() as place:
        assert await place.files.read("history") == ""
        await place.files.ask('say "\u00e9"\n')
        assert [json.loads(one) for one in (await place.files.read("history")).splitlines()] == [
            {"role": "user", "content": 'say "\u00e9"'},
            {"role": "assistant", "content": 'simulated: say "\u00e9"'},
        ]


@story
async def test_a_written_history_is_what_the_next_turn_goes_on_from():
    asked = Asked()
    async with conversing(answer=asked) as place:
        saved = line("user", "hello") + line("assistant", "good day")
        await place.files.write("history", saved)
        assert await place.files.read("history") == saved
        await place.files.write("history", "\n" + line("user", "more"))
        await place.files.ask("go on")
        assert asked == ["hello\n\ngood day\n\nmore\n\ngo on"]


@story
async def test_a_history_of_one_conversation_restores_another():
    asked = Asked()
    async with conversing(answer=asked) as place:
        await place.files.ask("one")
        clone = await place.files.open("clone", c.ORDWR)
        await place.files.write("0/history", await place.files.read("history"))
        await place.files.ask("two", "0")
        await place.files.ask("two")
        assert asked[1] == asked[2] == "one\n\nok\n\ntwo"
        await clone.clunk()


@pytest.mark.parametrize(
    "bad",
    [
        "no json",
        "[]",
        '"text"',
        "{}",
        '{"role": "user"}',
        '{"role": "system", "content": "x"}',
        '{"role": "user", "content": 1}',
        '{"role": "user", "content": "\\ud800"}',
        "[" * 100_000,
        "1" * 5000,
    ],
    ids=lambda bad: bad[:20],
)
@story
async def test_a_bad_line_of_history_is_refused_at_the_clunk_with_its_number(bad):
    async with conversing() as place:
        await place.files.write("history", line("user", "kept") + line("assistant", "too"))
        before = await place.files.read("history")
        file = await place.files.open("history", c.OWRITE)
        await file.write((line("user", "good") + "\n" + bad + "\n").encode())
        with pytest.raises(Error, match="^history line 3 is not"):
            await file.clunk()
        assert await place.files.read("history") == before, "nothing was appended"
        assert (await place.files.attrs("status"))["error"].startswith("history line 3")


@given(st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]),
                          st.text(st.characters(exclude_categories=["Cs"])))))  # fmt: skip
def test_every_history_reads_back(messages):
    assert history.parse(history.show(messages)) == messages


@given(st.text())
def test_any_text_is_a_history_or_is_refused(text):
    try:
        history.show(history.parse(text)).encode()
    except InvalidArgument:
        pass


def test_usage_reads_back():
    usage = Usage(10, 4, 3, 1, 1.5, 2.0, 4.5, 0.5, 6, "yes", "length")
    assert texts.parse_usage(texts.show_usage(usage)) == usage
    assert "tokens_per_second 500.0\n" in texts.show_usage(usage)


@story
async def test_usage_is_there_when_the_answer_has_ended():
    async with conversing() as place:
        assert await place.files.read("usage") == ""
        for turn, prompt in enumerate(("hello", "again")):
            assert await place.files.ask(prompt)
            usage = await place.files.attrs("usage")
            assert int(usage["completion_tokens"]) == len("simulated: ") + len(prompt)
            assert (int(usage["cached_tokens"]) > 0) == (turn > 0), "the KV cache was re-used"
            assert usage["finish_reason"] == "stop"
            assert float(usage["total_ms"]) >= float(usage["ttft_ms"]) >= float(usage["queue_ms"])


@story
async def test_status_follows_a_request():
    gate = Gate()
    async with conversing(gate=gate, slots=1, prefill_chunk=16) as place:
        clone = await place.files.open("clone", c.ORDWR)
        counts = ("position", "progress", "queued", "turns", "trimmed_turns")
        idle = {"state": "idle", **dict.fromkeys(counts, "0")}
        assert await place.files.attrs("status") == idle
        await place.files.write("ctl", "request_id mine")
        await place.files.write("0/ctl", "request_id other")
        await place.files.write("prompt", "x" * 200)
        await until(lambda: place.conversation.state.value == "prefill")
        await place.files.write("0/prompt", "behind")
        await place.files.write("0/prompt", "behind that")
        out = await place.files.open("out")
        while (await place.files.attrs("0/status"))["position"] != "1":
            gate.step()  # until then it is prepared, on a thread
        while (await place.files.attrs("status"))["state"] != "decode":
            gate.step()
        assert (await reading(out)).data.startswith(b"s")
        status = await place.files.attrs("0/status")
        assert int(status.pop("progress")) > 0
        del idle["progress"]
        assert status == idle | {
            "state": "queued", "position": "1", "queued": "1", "request": "other"
        }
        idle["progress"] = "0"
        gate.open()
        await out.read_all()
        assert await place.files.attrs("status") == idle | {"turns": "1", "request": "mine"}
        await place.files.write("ctl", "reset")
        assert await place.files.attrs("status") == idle
        await clone.clunk()


@story
async def test_progress_grows_only_when_the_request_gets_further():
    """By its own prompt, by those of others while it is being read, and in the queue by any step.
    It tells no one how much that was."""
    gate = Gate()
    async with conversing(gate=gate, slots=2, prefill_chunk=16) as place:
        names = []
        clones = []
        for prompt in ("x" * 90, "y" * 90, "behind"):
            clones.append(clone := await place.files.open("clone", c.ORDWR))
            names.append((await clone.read(0)).decode().strip())
            await place.files.write(f"{names[-1]}/prompt", prompt)
        await until(lambda: gate.entered(0))

        async def progress() -> list[int]:
            status = [await place.files.attrs(f"{name}/status") for name in names]
            return [int(attrs["progress"]) for attrs in status]

        before = await progress()
        assert await progress() == before
        for _ in range(4):
            gate.allow()
            await until(lambda: gate.entered(0))
            await turns_of_the_loop()
            after = await progress()
            assert after == [number + 1 for number in before]
            assert await progress() == after
            before = after
        gate.open()
        for name, clone in zip(names, clones, strict=True):
            assert (await place.files.read(f"{name}/out")).startswith("simulated: ")
            await clone.clunk()


@story
async def test_an_error_of_several_lines_is_one_line_of_status():
    async with conversing() as place:
        place.conversation.last_error = "the template\nfailed"
        assert (await place.files.attrs("status"))["error"] == "the template failed"
