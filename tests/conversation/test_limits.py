"""What clients may have in a process: written and not yet asked, and remembered."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc

import pytest

from llambo9p.conversation import limits
from llambo9p.conversation.history import MESSAGE_BYTES
from llambo9p.conversation.limits import Limits
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Busy, Error, NoSpace
from llambo9p.p9 import constants as c
from tests.files import files_of, story, until

from .harness import conversing

FULL = "^No space left on device: more than [0-9]+ bytes of prompts not yet asked of all clients"


@story
async def test_what_all_clients_write_at_once_is_bounded():
    buffer = limits.buffer(100)
    async with conversing(Limits(buffer=buffer)) as place, place.connect() as other:
        mine = await place.files.open("prompt", c.OWRITE)
        await mine.write(b"x" * 60)
        theirs = await other.open("data", c.ORDWR)
        await theirs.write(b"y" * 40)
        for file in (await other.open("prompt", c.OWRITE), await other.open("system", c.OWRITE)):
            with pytest.raises(NoSpace, match=FULL):
                await file.write(b"z")
            with pytest.raises(NoSpace, match=FULL):
                await file.clunk()
        await other.truncate("system")
        await mine.clunk()
        assert await place.files.read("out") == "simulated: " + "x" * 60
        assert await theirs.read_all() == b"simulated: " + b"y" * 40
        assert buffer.used == 0
        await other.write("prompt", "z" * 100)


@story
async def test_prompts_in_a_queue_are_counted_until_they_are_asked():
    gate = Gate()
    buffer = limits.buffer(30)
    async with conversing(Limits(buffer=buffer), gate=gate, slots=1) as place:
        for _ in range(3):
            await place.files.write("prompt", b"x" * 10)  # the first is asked at once
        assert buffer.used == 20
        with pytest.raises(NoSpace, match=FULL):
            await place.files.write("prompt", b"x" * 11)
        await place.files.write("ctl", "reset")
        assert buffer.used == 0
        gate.open()


@story
async def test_who_leaves_gives_back_what_he_was_writing():
    buffer = limits.buffer(100)
    async with conversing(Limits(buffer=buffer)) as place:
        async with files_of(place.address) as leaving:
            for path, mode in (("prompt", c.OWRITE), ("data", c.ORDWR), ("history", c.OWRITE)):
                await (await leaving.open(path, mode)).write(b"x" * 30)
            assert buffer.used == 90
        await until(lambda: buffer.used == 0)


def turns(*contents: str) -> str:
    roles = ("user", "assistant")
    return "".join(
        json.dumps({"role": roles[i % 2], "content": content}) + "\n"
        for i, content in enumerate(contents)
    )


@story
async def test_a_history_forgets_its_oldest_turns_when_it_is_full():
    async with conversing(Limits(history_bytes=4 * MESSAGE_BYTES + 60)) as place:
        for prompt in ("first", "second", "third"):
            await place.files.ask(prompt)
        # 21 + 23 + 21 bytes
        assert await place.files.read("history") == turns(
            "second", "simulated: second", "third", "simulated: third"
        )
        await place.files.ask("fourth")
        assert "second" not in await place.files.read("history")
        assert "third" in await place.files.read("history")


@story
async def test_with_overflow_error_a_full_history_refuses_the_next_prompt():
    limit = MESSAGE_BYTES + 20
    async with conversing(Limits(history_bytes=limit)) as place:
        await place.files.write("ctl", "overflow error")
        await place.files.ask("first")
        await place.files.write("prompt", "second")
        with pytest.raises(NoSpace, match=f"is more than {limit} bytes; `reset` forgets it"):
            await place.files.read("out")
        assert await place.files.read("history") == turns("first", "simulated: first")
        await place.files.write("ctl", "reset")
        assert await place.files.ask("second") == "simulated: second"


@story
async def test_a_history_that_is_written_is_refused_whole_when_it_does_not_fit():
    limit = 3 * MESSAGE_BYTES + 20
    async with conversing(Limits(history_bytes=limit)) as place:
        await place.files.write("history", turns("0123456789"))
        with pytest.raises(NoSpace, match=f"{limit + 1} bytes would be more than {limit}"):
            await place.files.write("history", turns("012345", "54321"))
        assert await place.files.read("history") == turns("0123456789")
        await place.files.write("history", turns("012345", "4321"))


@story
async def test_messages_without_a_text_are_not_free():
    """A million of them took 200 MB, and the file that shows them seconds to open."""
    async with conversing(Limits(history_bytes=10_000)) as place:
        with pytest.raises(NoSpace, match="history: "):
            await place.files.write("history", turns(*[""] * 1000))
        assert await place.files.read("history") == ""


@story
async def test_who_only_writes_holds_no_history():
    async with conversing() as place:
        await place.files.write("history", turns("first"))
        kept = place.conversation.limits.kept.used
        async with await place.files.open("history", c.OWRITE):
            assert place.conversation.limits.kept.used == kept
        async with await place.files.open("history"):
            assert place.conversation.limits.kept.used == 2 * kept


def test_one_user_cannot_take_all_of_the_buffer() -> None:
    buffer = limits.buffer(100, per_user=60)
    buffer.take(60, "alice")
    with pytest.raises(NoSpace, match="more than 60 bytes of prompts not yet asked of alice"):
        buffer.take(1, "alice")
    buffer.take(40, "bob")
    with pytest.raises(NoSpace, match=FULL.removeprefix("^")):
        buffer.take(1, "bob")
    buffer.give_back(60, "alice")
    buffer.take(20, "bob")


@story
async def test_what_a_user_keeps_in_all_his_conversations_is_bounded():
    kept = limits.kept(10_000, per_user=2 * MESSAGE_BYTES + 30)
    async with conversing(Limits(kept=kept)) as place:
        await place.files.write("history", turns("0123456789", "0123456789"))
        await place.files.write("system", "1234567890\n")
        refused = "more than 286 bytes of histories, prompts and open texts of one user"
        for path, text in (("system", "12345678901"), ("history", turns("0"))):
            with pytest.raises(NoSpace, match=refused):
                await place.files.write(path, text)
            assert kept.used == 2 * MESSAGE_BYTES + 30
        with pytest.raises(NoSpace, match=refused):
            await place.files.open("system")
        assert refused in await place.files.read("status")
        await place.files.write("ctl", "reset")
        assert kept.used == 10
        texts = [await place.files.open("system") for _ in range(25)]
        assert kept.used == 10 + 25 * 11
        with pytest.raises(NoSpace, match=refused):
            await place.files.open("system")
        await texts[0].clunk()
        assert kept.used == 10 + 24 * 11
        await place.files.open("system")
    await until(lambda: kept.used == 10)
    place.conversation.close()
    assert kept.used == 0


@story
async def test_a_history_gives_way_to_what_its_user_keeps_elsewhere():
    kept = limits.kept(10_000, per_user=4 * MESSAGE_BYTES + 60)
    async with conversing(Limits(kept=kept)) as place:
        assert await place.files.ask("first") == "simulated: first"
        kept.take(2 * MESSAGE_BYTES, "")
        assert await place.files.ask("second") == "simulated: second"
        assert [m.content for m in place.conversation.history] == ["second", "simulated: second"]
        assert (await place.files.attrs("status"))["error"].startswith("turns were forgotten: ")
        await place.files.write("ctl", "overflow error")
        assert await place.files.ask("third") == "simulated: third"
        await place.files.write("prompt", "fourth")
        with pytest.raises(NoSpace, match="bytes of histories, prompts and open texts"):
            await place.files.read("out")


@story
async def test_the_unfinished_requests_of_a_user_are_counted_until_they_are_over():
    gate = Gate()
    requests = limits.requests(2)
    async with conversing(Limits(requests=requests), gate=gate) as place:
        await place.files.write("prompt", "x")
        data = await place.files.open("data", c.ORDWR)
        await data.write(b"y")
        reading = asyncio.ensure_future(data.read(0))
        await until(lambda: requests.used == 2)
        one_more = await place.files.open("data", c.ORDWR)
        await one_more.write(b"z")
        with pytest.raises(Busy, match="busy: more than 2 unfinished requests of one user"):
            await one_more.read(0)
        gate.open()
        assert await reading + await data.read_all() == b"simulated: y"
        assert await place.files.read("out") == "simulated: x"
        assert requests.used == 0
        assert await place.files.ask("again") == "simulated: again"
    assert requests.used == 0


def test_who_owns_the_process_may_have_all_there_is() -> None:
    requests = limits.requests(2, free="owner")
    requests.take(100, "owner")
    requests.take(2, "alice")
    with pytest.raises(Busy, match="more than 2 unfinished requests of alice"):
        requests.take(1, "alice")


@story
async def test_a_conversation_that_is_closed_keeps_nothing_more():
    kept = limits.kept()
    async with conversing(Limits(kept=kept)) as place:
        place.conversation.close()
        for path, text in (("system", "x"), ("history", turns("x"))):
            with pytest.raises(Error, match="the conversation is closed"):
                await place.files.write(path, text)
        assert kept.used == 0


def test_who_keeps_little_need_not_make_room_for_those_who_keep_much() -> None:
    kept = limits.kept(1000, per_user=600)
    kept.take(500, "alice")
    kept.take(450, "bob")
    kept.add(100, "carol")
    assert kept.is_over("alice") and kept.is_over("bob") and not kept.is_over("carol")
    kept.give_back(400, "alice")
    assert not any(kept.is_over(user) for user in ("alice", "bob", "carol", "dave"))
    kept.add(200, "bob")
    assert kept.is_over("bob")


@story
async def test_a_prompt_that_was_asked_is_kept_while_it_is_the_newest():
    kept = limits.kept(per_user=2500)
    async with conversing(Limits(kept=kept), n_ctx=128) as place:
        clones = [await place.files.open("clone", c.ORDWR) for _ in range(4)]
        for number in "01":
            with pytest.raises(Error, match="1003 tokens"):
                await place.files.ask("x" * 1000, number)
        assert kept.used == 2000
        with pytest.raises(NoSpace, match="more than 2500 bytes of histories, prompts and open"):
            await place.files.ask("x" * 1000, "2")
        data = await place.files.open("2/data", c.ORDWR)
        await data.write(b"x" * 1000)
        with pytest.raises(NoSpace, match="of one user$"):
            await data.read(0)
        assert kept.used == 2000
        assert await place.files.read("2/prompt") == "", "what is refused is not kept"
        await clones[0].clunk()
        assert kept.used == 1000
        assert await place.files.read("1/prompt") == "x" * 1000
        assert await place.files.ask("short", "1") == "simulated: short"
        await place.files.write("1/ctl", "reset")
        assert kept.used == 0


@story
async def test_a_history_gives_way_to_the_prompt_that_is_asked():
    asked: list[str] = []

    def answer(prompt: str) -> bytes:
        asked.append(prompt)
        return b"ok"

    kept = limits.kept(per_user=2 * MESSAGE_BYTES + 100)
    async with conversing(Limits(kept=kept), answer=answer) as place:
        await place.files.ask("first")
        await place.files.ask("second")
        await place.files.ask("x" * 100)
        assert asked == ["first", "first\n\nok\n\nsecond", "x" * 100]
        assert (await place.files.attrs("status"))["error"].startswith("turns were forgotten: ")


@pytest.mark.parametrize("path", ["prompt", "data"])
@pytest.mark.parametrize("query", [b"x", b"\xff"], ids=["too long", "not UTF-8"])
@story
async def test_a_turn_that_failed_holds_no_more_than_is_counted(path: str, query: bytes):
    """Its error had the frames of all that was called with the prompt."""
    kept = limits.kept()
    size = 2**18
    async with conversing(Limits(kept=kept), n_ctx=128) as place:
        held = [await place.files.open("clone", c.ORDWR) for _ in range(8)]
        tracemalloc.start()
        try:
            for number in range(8):
                file = await place.files.open(f"{number}/{path}", c.ORDWR)
                await file.write(query * size)
                if path == "prompt":
                    await file.clunk()
                    file = await place.files.open(f"{number}/out")
                with pytest.raises(Error, match="tokens|not UTF-8"):
                    await file.read(0)
                held.append(file)
            gc.collect()
            assert kept.used == (8 * size if (path, query) == ("prompt", b"x") else 0)
            assert tracemalloc.get_traced_memory()[0] < kept.used + 2 * size
        finally:
            tracemalloc.stop()
