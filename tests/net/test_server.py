"""The asyncio server over real TCP and unix sockets: clients that behave (py9p), and
clients that do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import stat
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import py9p
import pytest
import uvloop

from llambo9p.errors import Error
from llambo9p.net.address import Address, parse
from llambo9p.net.client import Client
from llambo9p.net.server import Connection, Limits, Server
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9 import server as p9
from llambo9p.p9.dialects import P9_2000
from llambo9p.p9.framing import Framer

from .serving import LARGE, LOOPBACK, serving, unix, until

VERSION = m.Tversion(c.NOTAG, 128 * 1024, "9P2000").pack()
ATTACH = m.Tattach(0, 0, c.NOFID, "me", "").pack()
MANY_FILES = 4096
"""open at once: both ends of a thousand connections, and the rest"""


def run_uvloop(main: Coroutine[Any, Any, None]) -> None:
    uvloop.run(main)


both_loops = pytest.mark.parametrize("run", [asyncio.run, run_uvloop], ids=["asyncio", "uvloop"])


def connected(address: Address) -> socket.socket:
    """A raw client, for what no proper client does.  Non-blocking."""
    if address.net == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address.path)
    else:
        sock = socket.create_connection((address.host, address.port))
    sock.setblocking(False)
    return sock


def open_file(fid: int, name: str) -> bytes:
    return m.Twalk(1, 0, fid, (name,)).pack() + m.Topen(2, fid, c.OREAD).pack()


async def replies(sock: socket.socket, count: int) -> list[m.Message]:
    """The next `count` messages."""
    loop, framer = asyncio.get_running_loop(), Framer(1 << 20)
    frames: list[bytes] = []
    while len(frames) < count:
        data = await loop.sock_recv(sock, 1 << 20)
        assert data, "the server closed the connection"
        frames += framer.feed(data)
    return [P9_2000.unpack(frame) for frame in frames]


def py9p_session(client: py9p.Client) -> None:
    client.negotiate()
    client.attach(0)
    client.walk(0, 1, "hello")
    client.open(1)
    assert client.read(1) == b"hello, world\n"
    assert client.stat(1).name == "hello"
    client.walk(0, 2, [])
    client.open(2)
    listing = client.read(2)
    first = listing[: 2 + int.from_bytes(listing[:2], "little")]
    assert py9p.Dir.from_bytes(first).name == "hello"
    with pytest.raises(py9p.RemoteError, match="file does not exist"):
        client.walk(0, 3, "nowhere")
    client.walk(0, 3, "out")
    client.open(3, c.ORDWR)
    assert client.write(3, b"abc") == 3
    assert client.read(3, 10, 0) == b"abc"
    for fid in (1, 2, 3):
        client.clunk(fid)
    client.close()


@pytest.mark.parametrize("net", ["tcp", "unix"])
@both_loops
def test_py9p_is_a_complete_client(run: Any, net: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(unix(tmp_path) if net == "unix" else LOOPBACK) as site:
            address = site.address
            if address.net == "unix":
                client = py9p.Client.connect_unix(address.path)
            else:
                client = py9p.Client.connect_tcp(address.host, address.port)
            await asyncio.to_thread(py9p_session, client)
            assert site.out.ends == ["clunk"]

    run(main())


def test_20_messages_split_over_segments_and_joined_in_one() -> None:
    async def main() -> None:
        async with serving() as site:
            sock = connected(site.address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop = asyncio.get_running_loop()
            stream = VERSION + ATTACH + open_file(1, "hello") + m.Tread(3, 1, 0, 5).pack()
            for i in range(len(stream)):
                await loop.sock_sendall(sock, stream[i : i + 1])
                await asyncio.sleep(0)
            assert (await replies(sock, 5))[-1] == m.Rread(3, b"hello")
            await loop.sock_sendall(sock, stream)
            assert (await replies(sock, 5))[-1] == m.Rread(3, b"hello")
            sock.close()

    asyncio.run(main())


class CountedWrites:
    """A transport that counts what is written to it, and is otherwise the real one."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


def the_connection(server: Server) -> Connection:
    (connection,) = server.connections
    return connection


@both_loops
def test_replies_to_pipelined_messages_leave_in_one_write(run: Any) -> None:
    async def main() -> None:
        async with serving() as site:
            client, root = await site.connect()
            file = await client.open(root, "hello", c.OREAD)
            out = await client.open(root, "out", c.OREAD)
            counted = CountedWrites(the_connection(site.server).transport)
            the_connection(site.server).transport = counted  # type: ignore[assignment]
            assert await asyncio.gather(*(file.read(0, 5) for _ in range(100))) == [b"hello"] * 100
            assert len(counted.writes) == 1
            waiting = asyncio.gather(*(out.read(0, 5) for _ in range(100)))
            await until(lambda: len(site.seen(m.Tread)) == 200)
            site.out.stream.append(b"x")
            assert await waiting == [b"x"] * 100
            assert len(counted.writes) == 2
            client.close()

    run(main())


