"""What other servers may answer for a client that does not read: as much as we would."""

from __future__ import annotations

import asyncio
import socket

import pytest

from llambo9p.engine.simulated import Gate
from llambo9p.errors import Busy
from llambo9p.net.address import Address
from llambo9p.net.client import UNSENT, Client
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.dialects import P9_2000
from llambo9p.p9.framing import Framer
from tests.files import Files, reading, story, until

from .harness import RunningCluster, cluster, simulated_host

WORKER = "worker-0000"
COUNT = 128 * 1024 - c.IOHDRSZ
READS = 100
"""of COUNT bytes each: 13 MB"""


async def greedy(address: str, port: int, names: tuple[str, ...], reads: int) -> socket.socket:
    """A client that asks for a file many times at once, and reads no reply."""
    sock = socket.create_connection((address, port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
    hello = [
        m.Tversion(c.NOTAG, 128 * 1024, "9P2000"),
        m.Tattach(0, 0, c.NOFID, "", ""),
        m.Twalk(1, 0, 1, names),
        m.Topen(2, 1, c.OREAD),
    ]
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    await loop.sock_sendall(sock, b"".join(msg.pack() for msg in hello))
    framer, frames = Framer(1 << 20), 0
    while frames < len(hello):
        frames += len(framer.feed(await loop.sock_recv(sock, 4096)))
    asked = b"".join(m.Tread(tag, 1, 0, COUNT).pack() for tag in range(3, 3 + reads))
    await loop.sock_sendall(sock, asked)
    return sock


async def drained(sock: socket.socket, count: int) -> list[m.Message]:
    loop, framer = asyncio.get_running_loop(), Framer(1 << 20)
    frames: list[bytes] = []
    while len(frames) < count:
        frames += framer.feed(await loop.sock_recv(sock, 1 << 20))
    return [P9_2000.unpack(frame) for frame in frames]


def buffered(running: RunningCluster) -> int:
    """Bytes of replies that clients have not read."""
    return sum(
        each.transport.get_write_buffer_size() + each._conn._unsent
        for each in running.server.connections
    )


@pytest.fixture(params=["relayed", "taken apart"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways that a read has to another server."""
    if request.param == "taken apart":
        monkeypatch.setattr(Client, "relay", lambda self, frame, fid, whose: None)
    return str(request.param)


async def quiet(running: RunningCluster) -> None:
    """Until nothing is under way any more between the orchestrator and its hosts."""
    (member,) = running.orchestrator._members.hosts
    conn = member.client._conn
    for _ in range(20):
        await until(lambda: conn.outstanding == 0)
        await asyncio.sleep(0.005)


@pytest.mark.usefixtures("way")
@story
async def test_no_more_is_relayed_to_who_does_not_read_than_we_would_answer() -> None:
    async with cluster() as running, simulated_host() as host:
        await running.files.write("ctl", f"mount {host.address}")
        text = "x" * (2 << 20)
        await running.files.write(f"{WORKER}/system", text)
        at = running.address
        sock = await greedy(at.host, at.port, (WORKER, "system"), READS)
        try:
            await quiet(running)
            connection = next(each for each in running.server.connections if each._paused)
            most = connection._conn.limits.unsent + 4 * COUNT
            assert buffered(running) <= most
            assert await running.files.read(f"{WORKER}/system") == text + "\n", "others read on"
            replies = await drained(sock, READS)
            assert [reply.tag for reply in replies] == list(range(3, 3 + READS))
            assert {reply.data for reply in replies if isinstance(reply, m.Rread)} == {
                text[:COUNT].encode()
            }
        finally:
            sock.close()


@pytest.mark.usefixtures("way")
@story
async def test_reads_that_block_hold_up_no_others() -> None:
    """100 reads of 128 KB wait for an answer; the next ones of the same connection go on."""
    gate = Gate()
    async with cluster() as running, simulated_host(gate=gate) as host:
        files: Files = running.files
        await files.write("ctl", f"mount {host.address}")
        await files.write(f"{WORKER}/prompt", "x")
        await files.write(f"{WORKER}/system", "x" * 300_000)
        outs = [await files.open(f"{WORKER}/out") for _ in range(100)]
        blocked = [reading(out, 0, COUNT) for out in outs]
        for _ in range(3):
            assert len(await files.read(f"{WORKER}/system")) == 300_001
        assert not any(read.done() for read in blocked)
        gate.open()
        assert {(await read).data[:1] for read in blocked} == {b"s"}


@story
async def test_a_read_that_is_held_can_be_flushed_and_its_fid_goes_on() -> None:
    gate = Gate()
    async with cluster() as running, simulated_host(gate=gate) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        await files.write(f"{WORKER}/prompt", "x")
        outs = [await files.open(f"{WORKER}/out") for _ in range(40)]
        reads = [reading(out, 0, COUNT) for out in outs]
        for read in reads[::2]:
            read.cancel()
        connection = next(iter(running.server.connections))
        await until(lambda: len(connection._conn.requests) == 20)
        ends = [out.clunk() for out in outs[1::2]]
        await asyncio.gather(*ends)
        assert not connection._conn.requests
        assert connection._conn.relays.promised == 0
        gate.open()


@story
async def test_a_host_that_does_not_read_gets_no_more_than_a_bound() -> None:
    """What is written to it is refused, and the orchestrator holds no more of it."""
    release = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers Tversion, and reads nothing after it."""
        frame = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "little") - 4)
        assert frame
        writer.write(m.Rversion(c.NOTAG, 128 * 1024, "9P2000").pack())
        await release.wait()
        writer.close()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=4096)
    port = server.sockets[0].getsockname()[1]
    client = await Client.connect(Address("tcp", "127.0.0.1", port))
    refused = 0
    for _ in range(1000):
        write = client.ask(m.Twrite(0, 1, 0, bytes(COUNT)), m.Rwrite)
        await asyncio.sleep(0)
        if write.over:
            with pytest.raises(Busy, match="does not read its requests"):
                await write
            refused += 1
        assert client._transport.get_write_buffer_size() < UNSENT + 2 * COUNT
    assert refused > 500
    client.close()
    release.set()
    server.close()
