"""`prompt`: what one fid writes is one request, and Tclunk alone submits it.

Numbers are those of 9p.md's list of bugs.
"""

from __future__ import annotations

import asyncio

import py9p
import pytest

from llambo9p.conversation.limits import Limits
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Busy, Error, WorkerLost
from llambo9p.net.client import Client
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from tests.files import Files, reading, story, turns_of_the_loop, until

from .harness import conversing

TEXT = "h\u00e9 \u20ac \U0001f600!"


def repeat(prompt: str) -> bytes:
    """A script: the whole rendered prompt comes back."""
    return prompt.encode()


@story
async def test_1_a_prompt_longer_than_msize_is_one_request():
    asked: list[str] = []

    def answer(prompt: str) -> bytes:
        asked.append(prompt)
        return b"ok"

    async with conversing(answer=answer, msize=512) as place:
        prompt = "".join(f"{i} " for i in range(600))
        assert len(prompt) > 4 * place.files.client.msize
        assert await place.files.ask(prompt) == "ok"
        assert asked == [prompt]
        assert await place.files.read("prompt") == prompt


@story
async def test_1_twrites_join_whatever_their_size_and_offset():
    async with conversing(answer=repeat) as place:
        file = await place.files.open("prompt", c.OWRITE)
        for piece, offset in ((b"on", 0), (b"", 2), (b"e ", 77), (b"prompt", 0)):
            call = place.files.client.call(m.Twrite(0, file.fid, offset, piece), m.Rwrite)
            assert (await call).count == len(piece)
        assert await place.files.read("out") == "", "nothing is submitted before the Tclunk"
        await file.clunk()
        assert await place.files.read("out") == "one prompt"


@pytest.mark.parametrize("at", range(1, len(TEXT.encode())))
def test_2_a_character_may_be_split_between_twrites(at):
    async def main():
        async with conversing(answer=repeat) as place:
            file = await place.files.open("prompt", c.OWRITE)
            await file.write(TEXT.encode()[:at])
            await file.write(TEXT.encode()[at:])
            await file.clunk()
            assert await place.files.read("out") == TEXT

    asyncio.run(main())


@story
async def test_2_what_is_not_utf8_is_refused_and_says_where():
    async with conversing() as place:
        await place.files.write("prompt", b"good \xff bad")
        with pytest.raises(Error, match="not UTF-8: byte 0xff at 5"):
            await place.files.read("out")
        assert (await place.files.attrs("status"))["error"] == "not UTF-8: byte 0xff at 5"
        await place.files.write("prompt", TEXT.encode()[:-2])
        with pytest.raises(Error, match="not UTF-8: byte 0xf0 at 8"):
            await place.files.read("out")
        assert await place.files.ask("hi") == "simulated: hi", "it does no lasting harm"


def test_1_and_2_with_a_client_that_is_not_ours():
    def glenda(port: int, got: list[bytes]) -> None:
        with py9p.Client.connect_tcp("127.0.0.1", port, msize=256) as client:
            client.negotiate()
            client.attach(0, uname="glenda")
            client.walk(0, 1, ["prompt"])
            client.open(1, int(py9p.OWRITE))
            text = (TEXT * 40).encode()
            for at in range(0, len(text), 100):
                client.write(1, text[at : at + 100], at)
            client.clunk(1)
            client.walk(0, 1, ["out"])
            client.open(1, int(py9p.OREAD))
            answer = b""
            while piece := client.read(1, 7, len(answer)):
                answer += piece
            got.append(answer)

    async def main():
        async with conversing(answer=repeat) as place:
            await place.files.write("ctl", "max_tokens 2000")
            got: list[bytes] = []
            await asyncio.to_thread(glenda, place.address.port, got)
            assert got[0].decode() == TEXT * 40

    asyncio.run(main())


@story
async def test_4_a_second_prompt_holds_the_first_only_as_history():
    asked: list[str] = []

    def answer(prompt: str) -> bytes:
        asked.append(prompt)
        return b"answer %d" % len(asked)

    async with conversing(answer=answer) as place:
        await place.files.ask("first\n")
        await place.files.ask("second\n")
        assert asked == ["first", "first\n\nanswer 1\n\nsecond"]
        await place.files.write("ctl", "mode complete")
        await place.files.ask("third")
        assert asked[2] == "third"


