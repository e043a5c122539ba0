"""Who a connection is, and as whom it may attach: unix sockets, TLS, plain TCP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import ClassVar

import py9p
import pytest
import uvloop
from click.testing import CliRunner
from llambo9p_tools.commands.cert import cert

from llambo9p.errors import (
    AuthenticationFailed,
    Busy,
    Error,
    InvalidArgument,
    PermissionDenied,
    WorkerLost,
)
from llambo9p.fs.tree import Directory, TextFile, Tree
from llambo9p.fs.user import User, name_of, owner
from llambo9p.net import security, sockets
from llambo9p.net.address import Address, parse
from llambo9p.net.client import Client
from llambo9p.net.security import Peer, Security, Trust, client_tls, server_tls
from llambo9p.net.server import Limits, Server
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9 import server as p9
from llambo9p.p9.dialects import Tattach_u
from tests.files import story
from tests.stranger import stranger

from .serving import LOOPBACK, until

ME = owner().name


class Guest:
    """A server of an empty tree that remembers who attached."""

    def __init__(self, security: Security, limits: Limits | None = None) -> None:
        self.users: list[User] = []
        self.root = Directory(Tree(), "/")
        self.server = Server(self._attach, security=security, limits=limits)

    def _attach(self, user: User, aname: str) -> Directory:
        self.users.append(user)
        return self.root


def make(directory: Path, *words: str) -> None:
    done = CliRunner().invoke(cert, [*words, "--dir", str(directory)])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA's directory with a server's certificate and those of alice and bob."""
    directory = tmp_path_factory.mktemp("ca")
    make(directory, "ca")
    make(directory, "server", "localhost", "127.0.0.1")
    make(directory, "server", "127.0.0.1", "--name", "ops")
    for name in ("alice", "bob", "ops", ME):
        make(directory, "user", name)
    return directory


def context_of(ca: Path, name: str) -> ssl.SSLContext:
    return client_tls(ca / f"{name}.pem", ca / "ca.pem")


def as_(ca: Path, name: str) -> Trust:
    return Trust(context_of(ca, name))


def guarded(ca: Path, **options: list[str]) -> Security:
    return Security(tls=server_tls(ca / "server-localhost.pem", ca / "ca.pem"), **options)


TLS = parse("tls!127.0.0.1!0")


# -- TLS --------------------------------------------------------------------------


@story
async def test_under_tls_the_certificate_says_who_it_is(ca: Path) -> None:
    guest = Guest(guarded(ca, admins=["bob"]))
    address = await guest.server.listen(TLS)
    assert address.net == "tls"
    for name in ("alice", "bob"):
        client = await Client.connect(address, trust=as_(ca, name))
        await client.attach("")
        await client.attach(name)
        client.close()
    assert guest.users == [User("alice"), User("alice"), User("bob", True), User("bob", True)]
    await guest.server.close()


@story
async def test_a_uname_that_differs_from_the_certificates_is_refused(ca: Path) -> None:
    guest = Guest(guarded(ca))
    address = await guest.server.listen(TLS)
    client = await Client.connect(address, trust=as_(ca, "alice"))
    for uname in ("bob", ME, "root", "0", "ALICE"):
        with pytest.raises(AuthenticationFailed, match="this is alice, who cannot attach as"):
            await client.attach(uname)
    assert guest.users == []
    client.close()
    await guest.server.close()


@story
async def test_who_speaks_for_others_may_attach_as_any_user(ca: Path) -> None:
    guest = Guest(guarded(ca, speaks_for=["bob"]))
    address = await guest.server.listen(TLS)
    # a server's certificate is its owner's, who speaks for all, too
    for who in ("bob", "server-localhost"):
        client = await Client.connect(address, trust=as_(ca, who))
        await client.attach("alice")
        client.close()
    assert guest.users == [User("alice"), User("alice")]
    await guest.server.close()


