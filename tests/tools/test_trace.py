"""`llamboctl trace` between real clients and servers: what it passes on, what it writes
down, and how it ends."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from llambo9p_tools.commands.cert import cert

from llambo9p.net.security import server_tls
from llambo9p.p9.messages import Tversion
from tests.clients.cluster import Namespace
from tests.p9.recording import world_served
from tests.p9.transcript import playing

from .cluster import COMMAND, environment, llamboctl

NO_SUCH = b"\7\0\0\0\x63\1\0"
"""a frame, but no message"""


class Tracing:
    """`llamboctl trace`, running."""

    def __init__(self, *args: str, **env: str) -> None:
        self.process = subprocess.Popen(
            # a shell's background job, and so its tests, would ignore SIGINT
            ["env", "--default-signal=INT", *COMMAND, "trace", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**env),
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self.stdout, self.stderr = self.process.stdout, self.process.stderr
        line = self.stderr.readline()
        assert line.startswith("listening on "), line
        self.address = line.split()[-1]

    @property
    def port(self) -> int:
        return int(self.address.rsplit("!", 1)[1])

    def interrupt(self) -> list[str]:
        """^C; what was on stdout until then.  Nothing may be on stderr."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=10)
        assert (self.process.returncode, err) == (130, "")
        return out.splitlines()


@contextlib.contextmanager
def tracing(*args: str, **env: str) -> Iterator[Tracing]:
    tracing = Tracing(*args, **env)
    with tracing.process:
        try:
            yield tracing
        finally:
            tracing.process.kill()


