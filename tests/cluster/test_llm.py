"""`llm/`: the root's conversations as Infernode's agents know them, by what its programs do.

Each `AGENTS` is what one of them was seen to do in its source, as opens, reads and writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from llambo9p_tools.remote import Remote

from llambo9p.conversation import llm_files
from llambo9p.conversation.limits import Limits
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error, NotFound
from llambo9p.fs.user import User
from llambo9p.net.client import RemoteOpen
from llambo9p.p9 import constants as c
from tests.files import Files, files_of, reading, story, until

from .harness import RunningCluster, cluster, simulated_host


def heard(prompt: str) -> bytes:
    """The last line, and how many were before it."""
    lines = [line for line in prompt.split("\n") if line]
    return f"{lines[-1]} after {len(lines) - 1}".encode()


@contextlib.asynccontextmanager
async def served(gate: Gate | None = None, n_ctx: int = 4096) -> AsyncIterator[RunningCluster]:
    async with (
        cluster() as running,
        simulated_host(1, answer=heard, gate=gate, n_ctx=n_ctx) as host,
    ):
        await running.files.write("ctl", f"mount {host.address}")
        yield running


async def new(files: Files) -> str:
    """As createsession of agentlib.b: one read of 32 bytes."""
    async with await files.open("llm/new") as file:
        said = await file.read(0, 32)
    assert said.endswith(b"\n")
    return f"llm/{said.decode().strip()}"


async def to_the_end(file: RemoteOpen) -> bytes:
    """As `pread` from 0 in steps of 8,192."""
    data = b""
    while piece := await file.read(len(data), 8192):
        data += piece
    return data


# -- what agents do -----------------------------------------------------------------


async def query(ask: RemoteOpen, prompt: str, offset: int) -> tuple[str, int]:
    """As queryllmfd of agentlib.b: a write at the fid's growing offset, and reads from 0."""
    data = prompt.encode()
    for at in range(0, len(data), 8192):  # Inferno's kernel sends no more at once
        await ask.write(data[at : at + 8192], offset + at)
    return (await to_the_end(ask)).decode(), offset + len(data)


@story
async def test_veltro() -> None:
    async with served() as running:
        files = running.files
        session = await new(files)
        for name, value in (("ctl", "autocompact 0"), ("system", "You are Veltro.\n")):
            await files.write(f"{session}/{name}", value, c.OWRITE | c.OTRUNC)
        for missing in ("model", "prefill", "thinking", "tools", "compact"):
            with pytest.raises(NotFound):
                await files.open(f"{session}/{missing}", c.OWRITE)
        ask = await files.open(f"{session}/ask", c.ORDWR)
        said, offset = await query(ask, "first", 0)
        assert said == "first after 1\n"
        said, offset = await query(ask, "second\n", offset)
        assert said == "second after 3\n"
        long = "x" * 20_000
        limit = int((await files.read(f"{session}/usage")).split("/")[1])
        assert limit == 4096
        said, offset = await query(ask, f"{long}\nend", offset)
        assert said.startswith("Error: the prompt has ")
        await files.write(f"{session}/ctl", "close")
        with pytest.raises(NotFound):
            await files.read(f"{session}/usage")
        assert await files.ls("llm") == ["new"]
        ask.forget()


@story
async def test_lucibridge_reads_the_stream_between() -> None:
    async with served() as running:
        files = running.files
        session = await new(files)
        ask = await files.open(f"{session}/ask", c.ORDWR)
        offset = 0
        for number, prompt in enumerate(("first", "second")):
            await ask.write(prompt.encode(), offset)
            offset += len(prompt)
            stream = await files.open(f"{session}/stream")
            streamed = b""
            while piece := await stream.read(len(streamed), 512):
                streamed += piece
            await stream.clunk()
            assert streamed.decode() == f"{prompt} after {2 * number}"
            assert (await to_the_end(ask)).decode() == f"{prompt} after {2 * number}\n"


@story
async def test_p9drive_writes_closes_and_opens_to_read() -> None:
    async with served() as running:
        files = running.files
        number = (await files.read("llm/new")).strip()  # to its end, which makes no second one
        assert await files.ls("llm") == ["new", number]
        await files.write(f"llm/{number}/ask", "hello", c.OWRITE | c.OTRUNC)
        for _ in range(2):
            assert await files.read(f"llm/{number}/ask") == "hello after 0\n"


