"""Mounted trees: what a server of ours or of others says comes through unchanged."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator

import pytest
from pyroute2 import Plan9ServerSocket

from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error, NotFound
from llambo9p.net.address import Address
from llambo9p.net.client import Client
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.wire import Qid
from tests.files import Files, files_of, until

from .harness import SimulatedHost, cluster, simulated_host


@contextlib.asynccontextmanager
async def pyroute2_server() -> AsyncIterator[tuple[Plan9ServerSocket, Address]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Plan9ServerSocket(address=("127.0.0.1", port))
    task = await server.async_run()
    try:
        yield server, Address("tcp", "127.0.0.1", port)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def asked(host: SimulatedHost) -> int:
    """Requests that the host's engine has."""
    return host.engine.load.active + host.engine.load.queued


async def qid_of(files: Files, path: str) -> Qid:
    fid = files.client.new_fid()
    reply = await files.client.call(
        m.Twalk(0, files.root, fid, tuple(path.split("/"))), m.Rwalk
    )
    files.client.forget(fid)
    return reply.wqid[-1]


def test_foreign_server_passes_through_unchanged() -> None:
    async def run() -> None:
        async with cluster() as running, pyroute2_server() as (server, address):
            content = bytes(range(256)) * 100
            server.filesystem.create("blob").data.write(content)
            server.filesystem.create("name").data.write("grüße\n".encode())
            files = running.files
            await files.write("ctl", f"mount {address} foreign")
            assert "foreign" in await files.ls()
            assert sorted(await files.ls("foreign")) == ["blob", "name"]
            async with await files.open("foreign/blob") as blob:
                assert await blob.read_all() == content
            assert await files.read("foreign/name") == "grüße\n"
            async with await files.open("foreign/name", c.ORDWR) as name:
                await name.write(b"GR")
            assert await files.read("foreign/name") == "GRüße\n"
            with pytest.raises(Error):
                await files.read("foreign/none")
            assert (await files.attrs("nodes/foreign"))["capacity"] == "0"
            await files.write("ctl", "unmount foreign")
            assert "foreign" not in await files.ls()
            with pytest.raises(NotFound):
                await files.ls("foreign")

    asyncio.run(run())


def test_16_equal_qids_of_two_servers_stay_different() -> None:
    async def run() -> None:
        async with (
            cluster() as running,
            simulated_host(1, 0) as a,
            simulated_host(1, 1) as b,
        ):
            for host in (a, b):
                await running.files.write("ctl", f"mount {host.address}")
            files = running.files
            paths = [
                (await qid_of(files, f"{worker}/{file}")).path
                for worker in ("worker-0000", "worker-0001")
                for file in ("ctl", "out", "data")
            ]
            assert len(set(paths)) == 6
            again = await qid_of(files, "worker-0001/data")
            assert again.path == paths[-1], "bug 15: the same file, the same qid"
            async with files_of(a.address) as direct, files_of(b.address) as other:
                assert (await qid_of(direct, "worker-0000/ctl")).path == (
                    await qid_of(other, "worker-0001/ctl")
                ).path, "the servers themselves do number alike"

    asyncio.run(run())


def test_dotdot_leads_out_of_a_mount_and_never_above_the_root() -> None:
    async def run() -> None:
        async with cluster() as running, simulated_host(2) as host:
            files = running.files
            await files.write("ctl", f"mount {host.address}")
            assert (await qid_of(files, "worker-0000/..")) == (await qid_of(files, ".."))
            assert (await qid_of(files, "worker-0000/../worker-0001/ctl")) == (
                await qid_of(files, "worker-0001/ctl")
            )
            status = await files.read("worker-0000/../../worker-0001/status")
            assert "worker worker-0001\n" in status
            async with files_of(running.address, "worker-0001") as alone:
                assert "worker worker-0001\n" in await alone.read("status")
                assert (await qid_of(alone, "../..")) == (await qid_of(files, "worker-0001"))
                with pytest.raises(NotFound):
                    await alone.read("../nodes/worker-0000")

    asyncio.run(run())


def test_first_bytes_arrive_while_the_worker_decodes() -> None:
    """No answer is buffered whole on the way, neither in a worker's own `out` nor
    in the root's."""

    async def run() -> None:
        answer = b"0123456789" * 5
        for where in ("worker-0000/", ""):
            gate = Gate()
            async with (
                cluster() as running,
                simulated_host(1, answer=lambda prompt: answer, gate=gate) as host,
            ):
                files = running.files
                await files.write("ctl", f"mount {host.address}")
                await files.write(f"{where}prompt", "go")
                async with await files.open(f"{where}out") as out:
                    first = asyncio.ensure_future(out.read(0))
                    while not first.done():
                        gate.allow()
                        await asyncio.wait((first,), timeout=0.01)
                    assert answer.startswith(first.result())
                    assert 0 < len(first.result()) < len(answer)
                    assert host.engine.load.active == 1, "it has not finished decoding"
                    gate.open()
                    assert await out.read_all() == answer

    asyncio.run(run())


def test_17_a_lost_host_answers_every_pending_read_with_an_error() -> None:
    async def run() -> None:
        gate = Gate()
        async with (
            cluster() as running,
            simulated_host(2, gate=gate) as host,
            simulated_host(1, 2) as other,
        ):
            files = running.files
            for each in (host, other):
                await files.write("ctl", f"mount {each.address}")
            reads = []
            for worker in ("worker-0000", "worker-0001"):
                await files.write(f"{worker}/prompt", "wait for ever")
                out = await files.open(f"{worker}/out")
                reads.append(asyncio.ensure_future(out.read(0)))
            host.kill()
            for result in await asyncio.gather(*reads, return_exceptions=True):
                assert isinstance(result, Error)
            with pytest.raises(Error):
                await files.read("worker-0000/status")
            assert (await files.attrs("nodes/worker-0001"))["state"] == "lost"
            assert (await files.attrs("status"))["lost"] == "2"
            assert "worker worker-0002\n" in await files.read("worker-0002/status")

    asyncio.run(run())


