"""Reads and writes that are passed on as they came: what is not plain is not taken, and
nobody can tell which way a message went."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error, Interrupted, NoSpace
from llambo9p.net.client import Client, RemoteOpen
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.dialects import P9_2000
from llambo9p.p9.framing import Framer
from llambo9p.p9.relay import Relayed
from tests.files import Files, files_of, reading, story, turns_of_the_loop, until

from .harness import RunningCluster, cluster, simulated_host

WORKER = "worker-0000"


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_left_of_a_crowd_that_reads_flushes_clunks_and_leaves(seed: int) -> None:
    """Tags of the orchestrator's connection, and fids on the host."""
    rng = random.Random(seed)

    async def one(files: Files) -> None:
        held = []
        for _ in range(rng.randrange(10, 30)):
            name, mode = rng.choice(
                [("status", c.OREAD), ("out", c.OREAD), ("prompt", c.OWRITE), ("data", c.ORDWR)]
            )
            opened = await files.open(f"{WORKER}/{name}", mode)
            held.append(opened)
            under_way: list[asyncio.Future[object]] = []
            for _ in range(rng.randrange(4)):
                if mode != c.OWRITE:
                    under_way.append(reading(opened, rng.choice([0, 0, 5, 10**6])))
                if mode != c.OREAD:
                    write = m.Twrite(0, opened.fid, 0, b"x" * rng.randrange(300))
                    under_way.append(files.client.call(write, m.Rwrite))
            await turns_of_the_loop(rng.randrange(8))
            for future in rng.sample(under_way, rng.randrange(len(under_way) + 1)):
                future.cancel()
            if rng.random() < 0.7:
                held.remove(opened)
                # a prompt that waits behind another needs a conversation's queue
                with contextlib.suppress(Error):
                    await opened.clunk()
            for future in under_way:
                future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if rng.random() < 0.5:
            for opened in held:
                with contextlib.suppress(Error):
                    await opened.clunk()

    async def main() -> None:
        gate = Gate()
        async with cluster() as running, simulated_host(gate=gate) as host:
            await running.files.write("ctl", f"mount {host.address}")
            await running.files.write(f"{WORKER}/prompt", "x")

            def fids() -> int:
                return sum(len(conn._conn.fids) for conn in host.server.connections)

            (member,) = running.orchestrator._members.hosts
            client = member.client
            before = fids()
            async with contextlib.AsyncExitStack() as stack:
                crowd = [
                    await stack.enter_async_context(files_of(running.address)) for _ in range(8)
                ]
                await asyncio.gather(*map(one, crowd))
            await until(lambda: len(running.server.connections) == 1)
            await until(lambda: client._conn.outstanding == 0 and fids() == before)
            assert not client._conn._relayed and not client._conn._expected
            gate.open()
            assert await running.files.ask("still there?", WORKER)

    asyncio.run(main())


@contextlib.asynccontextmanager
async def mounted(gate: Gate | None = None) -> AsyncIterator[RunningCluster]:
    async with cluster() as running, simulated_host(gate=gate) as host:
        await running.files.write("ctl", f"mount {host.address}")
        yield running


