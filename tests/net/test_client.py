"""The asyncio client over real sockets: order, cancelling, loss, and fid numbers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from llambo9p.errors import Busy, Error, NotFound, PermissionDenied, WorkerLost
from llambo9p.fs.pending import Pending
from llambo9p.net import client as client_module
from llambo9p.net.address import parse
from llambo9p.net.client import Client
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from tests.files import story

from .serving import LARGE, serving, unix, until


async def parked(client: Client, root: int) -> tuple[asyncio.Task[bytes], int]:
    """A read of `out` that the server has; with its tag."""
    out = await client.open(root, "out", c.OREAD)
    read = asyncio.create_task(out.read(0))
    await asyncio.sleep(0)
    (tag,) = client._conn._expected
    return read, tag


def test_files_are_read_and_written_in_pieces_of_iounit(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(unix(tmp_path)) as site:
            client, root = await site.connect()
            async with await client.open(root, "large", c.OREAD) as large:
                large.iounit = 1000
                assert (await large.read_all()).decode() == LARGE.decode("latin-1")
                assert await large.read(0, 0) == b""
            async with await client.open(root, "out", c.ORDWR) as out:
                out.iounit = 7
                await out.write(b"0123456789" * 5)
                assert site.out.stream.data == b"0123456789" * 5
            assert max(len(w.data) for w in site.seen(m.Twrite)) == 7  # type: ignore[attr-defined]
            client.close()

    asyncio.run(main())


def test_errors_come_back_as_what_they_are() -> None:
    async def main() -> None:
        async with serving() as site:
            client, root = await site.connect()
            with pytest.raises(NotFound):
                await client.open(root, "nowhere", c.OREAD)
            with pytest.raises(NotFound):
                await client.open(root, "slow/../nowhere", c.OREAD)
            with pytest.raises(PermissionDenied):
                await client.open(root, "hello", c.OWRITE)
            client.close()

    asyncio.run(main())


def test_messages_of_one_turn_arrive_in_the_order_of_the_calls() -> None:
    async def main() -> None:
        async with serving() as site:
            client, root = await site.connect()
            site.traced.clear()
            fid = client.new_fid()
            calls = [
                client.call(m.Twalk(0, root, fid, ("out",)), m.Rwalk),
                client.call(m.Topen(0, fid, c.OWRITE), m.Ropen),
                client.call(m.Twrite(0, fid, 0, b"abc"), m.Rwrite),
                client.clunk(fid),
            ]
            await asyncio.gather(*calls)
            assert [type(msg).__name__ for way, msg in site.traced if way == "->"] == [
                "Twalk",
                "Topen",
                "Twrite",
                "Tclunk",
            ]
            client.close()

    asyncio.run(main())


def test_27_there_are_never_more_requests_than_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client with 65,000 fids on a mounted worker hung up, and all others got errors."""
    monkeypatch.setattr(client_module, "ASKED", 6)
    monkeypatch.setattr(client_module, "ENDING", 8)

    async def main() -> None:
        async with serving() as site:
            client, root = await site.connect()
            fids = [client.new_fid() for _ in range(30)]
            for fid in fids:
                await client.call(m.Twalk(0, root, fid, ()), m.Rwalk)
            out = await client.open(root, "out", c.OREAD)
            reads = [asyncio.create_task(out.read(0)) for _ in range(6)]
            await asyncio.sleep(0)
            with pytest.raises(Busy, match="more than 6 requests to tcp!"):
                await client.call(m.Tstat(0, root), m.Rstat)
            ends = [client.clunk(fid).future() for fid in fids]
            assert client._conn.outstanding == 8
            reads[0].cancel()
            await asyncio.gather(*ends)
            await until(lambda: not client._conn._flushing)
            await client.call(m.Tstat(0, root), m.Rstat)
            ends = [client.clunk(fid).future() for fid in fids]
            client.close()
            assert all(
                isinstance(error, WorkerLost)
                for error in await asyncio.gather(*ends, *reads[1:], return_exceptions=True)
            )

    asyncio.run(main())


def test_10_cancelling_a_call_sends_tflush_and_keeps_the_tag_until_rflush() -> None:
    async def main() -> None:
        async with serving() as site:
            client, root = await site.connect()
            read, tag = await parked(client, root)
            read.cancel()
            with pytest.raises(asyncio.CancelledError):
                await read
            await until(lambda: client._conn._flushing)
            meanwhile = client.call(m.Tstat(0, root), m.Rstat)
            assert tag in client._conn._flushed
            await meanwhile
            assert [msg.oldtag for msg in site.seen(m.Tflush)] == [tag]  # type: ignore[attr-defined]
            assert not client._conn._flushing and not client._conn._expected
            assert tag in client._conn._free
            site.out.stream.append(b"nobody waits for it")
            await client.call(m.Tstat(0, root), m.Rstat)
            client.close()

    asyncio.run(main())