@story
async def test_4_a_second_prompt_queues_behind_the_running_one():
    gate = Gate()
    asked: list[str] = []

    def answer(prompt: str) -> bytes:
        asked.append(prompt)
        return b"ab"

    async with conversing(answer=answer, gate=gate) as place:
        await place.files.write("prompt", "first")
        first = await place.files.open("out")
        gate.allow()
        assert await first.read(0) == b"a"
        await place.files.write("prompt", "second")
        second = await place.files.open("out")
        waiting = reading(second)
        status = await place.files.attrs("status")
        assert (status["state"], status["queued"]) == ("decode", "1")
        assert place.engine.load.active + place.engine.load.queued == 1
        assert asked == ["first"]
        gate.open()
        assert await first.read_all() == b"ab"
        assert (await waiting).data
        assert asked == ["first", "first\n\nab\n\nsecond"]
        assert await second.read_all() == b"ab"


@story
async def test_a_chat_drops_one_trailing_newline_and_complete_keeps_every_byte():
    asked: list[str] = []

    class Engine:
        """Keeps what it is asked, and does not answer."""

        def submit(self, request, listener):
            asked.append(request.prompt)

        def cancel(self, request): ...

        def forget(self, conversation): ...

    async with conversing() as place:
        place.conversation._engine = Engine()
        for mode, prompt in (("chat", "two\n\n"), ("chat", "none"), ("complete", " kept\n\n")):
            await place.files.write("ctl", f"mode {mode}\nreset")
            await place.files.write("prompt", prompt)
        assert [p if isinstance(p, str) else p[0].content for p in asked] == [
            "two\n",
            "none",
            " kept\n\n",
        ]


@story
async def test_nothing_written_nothing_submitted():
    async with conversing() as place:
        assert await place.files.ask("one") == "simulated: one"
        for mode in (c.OWRITE, c.OWRITE | c.OTRUNC, c.ORDWR):
            file = await place.files.open("prompt", mode)
            await file.clunk()
        await place.files.truncate("prompt")
        await place.files.write("prompt", b"")
        file = await place.files.open("prompt", c.OWRITE)
        await place.files.client.call(m.Twrite(0, file.fid, 0, b""), m.Rwrite)
        await file.clunk()
        assert await place.files.read("out") == "simulated: one"
        assert (await place.files.attrs("status"))["turns"] == "1"


@story
async def test_a_disconnect_before_tclunk_discards_what_was_written():
    async with conversing() as place:
        async with place.connect() as other:
            file = await other.open("prompt", c.OWRITE)
            await file.write(b"never said")
        await until(lambda: len(place.server.connections) == 1)
        assert place.conversation.newest is None
        assert await place.files.read("out") == ""


@story
async def test_a_tversion_before_tclunk_discards_what_was_written():
    async with conversing() as place, place.connect() as other:
        file = await other.open("prompt", c.OWRITE)
        await file.write(b"never said")
        await other.client.call(m.Tversion(c.NOTAG, 8192, c.VERSION_9P2000), m.Rversion)
        assert place.conversation.newest is None
        root, _ = await other.client.attach("glenda")
        assert await Files(other.client, root).ask("said") == "simulated: said"


@story
async def test_a_tremove_discards_what_was_written():
    async with conversing() as place:
        file = await place.files.open("prompt", c.OWRITE)
        await file.write(b"never said")
        with pytest.raises(Error, match="in use"):
            await place.files.client.remove(file.fid)
        assert place.conversation.newest is None


@story
async def test_25_a_request_outlives_the_writer_that_clunked():
    gate = Gate()
    async with conversing(gate=gate) as place:
        async with place.connect() as other:
            await other.write("prompt", "stay")
        await until(lambda: len(place.server.connections) == 1)
        gate.open()
        assert await place.files.read("out") == "simulated: stay"


@story
async def test_a_whole_transaction_may_be_sent_without_waiting():
    """Walk, open, writes and clunk in one go, then the connection goes."""
    async with conversing() as place:
        client = await Client.connect(place.address)
        root, _ = await client.attach("glenda")
        fid = client.new_fid()
        client.call(m.Twalk(0, root, fid, ("prompt",)), m.Rwalk)
        client.call(m.Topen(0, fid, c.OWRITE), m.Ropen)
        client.call(m.Twrite(0, fid, 0, b"in a "), m.Rwrite)
        client.call(m.Twrite(0, fid, 5, b"hurry"), m.Rwrite)
        await client.clunk(fid)
        client.close()
        assert await place.files.read("out") == "simulated: in a hurry"