@story
async def test_without_a_certificate_of_the_ca_nobody_gets_in(ca: Path, tmp_path: Path) -> None:
    guest = Guest(guarded(ca))
    address = await guest.server.listen(TLS)
    make(tmp_path, "ca")
    make(tmp_path, "user", "alice")
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.load_verify_locations(ca / "ca.pem")
    assert "does it accept our certificate?" in await _refused(address, Trust(stranger))
    stranger.load_cert_chain(tmp_path / "alice.pem")  # her own CA signed that
    assert "does it accept our certificate?" in await _refused(address, Trust(stranger))
    with pytest.raises(WorkerLost, match="closed|lost"):
        await Client.connect(Address("tcp", address.host, address.port))
    assert guest.users == []
    await guest.server.close()


async def _refused(address: Address, trust: Trust) -> str:
    with pytest.raises(WorkerLost) as e:
        await Client.connect(address, trust=trust)
    return str(e.value)


@story
async def test_a_server_that_is_somebody_else_is_not_believed(ca: Path, tmp_path: Path) -> None:
    make(tmp_path, "ca")
    make(tmp_path, "user", "alice")
    guest = Guest(guarded(ca))
    address = await guest.server.listen(TLS)
    assert "its certificate is not valid" in await _refused(address, as_(tmp_path, "alice"))
    await guest.server.close()
    # a certificate for users makes no server, whoever steals it
    thief = Guest(Security(tls=server_tls(ca / "bob.pem", ca / "ca.pem")))
    address = await thief.server.listen(TLS)
    assert "its certificate is not valid" in await _refused(address, as_(ca, "alice"))
    await thief.server.close()


@story
async def test_a_host_name_that_is_not_in_the_certificate_is_refused(ca: Path) -> None:
    guest = Guest(guarded(ca))
    address = await guest.server.listen(parse("tls!127.0.0.2!0"))
    assert "not valid: IP address mismatch" in await _refused(address, as_(ca, "alice"))
    await guest.server.close()


@story
async def test_tls_without_certificates_says_what_is_missing(ca: Path, tmp_path: Path) -> None:
    guest = Guest(Security())
    missing = "needs a certificate: set security.cert and security.ca"
    with pytest.raises(InvalidArgument, match=missing):
        await guest.server.listen(TLS)
    with pytest.raises(InvalidArgument, match=r"tls!h!1 needs a certificate of ours"):
        await Client.connect(parse("tls!h!1"))
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate\n")
    for cert_path, ca_path, why in (
        (tmp_path / "nowhere", ca / "ca.pem", "nowhere: No such file or directory"),
        (ca / "ca.pem", ca / "ca.pem", "ca.pem: no PEM file with a key and its certificate"),
        (ca / "alice.pem", garbage, "garbage.pem: no PEM file with certificates"),
    ):
        with pytest.raises(InvalidArgument, match=why):
            client_tls(cert_path, ca_path)


class Shown(asyncio.BaseTransport):
    """A connection whose certificate has this name."""

    def __init__(self, name: str) -> None:
        super().__init__({"peercert": {"subject": ((("commonName", name),),)}})


@pytest.mark.parametrize("name", ["0", "1000", "a\0b", "a\nb"])
def test_a_common_name_that_is_a_number_or_not_printable_is_nobody(name: str) -> None:
    """As user `0` alice was root on the hosts, which take a number for a uid."""
    with pytest.raises(AuthenticationFailed, match="is no name"):
        Security().peer(Shown(name))


@pytest.mark.parametrize("name", ["alice", "алиса", "7of9", "alice@example.org"])
def test_other_common_names_are_users(name: str) -> None:
    assert Security().peer(Shown(name)).user("") == User(name)