def test_walk_that_ends_within_a_mounted_tree_is_partial() -> None:
    """walk(5): the qids of the names that exist; with a worker that is lost, why."""

    async def run() -> None:
        async with cluster() as running, simulated_host() as host:
            files = running.files
            await files.write("ctl", f"mount {host.address}")
            worker = await qid_of(files, "worker-0000")
            for path in ("worker-0000/nope", "worker-0000/nope/prompt"):
                _, walked = await files.walk(path)
                assert walked.wqid == (worker,)
            host.kill()
            with pytest.raises(Error, match="connection closed|lost"):
                await files.walk("worker-0000/nope")

    asyncio.run(run())


def test_mount_of_nobody_says_who_did_not_answer() -> None:
    async def run() -> None:
        async with cluster() as running:
            with pytest.raises(Error, match="cannot connect to tcp!127.0.0.1!1: Conn.* refused"):
                await running.files.write("ctl", "mount tcp!127.0.0.1!1 nobody")
            with pytest.raises(Error, match="bad address 'nowhere'"):
                await running.files.write("ctl", "mount nowhere")
            assert "nobody" not in await running.files.ls()

    asyncio.run(run())


def test_name_in_use_is_refused_and_nothing_is_left_behind() -> None:
    async def run() -> None:
        async with cluster() as running, simulated_host() as host:
            with pytest.raises(Error, match="status exists already"):
                await running.files.write("ctl", f"mount {host.address} status")
            assert (await running.files.attrs("status"))["hosts"] == "0"
            await until(lambda: not host.server.connections)

    asyncio.run(run())


def test_pass_through_flush_reaches_the_worker() -> None:
    """A Tflush of a parked `data` read stops the generation on the host."""

    async def run() -> None:
        gate = Gate()
        async with cluster() as running, simulated_host(
            1, answer=lambda prompt: b"x" * 3000, gate=gate
        ) as host:
            files = running.files
            await files.write("ctl", f"mount {host.address}")
            data = await files.open("worker-0000/data", c.ORDWR)
            await data.write(b"a long question")
            read = asyncio.ensure_future(data.read(0))
            await until(lambda: asked(host))
            read.cancel()
            await files.read("worker-0000/status")  # goes the same way, behind the Tflush
            await until(lambda: gate.allow() or not asked(host))
            assert host.engine.steps <= 2, "of the 256 that the answer would take"
            with pytest.raises(asyncio.CancelledError):
                await read

    asyncio.run(run())


def test_a_walk_that_is_flushed_before_it_begins_leaves_no_fid_on_the_worker() -> None:
    """Twalk and Tflush in one segment: the orchestrator had sent its own Twalk by then."""

    async def run() -> None:
        async with cluster() as running, simulated_host(1) as host:
            files = running.files
            await files.write("ctl", f"mount {host.address}")

            def held() -> int:
                return sum(len(each._conn.fids) for each in host.server.connections)

            await files.read("worker-0000/status")
            before = held()
            for _ in range(20):
                newfid = files.client.new_fid()
                names = ("worker-0000", "status")
                files.client.ask(m.Twalk(0, files.root, newfid, names), m.Rwalk).cancel()
                await files.read("worker-0000/status")  # goes the same way, behind
            await until(lambda: held() <= before)

    asyncio.run(run())


def test_without_workers_the_prompt_fails_and_says_what_to_do() -> None:
    async def run() -> None:
        async with cluster() as running:
            await running.files.write("prompt", "anybody?")
            with pytest.raises(Error, match="no healthy worker; start some with `llamboctl spawn`"):
                await running.files.read("out")
            assert "error no healthy worker" in await running.files.read("status")

    asyncio.run(run())


def test_an_error_of_a_worker_keeps_its_errno() -> None:
    """What Linux makes of it: EINVAL for a bad verb, not EIO."""

    async def run() -> None:
        async with cluster() as running, simulated_host() as host:
            await running.files.write("ctl", f"mount {host.address}")
            client = await Client.connect(running.address, c.VERSION_9P2000_U)
            root, _ = await client.attach("glenda")
            ctl = await client.open(root, "worker-0000/ctl", c.OWRITE)
            with pytest.raises(Error, match="unknown verb nonsense") as refused:
                await ctl.write(b"nonsense")
            assert refused.value.errno == errno.EINVAL
            listing = await client.open(root, "worker-0000", c.OREAD)
            entries = client.dialect.unpack_dirs(await listing.read_all())
            assert "prompt" in {entry.name for entry in entries}
            assert {entry.n_uid for entry in entries} == {os.getuid()}
            client.close()

    asyncio.run(run())


def test_a_walk_flushed_at_any_moment_leaves_no_fid_on_the_host() -> None:
    async def run() -> None:
        async with cluster() as running, simulated_host(1) as host:
            files = running.files
            await files.write("ctl", f"mount {host.address}")
            await files.read("worker-0000/status")

            def fids() -> list[int]:
                return sorted(len(connection._conn.fids) for connection in host.server.connections)

            before = fids()
            for turns in range(60):
                fid = files.client.new_fid()
                twalk = m.Twalk(0, files.root, fid, ("worker-0000", "prompt"))
                walk = files.client.call(twalk, m.Rwalk)
                for _ in range(turns):
                    await asyncio.sleep(0)
                walk.cancel()
                files.client.forget(fid)
            await files.read("worker-0000/status")
            await until(lambda: fids() == before)

    asyncio.run(run())
