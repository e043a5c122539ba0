"""`llamboctl trace`: a relay between 9P clients and a server that writes down what they say.

Owns the sockets and the output; what a conversation looks like is `llambo9p.p9.trace`'s.
Rules: bytes are passed on untouched, at once, and before they are looked at; the end of
one direction is passed on as that and the other goes on; who does not read holds up the
one who sends, and nothing else (but a pipe that does not take the lines holds up all);
^C ends every conversation, and the transcripts are whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TextIO, cast

import click

from llambo9p.errors import Error
from llambo9p.net import sockets
from llambo9p.net.address import Address
from llambo9p.net.security import Trust
from llambo9p.p9.trace import Tracer

from ..certificate import trust_for
from ..failure import Failure
from ..options import beyond_files
from ..which_cluster import parse_address


@click.command()
@click.argument("addr")
@click.option("--listen", metavar="A", default="tcp!127.0.0.1!0", show_default=True,
              help="Where the clients come; port 0 is a free one.")  # fmt: skip
@click.option("--output", metavar="DIR", type=click.Path(path_type=Path),
              help="Make DIR and write there one transcript a connection, 1.txt, 2.txt, ...  "
              "[default: to stdout, each line with its connection's number]")  # fmt: skip
@click.option("--max-data", metavar="N", type=click.IntRange(min=0),
              help="Show N bytes of data a message; what is cut cannot be played again.  "
              "[default: all]")  # fmt: skip
@click.option("--insecure", is_flag=True, help="Allow plain TCP beyond loopback.")
@beyond_files("stands between a client and a server")
def trace(
    addr: str, listen: str, output: Path | None, max_data: int | None, insecure: bool
) -> None:
    """Print what clients and the 9P server at ADDR say to each other, until ^C.

    Clients connect to the address that is printed on stderr instead of ADDR.
    """
    target, here = parse_address(addr, "ADDR"), parse_address(listen, "--listen")
    if not here.is_loopback and not insecure:
        raise Failure(
            f"{here} is not loopback, and whoever connects may do what you may: "
            "give --insecure if that is meant"
        )
    if here.net == "tls":
        raise Failure(f"{here}: clients of a relay come by tcp or unix")
    if output is not None:
        output.mkdir()
    relay = Relay(target, trust_for(target), Transcripts(output), max_data)
    try:
        asyncio.run(relay.run(here))
    except Error as e:
        raise Failure(str(e)) from None
    raise click.Abort


class Transcripts:
    """Where lines go: a file for each connection, or all to stdout, numbered."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._files: dict[int, TextIO] = {}

    def write(self, number: int, lines: list[str]) -> None:
        """Raises OSError."""
        if self._directory is None:
            for line in lines:
                click.echo(f"{number} {line}")
            return
        if number not in self._files:
            path = self._directory / f"{number}.txt"
            self._files[number] = path.open("x", encoding="utf-8")
        self._files[number].writelines(f"{line}\n" for line in lines)
        self._files[number].flush()

    def end(self, number: int) -> None:
        """No more lines will come for connection `number`."""
        if number in self._files:
            self._files.pop(number).close()


class Relay:
    """All conversations with the server at `target`."""

    def __init__(
        self,
        target: Address,
        trust: Trust,
        transcripts: Transcripts,
        max_data: int | None,
    ) -> None:
        self.target = target
        self.trust = trust
        self.max_data = max_data
        self.conversations: set[Conversation] = set()
        self._transcripts = transcripts
        self._numbers = itertools.count(1)
        self._interrupted = asyncio.Event()
        self._error: OSError | None = None

    async def run(self, here: Address) -> None:
        """Until SIGINT.  Raises `Error`, or the OSError of an output that cannot be
        written."""
        loop = asyncio.get_running_loop()
        server, address = await sockets.listen(here, self._accept)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGINT, self._interrupted.set)
        click.echo(f"listening on {address}", err=True)
        try:
            await self._interrupted.wait()
        finally:
            server.close()
            if address.net == "unix":
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(address.path)
            for conversation in list(self.conversations):
                conversation.end()
        if self._error is not None:
            raise self._error

    def _accept(self) -> Side:
        return Conversation(self, next(self._numbers)).client

    def write(self, number: int, lines: list[str]) -> None:
        """Lines of conversation `number`; when they cannot be written, all ends."""
        try:
            self._transcripts.write(number, lines)
        except OSError as e:
            self._error = self._error or e
            self._interrupted.set()

    def ended(self, conversation: Conversation) -> None:
        self.conversations.remove(conversation)
        self._transcripts.end(conversation.number)


class Conversation:
    """One client's connection, the one to the server, and the transcript of both."""

    def __init__(self, relay: Relay, number: int) -> None:
        self.number = number
        self._relay = relay
        self._tracer = Tracer(relay.max_data)
        self.client = Side(self, self._tracer.from_client)
        self.server = Side(self, self._tracer.from_server)
        self.client.other, self.server.other = self.server, self.client
        self._connecting: asyncio.Task[None] | None = None

    def show(self, lines: list[str]) -> None:
        self._relay.write(self.number, lines)

    def made(self, side: Side) -> None:
        """The client's side first; it waits until there is somebody to pass it on to."""
        if side is self.client:
            self._relay.conversations.add(self)
            # soon: asyncio of 3.11.2 begins to read after connection_made, paused or not
            asyncio.get_running_loop().call_soon(side.transport.pause_reading)
            self._connecting = asyncio.create_task(self._connect())
        else:
            self.client.transport.resume_reading()

    async def _connect(self) -> None:
        try:
            await sockets.connect(self._relay.target, lambda: self.server, self._relay.trust)
        except Error as e:
            self.show([f"# {e}"])
            self.client.transport.abort()

    def lost(self) -> None:
        """A side is gone."""
        if not self.client.connected and not self.server.connected:
            self.end()

    def end(self) -> None:
        """Both sides go, if they have not gone yet, and the transcript is finished."""
        if self not in self._relay.conversations:
            return
        if self._connecting is not None:
            self._connecting.cancel()
        for side in (self.client, self.server):
            if side.connected:
                side.transport.abort()
        self.show(self._tracer.ended())
        self._relay.ended(self)


class Side(asyncio.Protocol):
    """One of the two connections: what it receives, the other sends."""

    other: Side
    transport: asyncio.Transport

    def __init__(self, conversation: Conversation, read: Callable[[bytes], list[str]]) -> None:
        self._conversation = conversation
        self._read = read
        self.connected = False
        self._finished = False
        """it sends no more"""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.connected = True
        self._conversation.made(self)

    def data_received(self, data: bytes) -> None:
        self.other.transport.write(data)
        self._conversation.show(self._read(data))

    def eof_received(self) -> bool:
        self._finished = True
        halves = self.transport.can_write_eof() and self.other.transport.can_write_eof()
        if halves and not self.other._finished:
            self.other.transport.write_eof()
            return True  # the other may have more to say
        self.other.transport.close()
        return False  # this one is closed, too

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connected = False
        if self.other.connected:
            # what it was sent leaves before it goes; after a reset nobody can say what came
            if exc is None:
                self.other.transport.close()
            else:
                self.other.transport.abort()
        self._conversation.lost()