def test_the_ca_signs_for_no_number_and_is_not_made_by_halves(tmp_path: Path) -> None:
    make(tmp_path, "ca")
    refused = CliRunner().invoke(cert, ["user", "1000", "--dir", str(tmp_path)])
    assert refused.exit_code == 1 and "not digits only" in refused.output
    (tmp_path / "ca.key").unlink()
    refused = CliRunner().invoke(cert, ["ca", "--dir", str(tmp_path)])
    assert refused.exit_code == 1 and "has a CA already: ca.pem" in refused.output
    assert not (tmp_path / "ca.key").exists()


# -- the owner --------------------------------------------------------------------


def of_ops(ca: Path, **options: list[str]) -> Security:
    """Of a server whose certificate names another than the account that runs it."""
    return Security(tls=server_tls(ca / "server-127.0.0.1.pem", ca / "ca.pem"), **options)


@story
async def test_under_tls_the_owner_is_the_name_in_the_servers_certificate(ca: Path) -> None:
    guest = Guest(of_ops(ca))
    address = await guest.server.listen(TLS)
    for who, unames in (("ops", ["", "ops", ME, "alice"]), (ME, ["", ME]), ("alice", [""])):
        client = await Client.connect(address, trust=as_(ca, who))
        for uname in unames:
            await client.attach(uname)
        client.close()
    ops = User("ops", admin=True, owner=True)
    assert guest.users == [ops, ops, User(ME), User("alice"), User(ME), User(ME), User("alice")]
    client = await Client.connect(address, trust=as_(ca, ME))
    for uname in ("ops", "alice", str(os.geteuid() + 1)):
        with pytest.raises(AuthenticationFailed, match=f"this is {ME}, who cannot attach as"):
            await client.attach(uname)
    client.close()
    await guest.server.close()


@story
async def test_a_uid_says_nothing_of_the_owner_under_tls(ca: Path) -> None:
    guest = Guest(of_ops(ca, speaks_for=["bob"]))
    address = await guest.server.listen(TLS)
    client = await Client.connect(address, trust=as_(ca, "bob"))
    await client.attach(str(os.geteuid()))
    assert guest.users == [User(ME)]
    client.close()
    await guest.server.close()


@story
async def test_on_a_unix_socket_the_owner_is_the_uid_of_the_process(
    ca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = User("ops", admin=True, owner=True)
    guest = Guest(of_ops(ca))
    address = await guest.server.listen(parse(f"unix!{tmp_path}/s"))
    client = await Client.connect(address)
    for uname in ("", "ops", str(os.geteuid()), ME):  # the last is a user of that certificate
        await client.attach(uname)
    assert guest.users == [ops, ops, ops, User(ME)]
    client.close()
    # the account that has the name in the certificate does not run the server
    monkeypatch.setattr(security, "peer_uid", lambda sock: 65534)
    monkeypatch.setattr(security, "name_of", lambda uid: "ops" if uid == 65534 else ME)
    with pytest.raises(AuthenticationFailed, match="ops is the name in this server's certificate"):
        await Client.connect(address, trust=Trust(served_by=frozenset({"ops"})))
    await guest.server.close()


def test_a_server_whose_certificate_names_nobody_does_not_start(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/O=Nobody", "-days",
         "9", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")],
        check=True, capture_output=True,
    )  # fmt: skip
    both = tmp_path / "both.pem"
    both.write_text((tmp_path / "key").read_text() + (tmp_path / "cert").read_text())
    with pytest.raises(InvalidArgument, match="both.pem: the certificate has no common name"):
        server_tls(both, tmp_path / "cert")


# -- who serves a unix socket -----------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "served_by", "trusted"),
    [
        (os.geteuid(), [], True),
        (0, [], True),
        (65534, [], False),
        (65534, ["mallory"], True),
        (65534, ["alice", "carol"], False),
    ],
)
@story
async def test_a_unix_socket_is_believed_only_of_those_who_are_trusted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    served_by: list[str],
    trusted: bool,
) -> None:
    guest = Guest(Security())
    address = await guest.server.listen(parse(f"unix!{tmp_path}/s"))
    names = {65534: "mallory"}
    monkeypatch.setattr(security, "name_of", lambda uid: names.get(uid, f"user{uid}"))
    serving = security.peer_uid
    monkeypatch.setattr(security, "peer_uid", lambda sock: uid)
    trust = Trust(served_by=frozenset(served_by))
    if trusted:
        (await Client.connect(address, trust=trust)).close()
        sockets.blocking(address, trust).close()
    else:
        why = r"is served by mallory \(uid 65534\).* name this user in \$LLAMBO_SERVED_BY where"
        with pytest.raises(PermissionDenied, match=why):
            await Client.connect(address, trust=trust)
        with pytest.raises(PermissionDenied, match=why):
            sockets.blocking(address, trust)
    monkeypatch.setattr(security, "peer_uid", serving)
    await guest.server.close()