def test_a_program_of_plan9ports_library() -> None:
    """By py9p: everything again, over one connection that waits for each answer."""

    async def main() -> None:
        async with served() as running:

            def agent() -> None:
                with Remote(running.address) as tree:
                    session = f"llm/{tree.text('llm/new').strip()}"
                    with tree.open(f"{session}/ask", int(c.ORDWR)) as ask:
                        for number, prompt in enumerate((b"first", b"second")):
                            ask.write(prompt, 100 * number)
                            assert b"".join(ask.chunks()) == b"%s after %d\n" % (prompt, 2 * number)
                    assert tree.text(f"{session}/ask") == "second after 2\n"
                    tree.write(f"{session}/ctl", b"close")

            await asyncio.to_thread(agent)
            assert await running.files.ls("llm") == ["new"]

    asyncio.run(main())


# -- file by file -------------------------------------------------------------------


@story
async def test_new_makes_one_for_each_read_at_its_start_and_none_otherwise() -> None:
    async with served() as running:
        files = running.files
        file = await files.open("llm/new")
        assert await files.ls("llm") == ["new"], "to open it makes none"
        with pytest.raises(Error, match="a read must have room for 20 bytes"):
            await file.read(0, 2)
        assert await files.ls("llm") == ["new"]
        first, end, second = [await file.read(offset, 32) for offset in (0, 2, 0)]
        assert (end, first != second) == (b"", True)
        assert await files.ls("llm") == ["new", first.decode().strip(), second.decode().strip()]
        with pytest.raises(Error, match="permission denied"):
            await files.open("llm/new", c.OWRITE)


@story
async def test_it_is_a_view_of_the_same_conversations() -> None:
    async with served() as running:
        files = running.files
        session = await new(files)
        number = session.removeprefix("llm/")
        await files.write(f"{session}/temperature", "1.5")
        await files.write(f"{number}/system", "be brief")
        await files.write(f"{number}/prompt", "asked beside it")
        assert await files.read(f"{session}/ask") == "asked beside it after 1\n"
        await files.write(f"{session}/ask", "asked in it")
        assert await files.read(f"{number}/out") == "asked in it after 3"
        assert "temperature 1.5\n" in await files.read(f"{number}/ctl")
        assert await files.read(f"{session}/system") == "be brief\n"
        assert json.loads(await files.read(f"{session}/context")) == [
            json.loads(line) for line in (await files.read(f"{number}/history")).splitlines()
        ]
        # and each that `clone` made is there, as long as something of it is open
        clone = await files.open("clone", c.ORDWR)
        cloned = (await clone.read_all()).decode().strip()
        ask = await files.open(f"llm/{cloned}/ask", c.ORDWR)
        await clone.clunk()
        await ask.write(b"still here")
        assert await ask.read(0) == b"still here after 0\n"
        await ask.clunk()
        assert await files.ls("llm") == ["new", number]
        assert cloned not in await files.ls()


@story
async def test_settings() -> None:
    async with served() as running:
        files = running.files
        session = await new(files)
        assert await files.read(f"{session}/temperature") == "0.70\n"
        assert await files.read(f"{session}/maxtokens") == "256\n"
        await files.write(f"{session}/maxtokens", " 5\n", c.OWRITE | c.OTRUNC)
        assert await files.read(f"{session}/maxtokens") == "5\n"
        await files.write(f"{session}/ask", "hello")
        assert await files.read(f"{session}/ask") == "hello\n"
        for name, bad in (("temperature", "warm"), ("maxtokens", "0"), ("temperature", b"\xff")):
            with pytest.raises(Error, match=r"must be|not UTF-8"):
                await files.write(f"{session}/{name}", bad)
        assert await files.read(f"{session}/temperature") == "0.70\n"


@story
async def test_context_usage_and_reset() -> None:
    async with served() as running:
        files = running.files
        session = await new(files)
        assert await files.read(f"{session}/context") == "[]\n"
        assert await files.read(f"{session}/usage") == "0/4096\n"
        assert await files.read(f"{session}/ask") == ""
        assert await files.read(f"{session}/stream") == ""
        await files.write(f"{session}/ask", "hé")
        assert await files.read(f"{session}/ask") == "hé after 0\n"
        said = '[{"role":"user","content":"hé"},{"role":"assistant","content":"hé after 0"}]\n'
        assert await files.read(f"{session}/context") == said
        used, limit = map(int, (await files.read(f"{session}/usage")).split("/"))
        assert 10 < used < limit == 4096
        await files.write(f"{session}/ctl", "reset")
        assert await files.read(f"{session}/context") == "[]\n"
        assert await files.read(f"{session}/usage") == "0/4096\n"
        assert await files.read(f"{session}/ask") == ""
        assert await files.read(f"{session}/ctl") == ""
        for bad in ("autocompact 9", "compact", "autocompact"):
            with pytest.raises(Error, match=r"nothing is compacted|unknown verb|usage"):
                await files.write(f"{session}/ctl", bad)


