"""`data`: a query and its answer on one fid, private to the open, by a cursor.

Numbers are those of 9p.md's list of bugs.
"""

from __future__ import annotations

import asyncio

import py9p
import pytest

from llambo9p.conversation.limits import Limits
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Busy, Error
from llambo9p.net.client import RemoteOpen
from llambo9p.p9 import constants as c
from tests.files import reading, story, turns_of_the_loop, until

from .harness import Place, conversing

LONG = b"x" * 1000


async def answer_of(data: RemoteOpen, offset: int = 0, count: int = 8192) -> bytes:
    """Read on, every time at `offset`, until the end."""
    answer = b""
    while piece := await data.read(offset, count):
        assert len(piece) <= count
        answer += piece
    return answer


async def decoding(place: Place, gate: Gate, query: bytes = b"x") -> RemoteOpen:
    """A `data` with the first byte of its long answer read, and more to come."""
    data = await place.files.open("data", c.ORDWR)
    await data.write(query)
    waiting = reading(data)
    gate.allow()
    assert (await waiting).data == b"x"
    return data


@story
async def test_a_read_before_any_write_is_at_the_end():
    async with conversing() as place:
        data = await place.files.open("data", c.ORDWR)
        assert await data.read(0) == b""
        assert place.engine.steps == 0


@story
async def test_5_reads_ignore_offsets_whichever_the_client_sends():
    """Linux goes on where its write ended, plan9port reads at 0 every time."""
    async with conversing() as place:
        for query in (b"a query", b"another"):
            for count in (3, 8192):
                data = await place.files.open("data", c.ORDWR)
                await data.write(query)
                assert await answer_of(data, 0, count) == b"simulated: " + query
                await data.clunk()
                data = await place.files.open("data", c.ORDWR)
                await data.write(query)
                answer, offset = b"", len(query)
                while piece := await data.read(offset, count):
                    answer += piece
                    offset += len(piece)
                assert answer == b"simulated: " + query
                assert await data.read(0) == b"", "the end stays the end"
                await data.clunk()


@story
async def test_a_write_after_reads_starts_the_next_query():
    async with conversing() as place:
        data = await place.files.open("data", c.ORDWR)
        for query in (b"one", b"two"):
            await data.write(query[:1])
            await data.write(query[1:])
            assert await answer_of(data) == b"simulated: " + query
        await data.write(b"three")
        assert await data.read(0, 3)
        await data.write(b"four")
        assert await answer_of(data) == b"simulated: four", "nothing is left of the third"


@story
async def test_a_write_while_the_answer_grows_stops_it():
    gate = Gate()
    async with conversing(gate=gate, answer=lambda p: LONG if p == "x" else b"short") as place:
        data = await decoding(place, gate)
        parked = reading(data)
        await data.write(b"y")
        gate.open()
        assert (await parked).data == b""
        assert await answer_of(data) == b"short"
        await place.idle()
        assert place.engine.steps < 20


@story
async def test_two_opens_share_nothing_and_leave_no_history():
    async with conversing() as place, place.connect() as other:
        mine = await place.files.open("data", c.ORDWR)
        theirs = await other.open("data", c.ORDWR)
        await mine.write(b"mine")
        await theirs.write(b"theirs")
        assert await answer_of(theirs) == b"simulated: theirs"
        assert await answer_of(mine) == b"simulated: mine"
        assert await place.files.read("history") == ""
        assert await place.files.read("out") == ""


@story
async def test_4_queries_use_the_settings_and_the_system_prompt_but_not_the_history():
    asked: list[str] = []

    def answer(prompt: str) -> bytes:
        asked.append(prompt)
        return b"0123456789"

    async with conversing(answer=answer) as place:
        await place.files.write("system", "be brief")
        await place.files.ask("a turn")
        await place.files.write("ctl", "max_tokens 4")
        data = await place.files.open("data", c.ORDWR)
        await data.write(b"a query\n")
        assert await answer_of(data) == b"0123"
        assert asked[1] == "be brief\n\na query"


@pytest.mark.parametrize("mode", [c.OREAD, c.OWRITE, c.OEXEC, c.OWRITE | c.OTRUNC])
def test_data_opens_for_reading_and_writing_only(mode):
    async def main():
        async with conversing() as place:
            with pytest.raises(Error, match="ORDWR"):
                await place.files.open("data", mode)
            await place.files.open("data", c.ORDWR | c.OTRUNC)

    asyncio.run(main())


@pytest.mark.parametrize("pipelined", [True, False])
def test_10_a_flushed_read_of_data_stops_the_answer_and_frees_the_slot(pipelined):
    """Also when the Tflush comes right behind its Tread."""

    async def main():
        gate = Gate()
        async with conversing(gate=gate, answer=lambda _: LONG) as place:
            data = await decoding(place, gate)
            waiting = reading(data)
            if not pipelined:
                await turns_of_the_loop()
                await place.files.read("ctl")
            waiting.cancel()
            await place.files.read("ctl")  # behind the Tflush
            gate.open()
            await place.idle()
            assert place.engine.steps < 20
            assert (await place.files.attrs("usage"))["finish_reason"] == "cancelled"
            await answer_of(data)  # what was decoded, then the end

    asyncio.run(main())


