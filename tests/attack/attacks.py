"""What hostile and unlucky users do, a table: each attack is one function, which does one round.

A round is done, or refused with an Error, or takes longer than the attackers' program lets it.
All three are fine as long as nobody else notices.  The attackers are `bob` and `mallory`.  They
come over TLS with certificates of their own, so each has limits of his own.  Add an attack as a
function with a paragraph; the table is made of all that have `@attack`.  The first one makes the
crowd that the others' victims must get past.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from llambo9p.errors import Error
from llambo9p.fs.pending import Pending
from llambo9p.fs.tree import Directory, TextFile, Tree
from llambo9p.net.address import parse
from llambo9p.net.client import ignore
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from tests.files import Files, reading

from .target import Target
from .texts import TEXTS, Text

Attack = Callable[[Target], Awaitable[None]]
ATTACKS: dict[str, Attack] = {}
_MIB = 1 << 20


def attack(function: Attack) -> Attack:
    ATTACKS[function.__name__] = function
    return function


@contextlib.asynccontextmanager
async def _clone(files: Files) -> AsyncIterator[str]:
    """A conversation of its own."""
    async with await files.open("clone", c.ORDWR) as ctl:
        yield (await ctl.read(0)).decode().strip()


def _quietly(pending: Pending[object]) -> asyncio.Future[object]:
    """Its end is nobody's business."""
    future = pending.future()
    future.add_done_callback(ignore)
    return future


# -- a crowd -----------------------------------------------------------------------


@attack
async def a_hundred_requests(target: Target) -> None:
    """One user has a hundred requests, each as long as it may be, and reads all answers."""

    async def ask(files: Files, n: int) -> None:
        with contextlib.suppress(Error):
            async with _clone(files) as number:
                await files.write(f"{number}/ctl", "max_tokens 300\nmode complete\ntemperature 1")
                await files.ask(f"{n}. Once upon a time, in a far country,", number)

    async with target.files("mallory") as files:
        asking = [asyncio.ensure_future(ask(files, n)) for n in range(100)]
        try:
            await asyncio.wait(asking, timeout=20)
        finally:
            for each in asking:
                each.cancel()
            await asyncio.wait(asking)


# -- texts that are costly to obey ------------------------------------------------


@attack
async def costly_texts(target: Target) -> None:
    """Each text of `texts` is written, in any order, and a prompt is asked that must follow it.
    Whatever compiles, renders or samples by it does so for this user alone."""

    async def ask(files: Files, text: Text) -> None:
        async with _clone(files) as number:
            try:
                await files.write(f"{number}/{text.file}", text.text())
                await files.write(f"{number}/ctl", "max_tokens 8\ntemperature 0")
                await files.ask("go", number)
            except Error:
                pass

    async with target.files("mallory") as files:
        for text in random.sample(TEXTS, 4):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3):
                    await ask(files, text)


@attack
async def the_same_text_again(target: Target) -> None:
    """One text is written a hundred times without waiting for a reply, each time a bit different,
    so that no cache knows it."""
    async with target.files("bob") as files, _clone(files) as number:
        salt = random.random()
        writing = [
            files.write(f"{number}/grammar", f'root ::= ("{salt}{n}"? [a-z]{{0,20}}){{0,50}}')
            for n in range(100)
        ]
        await asyncio.gather(*writing, return_exceptions=True)


# -- floods of cheap messages with costly handlers --------------------------------


@attack
async def history_in_one_packet(target: Target) -> None:
    """The conversation has megabytes of history.  40 pairs of open and clunk of `history` come in
    one packet, and again."""
    async with target.files("mallory") as files, _clone(files) as number:
        line = '{"role": "user", "content": "' + "x" * 1000 + '"}\n'
        for _ in range(30):
            await files.write(f"{number}/history", line * 100)
        for _ in range(3):
            client, ended = files.client, []
            for _ in range(40):
                fid = client.new_fid()
                _quietly(client.ask(m.Twalk(0, files.root, fid, (number, "history")), m.Rwalk))
                _quietly(client.ask(m.Topen(0, fid, c.OREAD), m.Ropen))
                ended.append(_quietly(client.clunk(fid)))
            await asyncio.wait(ended)


@attack
async def long_ctl_writes(target: Target) -> None:
    """As long as a message may be, and all valid: thousands of settings a write."""
    async with target.files("bob") as files, _clone(files) as number:
        text = ("stop " + " ".join("'%s'" % ("y" * 30) for _ in range(8)) + "\n").encode()
        data = (text * 400)[: files.client.msize - c.IOHDRSZ]
        data = data[: data.rindex(b"\n") + 1]
        async with await files.open(f"{number}/ctl", c.OWRITE) as ctl:
            asked = [
                _quietly(files.client.ask(m.Twrite(0, ctl.fid, 0, data), m.Rwrite))
                for _ in range(20)
            ]
            await asyncio.wait(asked)