@story
async def test_a_strangers_unix_socket_hears_nothing_from_us() -> None:
    with stranger() as (address, heard):
        with pytest.raises(PermissionDenied, match=rf"is served by {name_of(65534)} \(uid 65534"):
            await Client.connect(address)
        assert heard() == b""


# -- unix sockets -----------------------------------------------------------------


def peer(name: str, speaks_for_any: bool = False) -> Peer:
    return Peer(Security(admins=["carol"]), name, speaks_for_any)


def test_who_is_known_by_uid_is_that_user_and_no_other() -> None:
    assert peer("alice").user("") == peer("alice").user("alice") == User("alice")
    assert peer("carol").user("").admin
    with pytest.raises(AuthenticationFailed, match="this is alice, who cannot attach as carol"):
        peer("alice").user("carol")
    assert peer("orchestrator", speaks_for_any=True).user("alice") == User("alice")
    assert peer("orchestrator", speaks_for_any=True).user("") == User("orchestrator")


def test_a_number_is_the_user_with_that_uid() -> None:
    assert peer("root", speaks_for_any=True).user("0") == Security().user(name_of(0))
    assert peer("x", speaks_for_any=True).user("3999999999") == User("3999999999")
    for digits in ("4294967296", "9" * 40, "9" * 60_000):
        with pytest.raises(AuthenticationFailed, match="is no uid") as refusal:
            peer("x", speaks_for_any=True).user(digits)
        assert len(str(refusal.value)) < 200
    with pytest.raises(AuthenticationFailed):
        peer("alice").user("0")


@story
async def test_the_owner_of_the_process_speaks_for_all_on_a_unix_socket(tmp_path: Path) -> None:
    guest = Guest(Security())
    address = await guest.server.listen(parse(f"unix!{tmp_path}/s"))
    client = await Client.connect(address, c.VERSION_9P2000_U)
    await client.attach("")
    await client.attach("alice")
    # what Linux sends for a user it has only the number of
    await client.call(Tattach_u(0, client.new_fid(), c.NOFID, "", "", os.geteuid()), m.Rattach)
    assert guest.users == [owner(), User("alice"), owner()]
    client.close()
    await guest.server.close()


_ATTACH = """
import os, sys, py9p
os.setgroups([]); os.setgid(65534); os.setuid(65534)
client = py9p.Client.connect_unix(sys.argv[1])
client.negotiate()
for fid, uname in enumerate(sys.argv[2:]):
    try:
        client.attach(fid, uname=uname)
        print("ok")
    except py9p.RemoteError as e:
        print(e)
client.close()
"""