@story
async def test_25_a_clunk_stops_the_answer():
    gate = Gate()
    async with conversing(gate=gate, answer=lambda _: LONG) as place:
        data = await decoding(place, gate)
        waiting = reading(data)
        await data.clunk()
        with pytest.raises(Error, match="Interrupted"):
            await waiting
        gate.open()
        await place.idle()
        assert place.engine.steps < 20


@pytest.mark.parametrize("parked", [True, False])
def test_25_a_lost_connection_stops_the_answer(parked):
    async def main():
        gate = Gate()
        async with conversing(gate=gate, answer=lambda _: LONG) as place:
            async with place.connect() as other:
                data = await other.open("data", c.ORDWR)
                await data.write(b"x")
                waiting = reading(data)
                gate.allow()
                await waiting
                if parked:
                    waiting = reading(data)
                    await other.read("ctl")
            if parked:
                with pytest.raises(Error):
                    await waiting
            await until(lambda: len(place.server.connections) == 1)
            gate.open()
            await place.idle()
            assert place.engine.steps < 20

    asyncio.run(main())


@story
async def test_a_query_that_was_not_read_was_not_submitted():
    async with conversing() as place:
        data = await place.files.open("data", c.ORDWR)
        await data.write(b"unread")
        await data.clunk()
        assert place.engine.load.active + place.engine.load.queued == 0
        assert place.engine.steps == 0


@story
async def test_reads_sent_together_get_each_byte_once_and_in_order():
    gate = Gate()
    async with conversing(gate=gate) as place:
        data = await place.files.open("data", c.ORDWR)
        await data.write(b"hi")
        waiting = [reading(data, count=1) for _ in range(15)]
        await turns_of_the_loop()
        gate.open()
        pieces = [(await r).data for r in waiting]
        assert b"".join(pieces) == b"simulated: hi"
        assert pieces[-2:] == [b"", b""]


@story
async def test_refused_queries_fail_the_read_and_leave_the_reason_in_status():
    async with conversing(Limits(prompt_bytes=10)) as place:
        data = await place.files.open("data", c.ORDWR)
        await data.write(b"\xc3")
        with pytest.raises(Error, match="not UTF-8: byte 0xc3 at 0"):
            await data.read(0)
        assert "not UTF-8" in (await place.files.attrs("status"))["error"]
        assert await data.read(0) == b""
        await data.write(b"0123456789")
        with pytest.raises(Error, match="data: more than 10 bytes in one write"):
            await data.write(b"x")
        with pytest.raises(Error, match="data: more than 10 bytes in one write"):
            await data.read(0)
        assert "more than 10 bytes" in (await place.files.attrs("status"))["error"]
        await data.write(b"\xc3")
        await data.write(b"\xa9")
        assert (await answer_of(data)).decode() == "simulated: \u00e9"


@story
async def test_21_an_error_of_the_engine_fails_the_read():
    async with conversing(poison=b"bad") as place:
        data = await place.files.open("data", c.ORDWR)
        await data.write(b"bad")
        for _ in range(2):
            with pytest.raises(Error, match="^the step is poisoned$"):
                await data.read(0)
        assert (await place.files.attrs("status"))["error"] == "the step is poisoned"
        await data.write(b"good")
        assert await answer_of(data) == b"simulated: good"


@story
async def test_a_full_queue_is_ebusy_on_the_read():
    gate = Gate()
    async with conversing(gate=gate, slots=1, max_queue=0) as place:
        await place.files.write("prompt", "runs")
        data = await place.files.open("data", c.ORDWR)
        await data.write(b"one too many")
        with pytest.raises(Busy, match="^Device or resource busy$"):
            await data.read(0)
        assert (await place.files.attrs("status"))["error"] == "Device or resource busy"
        gate.open()
        await place.idle()
        await data.write(b"again")
        assert await answer_of(data) == b"simulated: again"


def test_a_client_that_is_not_ours():
    def glenda(port: int) -> bytes:
        with py9p.Client.connect_tcp("127.0.0.1", port) as client:
            client.negotiate()
            client.attach(0, uname="glenda")
            client.walk(0, 1, ["data"])
            client.open(1, int(py9p.ORDWR))
            client.write(1, b"hel", 0)
            client.write(1, b"lo", 3)
            answer = b""
            while piece := client.read(1, 4, 0):
                answer += piece
            return answer

    async def main():
        async with conversing() as place:
            assert await asyncio.to_thread(glenda, place.address.port) == b"simulated: hello"

    asyncio.run(main())