@pytest.mark.parametrize("how", ["server closes", "client closes", "server talks nonsense"])
def test_17_every_pending_call_fails_when_the_connection_is_lost(how: str) -> None:
    async def main() -> None:
        async with serving() as site:
            client, root = await site.connect()
            out = await client.open(root, "out", c.OREAD)
            reads = [asyncio.create_task(out.read(i)) for i in range(50)]
            await until(lambda: len(site.seen(m.Tread)) == 50)
            (connection,) = site.server.connections
            match how:
                case "server closes":
                    connection.abort()
                case "client closes":
                    client.close()
                case _:
                    connection.transport.write(m.Rclunk(7000).pack())
            failures = await asyncio.gather(*reads, return_exceptions=True)
            assert len(failures) == 50
            for failure in failures:
                assert isinstance(failure, WorkerLost)
                assert str(site.address) in failure.ename
            await client.lost
            with pytest.raises(WorkerLost):
                await client.call(m.Tstat(0, root), m.Rstat)
            if how == "server talks nonsense":
                assert "broke the protocol: Rclunk for tag 7000" in failures[0].ename  # type: ignore[union-attr]

    asyncio.run(main())


def test_a_client_that_cannot_connect_names_the_address(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        unused = f"tcp!127.0.0.1!{taken.getsockname()[1]}"
        for address in (unused, str(unix(tmp_path)), "tcp!no.such.host.invalid!564"):
            with pytest.raises(WorkerLost, match=f"cannot connect to {address}: "):
                asyncio.run(connect_and_close(address))


async def connect_and_close(address: str) -> None:
    (await Client.connect(parse(address))).close()


def test_a_server_of_another_protocol_version_is_refused() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(19)
        writer.write(m.Rversion(c.NOTAG, 8192, "unknown").pack())
        await reader.read()
        writer.close()
        await writer.wait_closed()
        over.set()

    over = asyncio.Event()

    async def main() -> None:
        server = await asyncio.start_server(other, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Error, match="speaks 'unknown', not 9P2000"):
            await connect_and_close(f"tcp!127.0.0.1!{port}")
        await over.wait()
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize(("is_ours", "at_once"), [(True, 4), (False, 1)])
def test_a_file_is_read_or_written_whole_by_messages_that_are_sent_at_once_to_ours(
    is_ours: bool, at_once: int
) -> None:
    async def main() -> None:
        async with serving() as site:
            client, root = await site.connect()
            client.is_ours = is_ours
            reading = asyncio.ensure_future(client.get(root, "hello"))
            await asyncio.sleep(0)
            assert client._conn.outstanding == at_once
            assert await reading == b"hello, world\n"
            writing = asyncio.ensure_future(client.put(root, "out", b"short"))
            await asyncio.sleep(0)
            assert client._conn.outstanding == at_once
            await writing
            assert site.out.stream.data == b"short"
            await client.put(root, "out", bytes(client.msize))
            assert len(site.out.stream.data) == len(b"short") + client.msize
            assert site.out.ends == ["clunk", "clunk"]
            for path in ("nowhere", "slow/../nowhere"):
                with pytest.raises(NotFound):
                    await client.get(root, path)
            with pytest.raises(PermissionDenied):
                await client.put(root, "hello", b"no")
            (connection,) = site.server.connections
            await until(lambda: set(connection._conn.fids) == {root})
            client.close()

    asyncio.run(main())


@pytest.mark.parametrize("is_ours", [True, False])
def test_28_a_cancelled_open_does_not_give_its_fid_to_the_next_one(is_ours: bool) -> None:
    """The walk is under way when it is cancelled: the fid may or may not come to be."""

    async def main() -> None:
        async with serving() as site:
            client, root = await site.connect()
            client.is_ours = is_ours
            slow = client.new_fid()
            await client.call(m.Twalk(0, root, slow, ("slow",)), m.Rwalk)
            for asked in range(1, 20):
                opening = asyncio.create_task(client.open(slow, "leaf", c.OREAD))
                await until(lambda asked=asked: site.slow.asked == asked)  # type: ignore[misc]
                opening.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await opening
                async with await client.open(root, "hello", c.OREAD) as hello:
                    assert await hello.read_all() == b"hello, world\n"
            client.close()

    asyncio.run(main())


async def _open_and_forget(client: Client, root: int) -> None:
    (await client.open(root, "leaf", c.OREAD)).forget()


async def _get(client: Client, root: int) -> None:
    await client.get(root, "leaf")


@pytest.mark.parametrize("use", [_open_and_forget, _get])
def test_28_an_open_cancelled_at_any_moment_leaves_the_fids_as_they_were(
    use: Callable[[Client, int], Coroutine[None, None, None]],
) -> None:
    async def main() -> None:
        async with serving() as site:
            site.slow.open_up.set()
            client, root = await site.connect()
            slow = client.new_fid()
            await client.call(m.Twalk(0, root, slow, ("slow",)), m.Rwalk)
            (connection,) = site.server.connections
            for turns in range(30):
                opening = asyncio.create_task(use(client, slow))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if opening.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await opening
                else:
                    opening.result()
                async with await client.open(root, "hello", c.OREAD) as hello:
                    assert await hello.read_all() == b"hello, world\n"
            while client._conn._expected:
                await client.call(m.Tstat(0, root), m.Rstat)
                await asyncio.sleep(0)
            assert set(connection._conn.fids) == {root, slow}
            client.close()

    asyncio.run(main())


def test_28_a_number_is_used_again_only_when_its_clunk_is_answered() -> None:
    """A clunk behind an open that waits is answered late."""

    async def main() -> None:
        async with serving() as site:
            client, root = await site.connect()
            slow = client.new_fid()
            await client.call(m.Twalk(0, root, slow, ("slow",)), m.Rwalk)
            fid = client.new_fid()
            walk = client.call(m.Twalk(0, slow, fid, ("leaf",)), m.Rwalk)
            clunk = client.clunk(fid)
            await until(lambda: site.slow.asked)
            assert await (await client.open(root, "hello", c.OREAD)).read(0, 5) == b"hello"
            assert not clunk.over
            site.slow.open_up.set()
            await walk
            await clunk
            await asyncio.sleep(0)
            assert client.new_fid() == fid
            client.close()

    asyncio.run(main())


@story
async def test_a_reply_that_makes_us_ask_again_does_not_take_the_tag_of_one_beside_it() -> None:
    """Both replies come in one segment: with the first, both tags are free."""
    async with serving() as site:
        client, root = await site.connect()
        asked: list[Pending[m.Rstat]] = []
        first = client.ask(m.Tstat(0, root), m.Rstat)
        second = client.ask(m.Twalk(0, root, client.new_fid(), ("hello",)), m.Rwalk)
        first.listen(lambda reply, error: asked.append(client.ask(m.Tstat(0, root), m.Rstat)))
        assert isinstance(await second, m.Rwalk)
        assert isinstance(await asked[0], m.Rstat)
        client.close()


@story
async def test_replies_that_take_long_leave_turns_to_others() -> None:
    """Thousands of replies come in one segment, and whoever asked takes 0.2 ms for each."""
    asked, busy_s = 1000, 0.0002
    async with serving() as site:
        client, root = await site.connect()
        told = 0
        told_in_a_turn: list[int] = []
        before = 0

        def take_long(result: object, error: BaseException | None) -> None:
            nonlocal told
            assert error is None
            told += 1
            end = time.thread_time() + busy_s
            while time.thread_time() < end:
                pass

        def turn() -> None:
            nonlocal before
            told_in_a_turn.append(told - before)
            before = told
            if told < asked:
                asyncio.get_running_loop().call_soon(turn)

        calls = [client.ask(m.Tstat(0, root), m.Rstat) for _ in range(asked)]
        for call in calls:
            call.listen(take_long)
        turn()
        await until(lambda: told == asked)
        await asyncio.sleep(0)
        # SLICE_S is 25 of them; those of two slices, when a turn has both
        assert max(told_in_a_turn) <= 60
        client.close()


@story
async def test_replies_that_came_are_told_of_though_the_connection_is_lost_meanwhile() -> None:
    async with serving() as site:
        client, root = await site.connect()
        ends: list[BaseException | None] = []

        def told(result: object, error: BaseException | None) -> None:
            ends.append(error)
            if len(ends) == 1:
                client.close()
                end = time.monotonic() + 0.01  # longer than a slice
                while time.monotonic() < end:
                    pass

        for _ in range(50):
            client.ask(m.Tstat(0, root), m.Rstat).listen(told)
        await until(lambda: len(ends) == 50)
        assert ends == [None] * 50
