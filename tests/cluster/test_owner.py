"""Who the owner is where the server's certificate names another than the account that runs it.

Orchestrator and host listen under TLS with a certificate of `ops`; a user's certificate has the
name of the account that this process runs as.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from llambo9p_tools.commands.cert import cert

from llambo9p.cluster.config import Cluster
from llambo9p.cluster.namespace import Orchestrator
from llambo9p.engine.simulated import SimulatedRunner
from llambo9p.engine.thread import DecodeThread
from llambo9p.errors import AuthenticationFailed, NotFound, PermissionDenied
from llambo9p.fs.user import User, owner
from llambo9p.net.address import Address, parse
from llambo9p.net.client import Client
from llambo9p.net.security import Security, Trust, client_tls, server_tls
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from llambo9p.worker.host import Host
from tests.files import Files, story

ME = owner().name
TLS = parse("tls!127.0.0.1!0")


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ca")
    for words in (["ca"], ["server", "127.0.0.1", "--name", "ops"], ["user", "ops"],
                  ["user", ME], ["user", "alice"]):  # fmt: skip
        done = CliRunner().invoke(cert, [*words, "--dir", str(directory)])
        assert done.exit_code == 0, done.output
    return directory


def trust(ca: Path, name: str) -> Trust:
    return Trust(client_tls(ca / f"{name}.pem", ca / "ca.pem"))


def security(ca: Path) -> Security:
    return Security(tls=server_tls(ca / "server-127.0.0.1.pem", ca / "ca.pem"))


@contextlib.asynccontextmanager
async def files_as(address: Address, trust: Trust, uname: str = "") -> AsyncIterator[Files]:
    client = await Client.connect(address, trust=trust)
    try:
        root, _ = await client.attach(uname)
        yield Files(client, root)
    finally:
        client.close()


@dataclass
class Place:
    orchestrator: Address
    host: Address


@contextlib.asynccontextmanager
async def place(ca: Path, host_at: Address) -> AsyncIterator[Place]:
    """A worker on a host, mounted by an orchestrator; both are of `ops`."""
    engine = DecodeThread(SimulatedRunner(n_ctx=4096, n_seq=4))
    await engine.start()
    host = Host(
        engine, engine.info, node_type="tiny", context_size=4096, shutdown=lambda: None, epoch=1,
        owner=security(ca).owner,
    )  # fmt: skip
    host.grow(1, 0)
    hosts = Server(host.attach, security=security(ca))
    orchestrator = Orchestrator(
        Cluster(), lambda: None, trust=trust(ca, "server-127.0.0.1"), owner=security(ca).owner
    )
    server = Server(orchestrator.attach, security=security(ca))
    try:
        at = await hosts.listen(host_at)
        address = await server.listen(TLS)
        async with files_as(address, trust(ca, "ops")) as ops:
            await ops.write("ctl", f"mount {at}")
        yield Place(address, at)
    finally:
        await orchestrator.close()
        await server.close()
        await hosts.close()
        await engine.stop()


@pytest.fixture(params=["tls", "unix"])
def host_at(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    return TLS if request.param == "tls" else parse(f"unix!{tmp_path}/host")


@story
async def test_a_user_called_like_the_account_is_a_user_like_any_other(
    ca: Path, host_at: Address
) -> None:
    async with place(ca, host_at) as there:
        async with files_as(there.orchestrator, trust(ca, "ops")) as ops:
            for where in ("", "worker-0000/"):
                await ops.write(f"{where}system", "of the owner")
                await ops.ask("what the owner asks", where)
            clone = await ops.open("clone", c.ORDWR)
            number = (await clone.read(0)).decode().strip()
            async with files_as(there.orchestrator, trust(ca, ME)) as same:
                for verb in ("spawn", "drain worker-0000", "unmount worker-0000", "save",
                             "shutdown"):  # fmt: skip
                    with pytest.raises(PermissionDenied):
                        await same.write("ctl", verb)
                for where in ("", "worker-0000/"):
                    for file in ("system", "history", "prompt", "out"):
                        assert "owner" not in await same.read(f"{where}{file}")
                    assert await same.ask("mine", where) == "simulated: mine"
                    uid = {e.name: e.uid for e in await same.entries(where)}["prompt"]
                    assert uid == ME
                for verb in ("drain", "shutdown"):
                    with pytest.raises(PermissionDenied):
                        await same.write("worker-0000/ctl", verb)
                with pytest.raises(NotFound):
                    await same.open(f"{number}/history")
                for file in ("events", "config", "logs/orchestrator"):
                    with pytest.raises(PermissionDenied):
                        await same.open(file)
            assert "mine" not in await ops.read("history")
            assert await ops.read("worker-0000/prompt") == "what the owner asks"


@story
async def test_a_user_called_like_the_account_does_not_administer_a_remote_host(ca: Path) -> None:
    async with place(ca, TLS) as there, files_as(there.host, trust(ca, ME)) as same:
        for path, verb in (("ctl", "grow 1"), ("ctl", "shutdown"), ("worker-0000/ctl", "drain")):
            with pytest.raises(PermissionDenied):
                await same.write(path, verb)
        with pytest.raises(AuthenticationFailed, match=f"this is {ME}, who cannot attach as ops"):
            await same.client.attach("ops")
        async with files_as(there.host, trust(ca, "ops")) as ops:
            await ops.write("ctl", "grow 1")
            assert "worker-0001" in await same.ls()


def test_two_users_of_one_name_are_never_both_served() -> None:
    """Whatever a server says of them."""
    engine = DecodeThread(SimulatedRunner(n_ctx=64, n_seq=1))
    host = Host(
        engine, engine.info, node_type="tiny", context_size=64, shutdown=lambda: None,
        owner=User("ops", admin=True, owner=True),
    )  # fmt: skip
    host.attach(User("ops", admin=True, owner=True), "")
    for stranger in (User("ops"), User("ops", admin=True), User(ME, owner=True)):
        with pytest.raises(AuthenticationFailed, match="has the owner's name, and is another"):
            host.attach(stranger, "")