@attack
async def snapshots(target: Target) -> None:
    """`metrics`, `workers`, `status`, `nodes` and the like are made anew by each open."""
    async with target.files("mallory") as files:
        names = ["metrics", "metrics.json", "metrics.legacy", "workers", "status", "health"]
        names += ["balancer", "nodes", "models", "registry/index", "nodes/worker-0000"]
        opening = [files.open(random.choice(names)) for _ in range(500)]
        for opened in await asyncio.gather(*opening, return_exceptions=True):
            if not isinstance(opened, BaseException):
                opened.forget()
        await files.read("status")


@attack
async def walks(target: Target) -> None:
    """Long walks that go down and up, to the end of the fids that a connection may have."""
    async with target.files("bob") as files:
        names = ("worker-0000", "..") * 8
        asked = [
            _quietly(files.client.ask(m.Twalk(0, files.root, 10 + n, names), m.Rwalk))
            for n in range(2000)
        ]
        await asyncio.wait(asked)


@attack
async def directories(target: Target) -> None:
    """A root with hundreds of conversations is read again and again."""
    async with target.files("mallory") as files, contextlib.AsyncExitStack() as stack:
        for _ in range(200):
            await stack.enter_async_context(_clone(files))
        await asyncio.gather(*(files.ls() for _ in range(30)))


# -- connections that never read, or never say anything ---------------------------


@attack
async def big_texts_that_nobody_reads(target: Target) -> None:
    """A `system` of 8 MiB is asked for through the root, over a few connections that read nothing
    of it."""
    await _read_nothing_of(target, "mallory", "system")


@attack
async def big_texts_of_workers_that_nobody_reads(target: Target) -> None:
    """The same through a worker's tree, whose replies are relayed."""
    await _read_nothing_of(target, "bob", "worker-0001/system")


async def _read_nothing_of(target: Target, user: str, name: str) -> None:
    async with target.files(user) as files, contextlib.AsyncExitStack() as stack:
        await files.write(name, "s" * (7 * _MIB))
        for _ in range(6):
            other = await stack.enter_async_context(target.files(user))
            text = await other.open(name)
            other.client._transport.pause_reading()
            for _ in range(200):
                _quietly(other.client.ask(m.Tread(0, text.fid, 0, other.client.msize), m.Rread))
        await asyncio.sleep(4)


@attack
async def silent_connections(target: Target) -> None:
    """Connections that end no TLS handshake, and such that send no Tversion."""
    address = target.tls_address
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    writers = []
    for number in range(60):
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                with_tls = context if number % 2 else None
                _, writer = await asyncio.open_connection(address.host, address.port, ssl=with_tls)
                writers.append(writer)
    await asyncio.sleep(2)
    for writer in writers:
        writer.transport.abort()


@attack
async def exporter_connections(target: Target) -> None:
    """Hundreds of HTTP connections that ask for `metrics` and read nothing, or ask half."""
    writers = []
    for number in range(300):
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                _, writer = await asyncio.open_connection("127.0.0.1", target.exporter)
                writer.transport.pause_reading()
                request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
                writer.write(request if number % 3 else request + b"\r\n")
                writers.append(writer)
    await asyncio.sleep(2)
    for writer in writers:
        writer.transport.abort()


@attack
async def giant_unames(target: Target) -> None:
    """Names of 60,000 digits, which are no numbers, and are logged."""
    client = await target.connect("mallory")
    try:
        asked = [
            _quietly(client.ask(m.Tattach(0, n, c.NOFID, "9" * 60_000, ""), m.Rattach))
            for n in range(1, 50)
        ]
        await asyncio.wait(asked)
    finally:
        client.close()


@attack
async def blocked_reads(target: Target) -> None:
    """Readers of `events`, `registry/event` and `out` of an answer that does not come: as many as a
    connection may have."""
    async with target.files("bob") as files:
        for name in ("events", "registry/event"):
            for _ in range(100):
                with contextlib.suppress(Error):
                    opened = await files.open(name)
                    for _ in range(2):
                        reading(opened, 10**9).add_done_callback(ignore)
        await asyncio.sleep(3)


# -- what waits and what is kept --------------------------------------------------