@story
async def test_4_prompts_of_two_fids_do_not_mix():
    async with conversing(answer=repeat) as place, place.connect() as other:
        mine = await place.files.open("prompt", c.OWRITE)
        theirs = await other.open("prompt", c.OWRITE)
        for i in range(4):
            await mine.write(b"a%d" % i)
            await theirs.write(b"b%d" % i)
        await mine.clunk()
        assert await place.files.read("out") == "a0a1a2a3"
        await theirs.clunk()
        assert (await place.files.read("out")).split("\n\n")[-1] == "b0b1b2b3"


@story
async def test_a_prompt_larger_than_the_limit_is_refused_and_not_cut():
    async with conversing(Limits(prompt_bytes=10)) as place:
        too_long = "^No space left on device: prompt: more than 10 bytes in one write$"
        file = await place.files.open("prompt", c.OWRITE)
        await file.write(b"012345678")
        for piece in (b"xx", b"x"):
            with pytest.raises(Error, match=too_long):
                await file.write(piece)
        with pytest.raises(Error, match=too_long):
            await file.clunk()
        assert await place.files.read("out") == "", "a prompt cut short is not asked"
        assert "more than 10 bytes" in (await place.files.attrs("status"))["error"]
        assert await place.files.ask("0123456789") == "simulated: 0123456789"


@story
async def test_a_prompt_larger_than_the_context_fails_with_both_numbers():
    async with conversing(n_ctx=128) as place:
        await place.files.write("prompt", "x" * 200)
        with pytest.raises(Error, match="203 tokens.*128"):
            await place.files.read("out")
        assert "203 tokens" in (await place.files.attrs("status"))["error"]


@story
async def test_a_full_engine_queue_is_ebusy_on_out():
    gate = Gate()
    async with conversing(gate=gate, slots=1, max_queue=1) as place:
        n0 = await place.files.open("clone", c.ORDWR)
        n1 = await place.files.open("clone", c.ORDWR)
        await place.files.write("0/prompt", "runs")
        await place.files.write("1/prompt", "waits")
        await place.files.write("prompt", "one too many")
        with pytest.raises(Busy, match="^Device or resource busy$"):
            await place.files.read("out")
        assert (await place.files.attrs("status"))["error"] == "Device or resource busy"
        gate.open()
        assert await place.files.read("0/out") == "simulated: runs"
        assert await place.files.read("1/out") == "simulated: waits"
        assert await place.files.ask("again") == "simulated: again"
        await n0.clunk()
        await n1.clunk()


@story
async def test_a_full_conversation_queue_is_ebusy_and_the_others_are_answered():
    gate = Gate()
    async with conversing(Limits(queued_prompts=2), gate=gate) as place:
        outs = []
        for i in range(4):
            await place.files.write("prompt", str(i))
            outs.append(await place.files.open("out"))
        with pytest.raises(Busy, match="^Device or resource busy$"):
            await outs[3].read(0)
        gate.open()
        for i in range(3):
            assert await outs[i].read_all() == b"simulated: %d" % i
        assert (await place.files.attrs("status"))["turns"] == "3"


@story
async def test_many_queued_prompts_that_all_fail_fail_one_by_one():
    """Each failure starts the next; none is lost, and the stack does not grow."""
    gate = Gate()
    async with conversing(Limits(queued_prompts=400), gate=gate, slots=1, max_queue=0) as place:
        await place.files.write("prompt", "runs")
        first = await place.files.open("out")
        for _ in range(400):
            place.conversation.submit(b"waits")
        last = await place.files.open("out")
        place.engine._refusal = lambda: WorkerLost("the engine was lost")
        gate.open()
        assert await first.read_all() == b"simulated: runs"
        with pytest.raises(Error, match="the engine was lost"):
            await last.read(0)
        await turns_of_the_loop()
        assert (await place.files.attrs("status"))["queued"] == "0"
        place.engine._refusal = None
