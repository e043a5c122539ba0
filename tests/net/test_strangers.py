"""Our clients with a server that is none of ours, and handles requests in any order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from llambo9p.errors import Error, NotFound
from llambo9p.fs.ctl import Command, Commands, CtlFile
from llambo9p.fs.tree import Directory, TextFile, Tree
from llambo9p.mount.attachment import Attachment
from llambo9p.mount.nodes import Node
from llambo9p.net.client import Client
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.dialects import P9_2000_L, Rreaddir
from llambo9p.p9.dotl import DT_DIR, ENTRY
from tests.cluster.harness import cluster, simulated_host
from tests.disorder import Disorder, in_disorder
from tests.files import ANYWHERE, Files, story

DEEP = [f"d{i}" for i in range(20)]


@contextlib.asynccontextmanager
async def foreign() -> AsyncIterator[tuple[Files, list[str], Disorder]]:
    """A client of a foreign tree, which has what was written to its `ctl`, and a deep file."""
    written: list[str] = []
    tree = Tree()
    root = Directory(tree, "/")
    said = Command("say", "WORD", 1, 1, lambda words: lambda: written.append(words[0]))
    root.add(CtlFile(tree, "ctl", lambda: "hello\n", Commands([said]), 0o666))
    directory = root
    for name in DEEP:
        directory = directory.add(Directory(tree, name))
    directory.add(TextFile(tree, "leaf", lambda: "found\n"))
    server = Server(lambda user, aname: root)
    to = await server.listen(ANYWHERE)
    try:
        async with in_disorder(to) as (address, disorder):
            client = await Client.connect(address)
            fid, _ = await client.attach("")
            await client.recognise(fid)
            assert not client.is_ours
            try:
                yield Files(client, fid), written, disorder
            finally:
                client.close()
    finally:
        await server.close()


@story
async def test_nothing_is_asked_of_a_fid_before_it_is_there() -> None:
    async with foreign() as (files, written, disorder):
        for number in range(20):
            assert await files.client.get(files.root, "ctl") == b"hello\n"
            await files.client.put(files.root, "ctl", f"say {number}\n".encode())
            assert await files.read("ctl") == "hello\n"
            with pytest.raises(NotFound):
                await files.client.get(files.root, "nowhere")
        assert written == [str(number) for number in range(20)]
        assert disorder.msizes == [c.STRANGERS_MSIZE]


@story
async def test_a_walk_that_is_given_up_leaves_no_fid() -> None:
    async with foreign() as (files, _, _):
        for _ in range(50):
            walking = asyncio.ensure_future(files.client.walk(files.root, ["ctl"]))
            await asyncio.sleep(0)
            walking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await walking
        fid, _ = await files.client.walk(files.root, [*DEEP, "leaf"])
        with pytest.raises(NotFound):
            await files.client.walk(files.root, [*DEEP, "nowhere"])
        await files.client.call(m.Topen(0, fid, c.OREAD), m.Ropen)
        assert fid < 50, "numbers are used again"


@story
async def test_the_mount_of_a_directory_waits_for_each_reply() -> None:
    async with foreign() as (files, written, _):
        attachment = Attachment(files.client.address, "")
        root = await attachment.root()
        top = Node(1, (), root.qid)
        for number in range(20):
            assert (await attachment.stat(top, "ctl")).name == "ctl"
            assert (await attachment.stat(top, *DEEP, "leaf")).name == "leaf"
            found = await attachment.stat(top, "ctl")
            node = Node(2, ("ctl",), found.qid)
            opened = await attachment.open(node, c.OWRITE)
            await opened.write(f"say {number}\n".encode())
            await opened.clunk()
        assert len(written) == 20
        attachment.close()


@story
async def test_an_orchestrator_that_mounts_it() -> None:
    async with foreign() as (files, written, disorder), cluster() as running:
        await running.files.write("ctl", f"mount {files.client.address} far")
        for number in range(20):
            assert await running.files.read("far/ctl") == "hello\n"
            await running.files.write("far/ctl", f"say {number}\n")
            assert await running.files.ls("/".join(["far", *DEEP[:15]])) == [DEEP[15]]
        assert len(written) == 20
        assert max(disorder.msizes) == c.STRANGERS_MSIZE


@story
async def test_a_server_of_ours_is_recognised() -> None:
    async with cluster() as running, simulated_host() as host:
        await running.files.write("ctl", f"mount {host.address}")
        for address, aname in ((running.address, ""), (host.address, ""),
                               (host.address, "worker-0000@1")):  # fmt: skip
            client = await Client.connect(address)
            fid, _ = await client.attach("", aname)
            await client.recognise(fid)
            assert client.is_ours
            client.close()
        [known] = running.orchestrator._members.hosts
        assert known.client.is_ours
        assert known.client.msize == c.DEFAULT_MSIZE


@story
async def test_a_listing_of_nothing_but_itself_has_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client.gone(ANYWHERE, "only its listings are asked for")
    client._conn.dialect = P9_2000_L
    itself = ENTRY.pack(c.QTDIR, 0, 1, 1, DT_DIR, 1) + b"."

    async def call(asked: m.Message, reply: object) -> Rreaddir:
        return Rreaddir(0, itself * 10)

    monkeypatch.setattr(client, "call", call)
    with pytest.raises(Error, match="a listing is longer than 5000 bytes"):
        await client.read_dir(1, 1000, most=5000)