@attack
async def prompts_that_are_never_asked(target: Target) -> None:
    """Megabytes are written to `prompt` and `data`, and no Tclunk comes."""
    async with target.files("bob") as files:
        piece = b"p" * (files.client.msize - c.IOHDRSZ)
        with contextlib.suppress(Error):  # there is a limit
            for name in ("prompt", "data", "system") * 3:
                opened = await files.open(name, c.ORDWR if name == "data" else c.OWRITE)
                for n in range(40):
                    await opened.write(piece, n * len(piece))
        await asyncio.sleep(1)


@attack
async def long_prompts(target: Target) -> None:
    """Prompts that fill the context, or are far longer, one behind the other."""
    async with target.files("mallory") as files, _clone(files) as number:
        await files.write(f"{number}/ctl", "max_tokens 1\nmode complete")
        for words in (300, 3000, 1_000_000):
            with contextlib.suppress(Error):
                await files.ask("why " * words, number)


@attack
async def asks_and_goes(target: Target) -> None:
    """Answers that are cancelled, flushed or cut off at once, dozens a round."""
    async with target.files("bob") as files:
        for _ in range(20):
            data = await files.open("data", c.ORDWR)
            await data.write(b"Tell me a story.")
            read = reading(data)
            read.add_done_callback(ignore)
            await asyncio.sleep(0)
            read.cancel()
            data.forget()
    async with target.files("bob") as files, _clone(files) as number:
        await files.write(f"{number}/prompt", "Tell me a story.")
        await files.write(f"{number}/ctl", "cancel")


# -- who claims what is not so ----------------------------------------------------


@attack
async def hosts_that_register(target: Target) -> None:
    """A user registers hosts that are none: words that make no sense, addresses where nobody is,
    the orchestrator itself, and names of its files.  Only an administrator could."""
    async with target.files("mallory") as files:
        for words in (
            "tcp!127.0.0.1!1 epoch 1 first 0",
            f"{target.unix} epoch 1",
            "tcp!127.0.0.1!1 epoch -1 first 99999999999999999999",
            "unix!/etc/passwd name ctl",
            "x" * 100_000,
        ):
            with contextlib.suppress(Error):
                async with await files.open("registry/new", c.ORDWR) as lease:
                    await lease.write(words.encode())


LIES = [
    ("workers", "ctl idle 0 0 0 0 0\n"),
    ("workers", "../x idle 0 0 0 0 0\n"),
    ("workers", "worker-0900 idle 0 0 0 0 0\n" * 50_000),
    ("workers", f"worker-0900 idle {'9' * 4000} 0 0 0 0\n"),
    ("workers", "worker-99999999 idle 0 0 0 0 0\n"),
    ("status", "type tiny\nmodel x\ncontext 512\nepoch 1\nslots -5\n"),
    ("status", f"type tiny\nmodel x\ncontext 512\nepoch {'9' * 4000}\nslots 4\n"),
    ("status", f"type {'t' * 10**6}\nmodel x\ncontext 512\nepoch 1\nslots 4\n"),
]


@attack
async def hosts_that_lie(target: Target) -> None:
    """The owner was talked into mounting a host whose files say what cannot be: names of the
    orchestrator's own files, numbers out of any range, far too much of everything."""
    file, lie = random.choice(LIES)
    says = {
        "status": "type tiny\nmodel x\ncontext 512\nepoch 1\nslots 4\n",
        "workers": "worker-0900 idle 0 0 0 0 0\n",
        file: lie,
    }
    tree = Tree()
    root = Directory(tree, "/")
    for name in ("ctl", "status", "workers", "metrics"):
        root.add(TextFile(tree, name, lambda name=name: says.get(name, "")))
    server = Server(lambda user, aname: root)
    address = await server.listen(parse("tcp!127.0.0.1!0"))
    try:
        async with target.local("") as owner:
            with contextlib.suppress(Error):
                await owner.write("ctl", f"mount {address}")
            for name in await owner.ls("nodes"):
                with contextlib.suppress(Error):  # it is gone already
                    if (await owner.attrs(f"nodes/{name}"))["addr"] == str(address):
                        await owner.write("ctl", f"unmount {name}")
    finally:
        await server.close()


@attack
async def verbs_of_others(target: Target) -> None:
    """Verbs that only an administrator may write, and paths that are not this user's to write."""
    async with target.files("bob") as files:
        for verb in (
            "shutdown",
            "kill worker-0000",
            "drain worker-0000 worker-0001",
            "spawn --count 100",
            "mount tcp!127.0.0.1!1 ctl",
            "save /root/.profile",
            "restore /etc/passwd",
            "strategy random",
        ):
            with contextlib.suppress(Error):
                await files.write("ctl", verb)
        for name in ("worker-0000/ctl", "worker-0001/ctl"):
            with contextlib.suppress(Error):
                await files.write(name, "shutdown")