@story
async def test_what_is_asked_is_what_one_fid_wrote() -> None:
    async with served() as running:
        files = running.files
        session = await new(files)
        first = await files.open(f"{session}/ask", c.ORDWR)
        second = await files.open(f"{session}/ask", c.ORDWR)
        await first.write(b"  one ")
        await second.write(b"two")
        await first.write(b"and more\n")
        assert await second.read(0) == b"two after 2\n", "both are asked, in their order"
        context = json.loads(await files.read(f"{session}/context"))
        assert [turn["content"] for turn in context[::2]] == ["one and more", "two"]
        # blank asks nothing, and neither does what a lost connection has written
        for blank in ("", " \n\t"):
            await files.write(f"{session}/ask", blank)
        async with files_of(running.address) as other:
            lost = await other.open(f"{session}/ask", c.OWRITE)
            await lost.write(b"never asked")
        assert await files.read(f"{session}/ask") == "two after 2\n"


@story
async def test_a_read_waits_and_may_be_flushed() -> None:
    gate = Gate()
    async with served(gate) as running:
        files = running.files
        session = await new(files)
        ask = await files.open(f"{session}/ask", c.ORDWR)
        await ask.write(b"slow")
        stream = await files.open(f"{session}/stream")
        waiting, streaming = reading(ask), reading(stream)
        await until(lambda: gate.entered(0))
        waiting.cancel()
        streaming.cancel()
        gate.open()
        assert await ask.read(0) == b"slow after 0\n", "what was flushed stopped nothing"
        assert await stream.read(99) == b"slow after 0"
        assert await stream.read(0) == b""
        assert await stream.read(0) == b""
        await ask.write(b"again")
        assert await to_the_end(ask) == b"again after 2\n"
        assert await stream.read(0) == b"again after 2", "the next answer, for who goes on reading"


@story
async def test_what_goes_wrong_is_read_of_ask() -> None:
    async with served(n_ctx=64) as running:
        files = running.files
        session = await new(files)
        await files.write(f"{session}/ask", "x" * 200)
        said = await files.read(f"{session}/ask")
        assert said.startswith("Error: the prompt has ") and said.endswith("\n")
        with pytest.raises(Error, match="the prompt has"):
            await files.read(f"{session}/stream")
        await files.write(f"{session}/ask", "short")
        assert (await files.read(f"{session}/ask")).startswith("short after")


# -- bounds -------------------------------------------------------------------------


@story
async def test_sessions_that_nobody_closes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_files, "MOST", 3)
    gate = Gate()
    async with served(gate) as running:
        files = running.files
        busy, opened, idle = [await new(files) for _ in range(3)]
        await files.write(f"{busy}/ask", "slow")
        held = await files.open(f"{opened}/usage")
        with pytest.raises(Error, match="you have 3 conversations; write close to the ctl of one"):
            await new(files)
        assert len(await files.ls("llm")) == 4
        monkeypatch.setattr(llm_files, "UNUSED_S", 0.0)
        await asyncio.sleep(0.01)
        last = await new(files)
        left = {f"llm/{name}" for name in await files.ls("llm") if name != "new"}
        assert left == {busy, opened, last}, "who is used by nobody gives way"
        assert idle.removeprefix("llm/") not in await files.ls()
        gate.open()
        held.forget()
        # those of `clone` are not counted here, and end by themselves
        for _ in range(5):
            (await files.open("clone", c.ORDWR)).forget()
        await files.write(f"{busy}/ctl", "close")
        assert await new(files)


@story
async def test_they_count_as_a_users_conversations() -> None:
    async with served() as running:
        running.orchestrator._limits.clones.limit = 2
        files = running.files
        first, _ = [await new(files) for _ in range(2)]
        with pytest.raises(Error, match="more than 2 cloned conversations"):
            await new(files)
        await files.write(f"{first}/ctl", "close")
        await new(files)


@story
async def test_each_user_has_his_own() -> None:
    async with served() as running:
        await new(running.files)
        theirs = running.orchestrator._root_of(User("glenda")).find("llm")
        assert isinstance(theirs, llm_files.LlmDirectory)
        assert [child.name for child in theirs.children] == ["new"]


def test_the_default_limits_allow_it() -> None:
    per_user = Limits().clones.limit
    assert per_user is None or per_user > llm_files.MOST