def test_10_a_flush_that_comes_before_its_request_has_begun_is_answered() -> None:
    """Two segments in one turn of the loop, as uvloop reads them from a full socket."""

    async def main() -> None:
        async with serving() as site:
            sock = connected(site.address)
            await asyncio.get_running_loop().sock_sendall(sock, VERSION + ATTACH)
            await replies(sock, 2)
            connection = the_connection(site.server)
            connection.data_received(m.Twalk(1, 0, 1, ("slow",)).pack())
            connection.data_received(m.Twalk(2, 1, 2, ("leaf",)).pack())
            connection.data_received(m.Tflush(3, 2).pack())
            assert [reply.tag for reply in await replies(sock, 2)] == [1, 3]
            sock.close()

    asyncio.run(main())


@both_loops
def test_30_a_client_that_never_reads_is_not_read_from_and_holds_little(run: Any) -> None:
    limits = Limits(p9.Limits(unsent=256 * 1024))
    count = 1_000

    async def main() -> None:
        async with serving(limits=limits) as site:
            loop = asyncio.get_running_loop()
            greedy = connected(site.address)
            await loop.sock_sendall(greedy, VERSION + ATTACH + open_file(1, "large"))
            await replies(greedy, 4)
            connection = the_connection(site.server)
            asked = asyncio.create_task(
                loop.sock_sendall(greedy, m.Tread(1, 1, 0, len(LARGE)).pack() * count)
            )
            transport: Any = connection.transport
            while not connection._paused:
                await asyncio.sleep(0)
                assert transport.get_write_buffer_size() < 2 * limits.conn.unsent
            answered = len(site.seen(m.Rread))
            assert answered < count / 2

            client, root = await site.connect()
            hello = await client.open(root, "hello", c.OREAD)
            for _ in range(100):
                assert await hello.read(0) == b"hello, world\n"
            assert len(site.seen(m.Rread)) - 100 == answered
            assert not transport.is_reading()

            reply = m.Rread(1, LARGE).pack()
            left = len(reply) * count
            while left:
                left -= len(await loop.sock_recv(greedy, min(left, 1 << 20)))
                assert transport.get_write_buffer_size() < 2 * limits.conn.unsent
            await asked
            await loop.sock_sendall(greedy, m.Tclunk(9, 1).pack())
            assert await replies(greedy, 1) == [m.Rclunk(9)]
            greedy.close()
            client.close()

    run(main())


@both_loops
def test_9_a_client_that_asks_for_much_and_reads_it_fast_takes_turns(run: Any) -> None:
    """Its messages came in one segment; another's is answered before its last."""
    count = 1_000

    async def main() -> None:
        async with serving(limits=Limits(p9.Limits(unsent=256 * 1024))) as site:
            loop = asyncio.get_running_loop()
            client, root = await site.connect()
            hello = await client.open(root, "hello", c.OREAD)
            greedy = connected(site.address)
            await loop.sock_sendall(greedy, VERSION + ATTACH + open_file(1, "large"))
            await replies(greedy, 4)
            site.traced.clear()
            reading = asyncio.create_task(replies(greedy, count))
            await loop.sock_sendall(greedy, m.Tread(1, 1, 0, len(LARGE)).pack() * count)
            await until(lambda: site.traced)
            await hello.read(0, 5)
            assert len(site.seen(m.Rread)) < count / 2
            assert len(await reading) == count
            greedy.close()
            client.close()

    run(main())