@contextlib.contextmanager
def plain_server() -> Iterator[tuple[socket.socket, str]]:
    """A socket that listens, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server, f"tcp!127.0.0.1!{server.getsockname()[1]}"


def connect(tracing: Tracing) -> socket.socket:
    return socket.create_connection(("127.0.0.1", tracing.port), timeout=10)


def test_a_real_client_is_served_and_its_transcript_can_be_played(tmp_path: Path) -> None:
    directory = tmp_path / "transcripts"
    with world_served() as server, tracing(str(server), "--output", str(directory)) as traced:
        with Namespace(traced.port) as ns:
            assert ns.read("hello") == b"hello, world\n"
            ns.write("ctl", b"set one\n")
            assert ns.read("ctl") == b"set one\n"
        with Namespace(traced.port) as ns:
            assert ns.read("dir/a") == b"a"
        assert traced.interrupt() == []
    first, second = (directory / name for name in ("1.txt", "2.txt"))
    assert sorted(directory.iterdir()) == [first, second]
    for path in (first, second):
        assert path.read_text().endswith("\n! lost\n")
        with playing() as player:
            player.play(path.read_text())
    assert '<- Rread tag 3 data "hello, world\\n"\n' in first.read_text()


def test_on_stdout_each_line_has_its_connection_s_number() -> None:
    with world_served() as server, tracing(str(server), "--max-data", "5") as traced:
        with Namespace(traced.port) as one, Namespace(traced.port) as two:
            assert two.read("hello") == one.read("hello") == b"hello, world\n"
        lines = traced.interrupt()
    hello = '-> Tversion tag NOTAG msize 8192 version "9P2000"'
    assert [line for line in lines if "Tversion" in line] == [f"1 {hello}", f"2 {hello}"]
    assert '2 <- Rread tag 3 data "hello"... of 13 bytes' in lines
    assert {"1 ! lost", "2 ! lost"} <= set(lines)


def test_what_is_no_9p_is_passed_on_too(tmp_path: Path) -> None:
    with plain_server() as (server, address), tracing(address) as traced:
        with connect(traced) as client:
            there, _ = server.accept()
            with there:
                client.sendall(NO_SUCH + b"GET / HTTP/1.1\r\n")
                assert there.recv(100) == NO_SUCH + b"GET / HTTP/1.1\r\n"
                there.sendall(b"hey")
                assert client.recv(100) == b"hey"
                there.shutdown(socket.SHUT_WR)
                assert client.recv(100) == b""
        assert [traced.stdout.readline() for _ in range(4)] == [
            "1 -> hex 07000000630100 # unknown message type 99\n",
            "1 -> hex 474554202f20485454502f312e310d0a # frame of 542393671 bytes, must be 7 "
            "to 16777216 (msize)\n",
            "1 <- hex 686579 # a frame that was not finished\n",
            "1 ! lost\n",
        ]
        assert traced.interrupt() == []


def test_a_side_that_says_no_more_is_still_answered() -> None:
    with plain_server() as (server, address), tracing(address) as traced:
        with connect(traced) as client:
            there, _ = server.accept()
            with there:
                client.sendall(NO_SUCH)
                client.shutdown(socket.SHUT_WR)
                assert there.recv(100) == NO_SUCH and there.recv(100) == b""
                there.sendall(b"late")
                assert client.recv(100) == b"late"
            assert client.recv(100) == b""


@pytest.mark.parametrize("way", ["to the client", "to the server"])
def test_who_does_not_read_holds_up_only_who_sends(way: str, tmp_path: Path) -> None:
    files = ("--output", str(tmp_path / "out"), "--max-data", "1")
    with plain_server() as (server, address), tracing(address, *files) as traced:
        with connect(traced) as client:
            there, _ = server.accept()
            reader, writer = (client, there) if way == "to the client" else (there, client)
            with there:
                writer.settimeout(1)  # only then does it know that nothing moves
                sent = 0
                with pytest.raises(TimeoutError):
                    while sent < 1 << 28:
                        sent += writer.send(bytes(1 << 16))
                reader.sendall(b"go on")  # the other way is not held up
                assert writer.recv(100) == b"go on"
                got = 0
                while got < sent:
                    got += len(reader.recv(1 << 16))
                writer.settimeout(10)
                writer.sendall(b"more")
                assert reader.recv(100) == b"more"


def test_a_server_that_is_away_is_told_and_the_next_client_may_find_it() -> None:
    with plain_server() as (server, address):
        pass
    with tracing(address) as traced:
        with connect(traced) as client, contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
        assert traced.stdout.readline() == (
            f"1 # cannot connect to {address}: Connection refused\n"
        )
        assert traced.stdout.readline() == "1 ! lost\n"
        with socket.create_server(("127.0.0.1", int(address.split("!")[2]))) as server:
            server.settimeout(10)
            with connect(traced) as client, server.accept()[0] as there:
                client.sendall(NO_SUCH)
                assert there.recv(100) == NO_SUCH


def test_a_reset_of_one_side_ends_the_other() -> None:
    with plain_server() as (server, address), tracing(address) as traced:
        with connect(traced) as client:
            there, _ = server.accept()
            client.sendall(NO_SUCH)
            assert there.recv(100) == NO_SUCH
            there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            there.close()
            assert client.recv(100) == b""


def test_an_interrupt_ends_conversations_and_files_are_whole(tmp_path: Path) -> None:
    with world_served() as server:
        with tracing(str(server), "--output", str(tmp_path / "out")) as traced:
            with Namespace(traced.port):
                assert traced.interrupt() == []
    assert (tmp_path / "out" / "1.txt").read_text().endswith('qid (d 0 1)\n! lost\n')


def test_unix_sockets(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "server"))
        server.listen()
        here = tmp_path / "here"
        with tracing(f"unix!{tmp_path}/server", "--listen", f"unix!{here}") as traced:
            assert traced.address == f"unix!{here}"
            assert not here.stat().st_mode & 0o022  # who comes this way acts as us
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(here))
                with server.accept()[0] as there:
                    client.sendall(Tversion(0xFFFF, 8192, "9P2000").pack())
                    assert there.recv(100)
            assert traced.interrupt()[0].startswith("1 -> Tversion tag NOTAG")
        assert not here.exists()


def test_a_server_under_tls_and_a_client_without(tmp_path: Path) -> None:
    for words in (["ca"], ["server", "127.0.0.1"], ["user", "alice"]):
        made = CliRunner().invoke(cert, [*words, "--dir", str(tmp_path)])
        assert made.exit_code == 0, made.output
    context = server_tls(tmp_path / "server-127.0.0.1.pem", tmp_path / "ca.pem").context
    ours = {"LLAMBO_CERT": str(tmp_path / "alice.pem"), "LLAMBO_CA": str(tmp_path / "ca.pem")}
    with plain_server() as (server, address):
        with tracing(address.replace("tcp", "tls"), **ours) as traced:
            with connect(traced) as client:
                with context.wrap_socket(server.accept()[0], server_side=True) as there:
                    client.sendall(NO_SUCH)
                    assert there.recv(100) == NO_SUCH
                    there.sendall(NO_SUCH)
                    assert client.recv(100) == NO_SUCH
                    client.shutdown(socket.SHUT_WR)  # under TLS that is the end of both
                    assert there.recv(100) == b""
                assert client.recv(100) == b""
            lines = [traced.stdout.readline() for _ in range(3)]
            assert lines[0].startswith("1 -> hex") and lines[1].startswith("1 <- hex")
            assert lines[2] == "1 ! lost\n"
            assert traced.interrupt() == []


def test_a_reader_that_leaves_ends_it() -> None:
    with plain_server() as (_, address), tracing(address) as traced:
        traced.stdout.close()
        with connect(traced) as client:
            client.sendall(NO_SUCH)
            assert traced.process.wait(10) == 1
        assert traced.stderr.read() == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["tcp!nowhere"], "ADDR: bad address 'tcp!nowhere': use tcp!HOST!PORT, tls!HOST!PORT or "
         "unix!PATH"),
        (["tcp!::1!1", "--listen", "tcp!192.0.2.1!1", "--insecure"],
         "cannot listen on tcp!192.0.2.1!1: Cannot assign requested address"),
        (["tcp!::1!1", "--listen", "tcp!0.0.0.0!0"],
         "tcp!0.0.0.0!0 is not loopback, and whoever connects may do what you may: "
         "give --insecure if that is meant"),
        (["tcp!::1!1", "--listen", "tls!127.0.0.1!0"],
         "tls!127.0.0.1!0: clients of a relay come by tcp or unix"),
        (["tcp!::1!1", "--output", "/proc/self"], "/proc/self: File exists"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(args: list[str], said: str) -> None:
    done = llamboctl("trace", *args)
    assert (done.returncode, done.stderr.decode()) == (1, f"llamboctl: {said}\n")