@pytest.fixture
def relayed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The types of the messages that were passed on as they were."""
    types: list[int] = []
    relay = Client.relay

    def counting(self: Client, frame: bytes, fid: bytes, whose: Relayed) -> int | None:
        types.append(frame[4])
        return relay(self, frame, fid, whose)

    monkeypatch.setattr(Client, "relay", counting)
    return types


@pytest.mark.usefixtures("relayed")
@story
async def test_a_prompt_and_its_answer_are_passed_on_whole(relayed: list[int]) -> None:
    async with mounted() as running:
        prompt = "".join(chr(0x20 + i % 90) for i in range(1500))
        await running.files.write(f"{WORKER}/ctl", "mode complete\nmax_tokens 5000")
        assert await running.files.ask(prompt, WORKER) == f"simulated: {prompt}"
        assert {m.Tread.number, m.Twrite.number} <= set(relayed)


@story
async def test_errors_come_with_their_words_and_classes() -> None:
    async with mounted() as running:
        files = running.files
        with pytest.raises(Error, match="unknown verb 'frob nicate'|unknown verb frobnicate"):
            await files.write(f"{WORKER}/ctl", "frobnicate")
        out = await files.open(f"{WORKER}/out")
        with pytest.raises(Error, match="not open for writing"):
            await out.write(b"x")
        prompt = await files.open(f"{WORKER}/prompt", c.OWRITE)
        with pytest.raises(Error, match="not open for reading"):
            await prompt.read(0, 5)
        with pytest.raises(NoSpace):
            await prompt.write(bytes(9 << 20))


@story
async def test_a_flush_a_clunk_and_a_lost_host_end_what_was_passed_on() -> None:
    gate = Gate()
    async with mounted(gate) as running:
        files = running.files
        await files.write(f"{WORKER}/prompt", "x")
        (connection,) = running.server.connections
        flushed = reading(await files.open(f"{WORKER}/out"))
        await until(lambda: connection._conn.requests)
        flushed.cancel()
        await until(lambda: not connection._conn.requests)
        (member,) = running.orchestrator._members.hosts
        there = member.client._conn
        await until(lambda: there.outstanding == 0)  # the host has heard of it
        out = await files.open(f"{WORKER}/out")
        clunked = reading(out)
        await out.clunk()
        with pytest.raises(Interrupted):
            await clunked
        lost = reading(await files.open(f"{WORKER}/out"))
        await until(lambda: connection._conn.requests)
        for member in running.orchestrator._members.hosts:
            member.client.close()
        with pytest.raises(Error, match="closed|lost"):
            await lost
        assert not connection._conn.requests
        gate.open()


STATUS_IS_OPEN = [
    [
        m.Tversion(c.NOTAG, 8192, "9P2000").pack(),
        m.Tattach(0, 0, c.NOFID, "", "").pack(),
    ],
    [m.Twalk(0, 0, 1, (WORKER, "status")).pack()],
    [m.Topen(0, 1, c.OREAD).pack()],
]
"""batches for `exchange`; the fid is 1"""


async def exchange(files: Files, *batches: list[bytes]) -> dict[int, m.Message]:
    """The replies, by tag, to frames that a connection of its own sends, each batch in one
    write when the one before is answered."""
    address = files.client.address
    reader, writer = await asyncio.open_connection(address.host, address.port)
    framer, by_tag = Framer(8192), {}
    for batch in batches:
        writer.write(b"".join(batch))
        answered = 0
        while answered < len(batch):
            data = await reader.read(1 << 16)
            assert data
            for frame in framer.feed(data):
                reply = P9_2000.unpack(frame)
                by_tag[reply.tag] = reply
                answered += 1
    writer.close()
    return by_tag


@story
async def test_what_is_not_plain_is_answered_as_ever(relayed: list[int]) -> None:
    async with mounted() as running:
        cut = m.Tread(6, 1, 0, 5).pack()[4:-4]
        replies = await exchange(
            running.files,
            *STATUS_IS_OPEN,
            [
                m.Tread(2, 1, 0, 5).pack(),
                m.Tread(3, 1, 0, 0xFFFF_FFFF).pack(),  # no reply may be as long
                m.Tread(4, 1, 0, 0).pack(),
                m.Twrite(5, 1, 0, b"x").pack(),
                (len(cut) + 4).to_bytes(4, "little") + cut,
                m.Tread(7, 1, 6, 4).pack(),
            ],
        )
        assert relayed == [m.Tread.number] * 2
        assert replies[2] == m.Rread(2, b"state")
        assert replies[7] == m.Rread(7, b"idle")
        assert replies[3].data.startswith(b"state idle")  # type: ignore[attr-defined]
        assert replies[4] == m.Rread(4, b"")
        assert replies[5] == m.Rerror(5, "fid is not open for writing")
        assert replies[6] == m.Rerror(6, "bad Tread: message is too short")


@story
async def test_a_fid_that_is_another_file_now_is_not_passed_on(relayed: list[int]) -> None:
    async with mounted() as running:
        replies = await exchange(
            running.files,
            *STATUS_IS_OPEN,
            [m.Tread(1, 1, 0, 5).pack()],
            [
                m.Tclunk(2, 1).pack(),
                m.Tread(3, 1, 0, 5).pack(),
                m.Twalk(4, 0, 1, ("nodes", WORKER)).pack(),
                m.Tread(5, 1, 0, 5).pack(),
                m.Topen(6, 1, c.OREAD).pack(),
                m.Tread(7, 1, 0, 14).pack(),
            ],
        )
        assert relayed == [m.Tread.number]
        assert replies[3] == m.Rerror(3, "fid unknown or out of range")
        assert replies[5] == m.Rerror(5, "fid is not open for reading")
        assert replies[7] == m.Rread(7, f"id {WORKER}".encode())


@story
async def test_a_tag_in_use_is_refused_and_the_first_request_left_alone() -> None:
    gate = Gate()
    async with mounted(gate) as running:
        client = running.files.client
        await running.files.write(f"{WORKER}/prompt", "x")
        out = await running.files.open(f"{WORKER}/out")
        first = reading(out)
        (connection,) = running.server.connections
        await until(lambda: connection._conn.requests)
        (tag,) = connection._conn.requests
        client._transport.write(m.Tread(tag, out.fid, 0, 5).pack())
        with pytest.raises(Error, match="duplicate tag"):
            await first  # both are answered under one tag: this is the reply to the second
        gate.open()
        assert isinstance(out, RemoteOpen)