@both_loops
@pytest.mark.parametrize(
    "garbage",
    [bytes(4), b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff", b"\x06\0\0\0\x64\0\0"],
    ids=["size 0", "another protocol", "size 4 GB", "size 6"],
)
def test_20_garbage_closes_its_own_connection_and_no_other(
    run: Any, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving() as site:
            loop = asyncio.get_running_loop()
            client, root = await site.connect()
            bad = connected(site.address)
            await loop.sock_sendall(bad, VERSION + ATTACH + open_file(1, "out"))
            await replies(bad, 4)
            await loop.sock_sendall(bad, m.Tread(5, 1, 0, 9).pack() + garbage)
            assert await loop.sock_recv(bad, 100) == b""
            bad.close()
            assert site.out.ends == ["drop"]
            hello = await client.open(root, "hello", c.OREAD)
            assert await hello.read_all() == b"hello, world\n"
            assert len(site.server.connections) == 1
            client.close()

    run(main())
    assert "closing <Connection" in caplog.text


def test_a_malformed_message_is_answered_and_the_connection_goes_on() -> None:
    async def main() -> None:
        async with serving() as site:
            loop = asyncio.get_running_loop()
            sock = connected(site.address)
            unknown = b"\x07\0\0\0\xc8\x07\0"
            short = b"\x08\0\0\0\x78\x08\0\0"
            await loop.sock_sendall(sock, VERSION + unknown + short + ATTACH)
            _, first, second, last = await replies(sock, 4)
            assert first == m.Rerror(7, "unknown message type 200")
            assert second == m.Rerror(8, "bad Tclunk: message is too short")
            assert isinstance(last, m.Rattach)
            sock.close()

    asyncio.run(main())


@both_loops
def test_25_a_client_that_dies_with_a_read_pending_leaves_nothing(run: Any) -> None:
    async def main() -> None:
        async with serving() as site:
            client, root = await site.connect()
            out = await client.open(root, "out", c.OREAD)
            read = asyncio.ensure_future(out.read(0))
            await until(lambda: site.out.stream._waiters)
            connection = the_connection(site.server)
            client.close()
            with pytest.raises(Error, match="connection closed"):
                await read
            await connection.closed
            await until(lambda: not site.out.stream._waiters and not connection._awaited)
            assert site.out.ends == ["drop"]
            assert not site.server.connections

    run(main())


def test_30_a_thousand_idle_connections_are_served_beside_a_busy_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MANY_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (MANY_FILES, hard))

    async def main() -> None:
        async with serving() as site:
            clients = await asyncio.gather(*(Client.connect(site.address) for _ in range(1000)))
            client, root = await site.connect()
            hello = await client.open(root, "hello", c.OREAD)
            assert await hello.read_all() == b"hello, world\n"
            assert len(site.server.connections) == 1001
            for idle in [*clients, client]:
                idle.close()
            await asyncio.gather(*(idle.lost for idle in [*clients, client]))

    asyncio.run(main())


# -- listening --------------------------------------------------------------------


@both_loops
def test_a_stale_unix_socket_is_replaced(run: Any, tmp_path: Path) -> None:
    address = unix(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(address.path)

    async def main() -> None:
        async with serving(address) as site:
            client, _ = await site.connect()
            client.close()

    run(main())
    assert not os.path.exists(address.path)


@both_loops
def test_a_live_unix_socket_is_left_alone(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(unix(tmp_path)) as site:
            with pytest.raises(Error, match=rf"cannot listen on unix!{tmp_path}/9p: .* in use"):
                async with serving(site.address):
                    pass
            client, _ = await site.connect()
            client.close()

    run(main())


def test_a_live_unix_socket_whose_queue_is_full_is_left_alone(tmp_path: Path) -> None:
    address = unix(tmp_path)

    async def main() -> None:
        with pytest.raises(Error, match="in use"):
            async with serving(address):
                pass

    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(address.path)
        busy.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(address.path)
        asyncio.run(main())
    assert stat.S_ISSOCK(os.stat(address.path).st_mode)


@pytest.mark.parametrize("kind", ["file", "directory", "link to a file"])
def test_what_is_no_socket_is_never_removed(kind: str, tmp_path: Path) -> None:
    address = unix(tmp_path)
    path = Path(address.path)
    if kind == "directory":
        path.mkdir()
    else:
        (path if kind == "file" else tmp_path / "other").write_text("precious")
        if kind != "file":
            path.symlink_to(tmp_path / "other")

    async def main() -> None:
        with pytest.raises(Error, match=f"cannot listen on {address}: File exists"):
            async with serving(address):
                pass

    asyncio.run(main())
    assert path.is_dir() or path.read_text() == "precious"


@both_loops
def test_a_port_in_use_is_named(run: Any) -> None:
    async def main() -> None:
        async with serving() as site:
            with pytest.raises(Error, match=f"cannot listen on {site.address}: .*in use"):
                async with serving(site.address):
                    pass

    run(main())


@both_loops
@pytest.mark.parametrize("address", ["tcp!no.such.host.invalid!0", "unix!/no/such/directory/9p"])
def test_an_address_that_cannot_be_listened_on_is_named(run: Any, address: str) -> None:
    async def main() -> None:
        with pytest.raises(Error, match=f"cannot listen on {address}: "):
            async with serving(parse(address)):
                pass

    run(main())


def test_the_port_that_the_kernel_chose_is_told() -> None:
    async def main() -> None:
        async with serving() as one, serving() as other:
            assert one.address.port and other.address.port
            assert one.address != other.address

    asyncio.run(main())


@both_loops
def test_close_answers_what_it_can_and_drops_the_rest(run: Any) -> None:
    async def main() -> None:
        async with serving() as site:
            client, root = await site.connect()
            out = await client.open(root, "out", c.OREAD)
            read = asyncio.ensure_future(out.read(0))
            await until(lambda: site.out.stream._waiters)
        with pytest.raises(Error):
            await read
        await client.lost
        assert site.out.ends == ["drop"]

    run(main())


@both_loops
def test_a_long_text_that_is_open_counts_as_many_fids(run: Any) -> None:
    """Each open has a copy of its own, of 96 KiB here."""

    async def main() -> None:
        async with serving(limits=Limits(p9.Limits(fids=200))) as site:
            client, root = await site.connect()
            opened = [await client.open(root, "large", c.OREAD) for _ in range(2)]
            with pytest.raises(Error, match="more than 200 fids on one connection"):
                await client.open(root, "large", c.OREAD)
            await client.open(root, "hello", c.OREAD)
            await opened[0].clunk()
            again = await client.open(root, "large", c.OREAD)
            assert (await again.read_all()).decode() == LARGE.decode("latin-1")

    run(main())