@story
async def test_another_uid_on_a_unix_socket_is_only_itself() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    guest = Guest(Security())
    nobody = name_of(65534)
    path = Path(f"/tmp/llambo-test-{os.getpid()}.sock")  # pytest's directories are ours alone
    await guest.server.listen(parse(f"unix!{path}"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _ATTACH, str(path), nobody, "root", "alice",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert said.decode().splitlines() == [
        "ok",
        f"authentication failed: this is {nobody}, who cannot attach as root",
        f"authentication failed: this is {nobody}, who cannot attach as alice",
    ]
    assert guest.users == [User(nobody)]
    await guest.server.close()


# -- plain TCP --------------------------------------------------------------------


@story
async def test_on_plain_tcp_everybody_is_the_owner(ca: Path) -> None:
    guest = Guest(guarded(ca))
    address = await guest.server.listen(LOOPBACK)
    client = await Client.connect(address)
    for uname in ("", "nobody", "alice"):
        await client.attach(uname)
    assert guest.users == [owner()] * 3
    client.close()
    await guest.server.close()


# -- limits -----------------------------------------------------------------------


@story
async def test_too_many_connections_are_refused_in_words_and_the_others_go_on() -> None:
    guest = Guest(Security(), Limits(connections=2))
    address = await guest.server.listen(LOOPBACK)
    clients = [await Client.connect(address) for _ in range(2)]
    with pytest.raises(Busy, match="^Device or resource busy: more than 2 connections$"):
        await Client.connect(address)
    for client in clients:
        await client.attach("")
    clients.pop().close()
    await until(lambda: len(guest.server.connections) == 1)
    clients.append(await Client.connect(address))
    for client in clients:
        client.close()
    await guest.server.close()


@story
async def test_one_user_cannot_take_all_connections(ca: Path) -> None:
    guest = Guest(guarded(ca), Limits(connections_per_user=2))
    address = await guest.server.listen(TLS)
    hers = [await Client.connect(address, trust=as_(ca, "alice")) for _ in range(2)]
    with pytest.raises(Busy, match="more than 2 connections of alice"):
        await Client.connect(address, trust=as_(ca, "alice"))
    others = [await Client.connect(address, trust=as_(ca, who))
              for who in ("bob", "server-localhost", "server-localhost", "server-localhost")
              ]  # fmt: skip
    hers.pop().close()
    await until(lambda: len(guest.server.connections) == 5)
    hers.append(await Client.connect(address, trust=as_(ca, "alice")))
    for client in hers + others:
        client.close()
    await guest.server.close()


@story
async def test_one_user_cannot_take_all_fids(ca: Path) -> None:
    guest = Guest(guarded(ca), Limits(fids_per_user=128))
    address = await guest.server.listen(TLS)
    hers = [await Client.connect(address, trust=as_(ca, "alice")) for _ in range(3)]
    for client in hers[:2]:
        for _ in range(64):
            await client.attach("")
    with pytest.raises(Busy, match="busy: more than 128 fids on all connections of alice"):
        await hers[2].attach("")
    others = [await Client.connect(address, trust=as_(ca, "bob"))]
    await others[0].attach("")
    # what a connection had is given back at its end
    hers[0].close()
    await until(lambda: len(guest.server.connections) == 3)
    await hers[2].attach("")
    with pytest.raises(Busy, match="of alice"):
        await hers[1].attach("")
    for client in hers + others:
        client.close()
    await until(lambda: not guest.server.connections)
    assert not guest.server._shares
    await guest.server.close()


@story
async def test_long_texts_that_are_open_count_as_fids_of_their_user(ca: Path) -> None:
    guest = Guest(guarded(ca), Limits(fids_per_user=256))
    guest.root.add(TextFile(guest.root.tree, "text", lambda: "x" * 100 * 1024))
    address = await guest.server.listen(TLS)
    hers = [await Client.connect(address, trust=as_(ca, "alice")) for _ in range(2)]
    roots = [(await client.attach(""))[0] for client in hers]
    for client, root in zip(hers, roots, strict=True):
        await client.open(root, "text", c.OREAD)
    with pytest.raises(Busy, match="more than 256 fids on all connections of alice"):
        await hers[1].open(roots[1], "text", c.OREAD)
    hers[0].close()
    await until(lambda: len(guest.server.connections) == 1)
    await hers[1].open(roots[1], "text", c.OREAD)
    hers[1].close()
    await until(lambda: not guest.server.connections)
    await guest.server.close()


@story
async def test_handshakes_that_never_end_keep_nobody_out(
    ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "HANDSHAKES", 4)
    guest = Guest(guarded(ca))
    address = await guest.server.listen(TLS)
    connecting = [asyncio.open_connection(address.host, address.port) for _ in range(60)]
    burst = await asyncio.gather(*connecting)
    silent = [await asyncio.open_connection(address.host, address.port) for _ in range(10)]
    for reader, writer in burst:
        assert await reader.read() == b""
        writer.close()
    for reader, _ in silent[:6]:  # the oldest make room
        assert await reader.read() == b""
    (listening,) = guest.server._servers
    assert isinstance(listening, sockets.TlsServer)
    assert len(listening.under_way) == 4
    client = await Client.connect(address, trust=as_(ca, "alice"))
    await client.attach("")
    assert len(listening.under_way) == 3
    client.close()
    await guest.server.close()
    for reader, writer in silent[7:]:
        assert await reader.read() == b""
        writer.close()
    for _, writer in silent[:7]:
        writer.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_comes_with_the_end_of_a_handshake_is_not_lost(
    ca: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        guest = Guest(guarded(ca))
        address = await guest.server.listen(TLS)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context_of(ca, "alice").wrap_bio(incoming, outgoing, server_hostname=address.host)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(1 << 16))
        client.write(m.Tversion(c.NOTAG, 8192, "9P2000").pack())
        writer.write(outgoing.read())  # with what ends the handshake
        reply = b""
        while not reply:
            data = await reader.read(1 << 16)
            assert data, "hung up"
            incoming.write(data)
            with contextlib.suppress(ssl.SSLWantReadError):
                reply = client.read()
        assert reply == m.Rversion(c.NOTAG, 8192, "9P2000").pack()
        writer.close()
        await guest.server.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


def test_a_certificate_that_nobody_would_accept_is_refused_at_the_start(
    ca: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Clock(datetime):
        days: ClassVar[int]

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(days=cls.days)

    monkeypatch.setattr(security, "datetime", Clock)
    cert = ca / "server-localhost.pem"
    for Clock.days, why in ((366, "the certificate expired on 20"), (-1, "is valid from 20")):
        with pytest.raises(InvalidArgument, match=f"^{cert}: .*{why}"):
            server_tls(cert, ca / "ca.pem")
    assert not caplog.messages
    Clock.days = 360
    server_tls(cert, ca / "ca.pem")
    assert "server-localhost.pem: the certificate expires on" in caplog.text


@story
async def test_a_name_with_several_addresses_is_listened_at_on_one_port(
    ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    infos = [await loop.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
             for host in ("127.0.0.1", "127.0.0.2", "192.0.2.1")
             ]  # fmt: skip

    async def resolved(*args: object, **options: object) -> list[object]:
        return [info for each in infos for info in each]

    monkeypatch.setattr(loop, "getaddrinfo", resolved)
    guest = Guest(guarded(ca))
    address = await guest.server.listen(parse("tls!several!0"))
    monkeypatch.undo()
    assert address.port
    client = await Client.connect(
        Address("tls", "127.0.0.1", address.port), trust=as_(ca, "alice")
    )
    client.close()
    (await asyncio.open_connection("127.0.0.2", address.port))[1].close()
    with pytest.raises(Error, match=r"cannot listen on tls!127.0.0.1!\d+: Address already in use"):
        await guest.server.listen(Address("tls", "127.0.0.1", address.port))
    with pytest.raises(Error, match="cannot listen on tls!192.0.2.1!0: Cannot assign"):
        await guest.server.listen(Address("tls", "192.0.2.1"))
    await guest.server.close()


@story
async def test_a_handshake_has_as_long_as_a_tversion(ca: Path) -> None:
    guest = Guest(guarded(ca), Limits(version_s=0.1))
    address = await guest.server.listen(TLS)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    assert await reader.read() == b""
    writer.close()
    await guest.server.close()


@story
async def test_refused_connections_that_say_nothing_take_nobodys_place(ca: Path) -> None:
    guest = Guest(guarded(ca), Limits(connections=3, connections_per_user=1))
    address = await guest.server.listen(TLS)
    loop = asyncio.get_running_loop()
    silent = [
        await loop.create_connection(
            asyncio.Protocol, address.host, address.port, ssl=context_of(ca, "alice")
        )
        for _ in range(70)
    ]
    await until(lambda: len(guest.server.refused) == 64 == len(guest.server.connections) - 1)
    for who in ("bob", "server-localhost"):
        client = await Client.connect(address, trust=as_(ca, who))
        await client.attach("")
        client.close()
    for transport, _ in silent:
        transport.abort()
    await until(lambda: not guest.server.connections)
    assert not guest.server.refused
    await guest.server.close()


@story
async def test_who_sends_no_tversion_in_time_is_hung_up_on() -> None:
    guest = Guest(Security(), Limits(version_s=0.1))
    address = await guest.server.listen(LOOPBACK)
    quick = await Client.connect(address)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"\x13")
    assert await reader.read() == b""
    writer.close()
    await quick.attach("")  # later than that, and still there
    quick.close()
    await guest.server.close()


@story
async def test_who_reads_no_replies_for_long_is_hung_up_on() -> None:
    guest = Guest(Security(), Limits(stalled_s=0.2))
    address = await guest.server.listen(LOOPBACK)
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=1)
    writer.write(m.Tversion(c.NOTAG, 8192, "9P2000").pack())
    writer.write(m.Tattach(1, 0, c.NOFID, "", "").pack())
    asking = m.Tstat(1, 0).pack() * 1000
    await until(lambda: guest.server.connections)
    (connection,) = guest.server.connections
    try:
        while guest.server.connections:
            writer.write(asking)
            await asyncio.wait_for(writer.drain(), 0.01)
    except TimeoutError:
        pass
    except ConnectionError:
        return
    await connection.closed
    writer.close()
    await guest.server.close()


@story
async def test_an_msize_outside_the_range_is_refused_or_lowered() -> None:
    guest = Guest(Security(), Limits(p9.Limits(msize=8192, min_msize=1024)))
    address = await guest.server.listen(LOOPBACK)
    client = await Client.connect(address)
    assert client.msize == 8192
    with pytest.raises(Error, match="msize 1023 is below 1024"):
        await client.call(m.Tversion(c.NOTAG, 1023, "9P2000"), m.Rversion)
    client.close()
    await guest.server.close()


def test_py9p_comes_in_by_a_wrapped_socket(ca: Path) -> None:
    """What llamboctl does: the certificate, and no uname."""

    async def main() -> None:
        guest = Guest(guarded(ca))
        address = await guest.server.listen(TLS)

        def visit() -> None:
            plain = socket.create_connection((address.host, address.port))
            tls = context_of(ca, "bob").wrap_socket(plain, server_hostname="localhost")
            with py9p.Client(tls) as p:
                p.negotiate()
                p.attach(0, uname="bob")

        await asyncio.to_thread(visit)
        assert guest.users == [User("bob")]
        await guest.server.close()

    asyncio.run(main())


@story
async def test_who_speaks_is_told_why_however_many_were_refused_and_say_nothing() -> None:
    guest = Guest(Security(), Limits(connections=1))
    address = await guest.server.listen(LOOPBACK)
    served = await Client.connect(address)
    loop = asyncio.get_running_loop()
    silent = [
        await loop.create_connection(asyncio.Protocol, address.host, address.port)
        for _ in range(200)
    ]
    for _ in range(3):
        with pytest.raises(Busy, match="more than 1 connections"):
            await Client.connect(address)
    served.close()
    for transport, _ in silent:
        transport.abort()
    await until(lambda: not guest.server.connections)
    await guest.server.close()
