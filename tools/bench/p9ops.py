"""9P operations per second of one connection: our server against pyroute2's.

Each server runs in a process of its own: ours on uvloop, as our processes run it, and
pyroute2's Plan9ServerSocket on asyncio, as it comes.  One raw socket sends frames that
were packed beforehand, keeps `depth` operations outstanding, and counts the bytes of
the replies, whose size is known; it unpacks nothing.  A third server, `echo`, answers
every frame with a canned reply and does nothing else: what the generator reaches with
it is the generator's own ceiling, printed beside the others.  A ratio means something
only where the servers stay below the ceiling.

The servers take turns in each round; printed are medians over the rounds, and the
median, least and largest of the rounds' ratios.

    python -m llambo9p_tools.bench.p9ops [--rounds 7] [--seconds 0.5] [--ops read,stat]

`--serve ours --profile FILE` runs our server alone under cProfile until its first
connection ends; `--load PORT` runs the generator alone against any 9P server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.dialects import P9_2000
from llambo9p.p9.framing import Framer
from llambo9p.p9.wire import Dir, Qid

COUNT = 512
"""bytes of a read"""
DEPTHS = (1, 32)
TAGS = 64
"""different tags, more than any depth"""
SERVERS = ("ours", "pyroute2", "echo")
NAME = "file"


# -- the generator -------------------------------------------------------------------


def read(tag: int) -> list[m.Message]:
    return [m.Tread(tag, 1, 0, COUNT)]


def stat(tag: int) -> list[m.Message]:
    return [m.Tstat(tag, 1)]


def walk_clunk(tag: int) -> list[m.Message]:
    fid = 100 + tag
    return [m.Twalk(2 * tag, 0, fid, (NAME,)), m.Tclunk(2 * tag + 1, fid)]


OPS: dict[str, Callable[[int], list[m.Message]]] = {
    f"read of {COUNT} bytes": read,
    "stat": stat,
    "walk+clunk": walk_clunk,
}


class Generator:
    """One connection, attached as fid 0, with NAME open as fid 1."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._framer = Framer(1 << 20)
        self.ask(m.Tversion(c.NOTAG, 8192, c.VERSION_9P2000))
        self.ask(m.Tattach(0, 0, c.NOFID, "bench", ""))
        self.ask(m.Twalk(0, 0, 1, (NAME,)))
        self.ask(m.Topen(0, 1, c.OREAD))

    def ask(self, *msgs: m.Message) -> int:
        """Send and wait; the size of the replies.  Raises RuntimeError for an Rerror."""
        self._socket.sendall(b"".join(msg.pack() for msg in msgs))
        size = 0
        for _ in msgs:
            frames: list[bytes] = []
            while not frames:
                frames = self._framer.feed(self._receive_one())
            reply = P9_2000.unpack(frames[0])
            if isinstance(reply, m.Rerror):
                raise RuntimeError(reply.ename)
            size += len(frames[0])
        return size

    def _receive_one(self) -> bytes:
        header = self._socket.recv(4, socket.MSG_WAITALL)
        rest = int.from_bytes(header, "little") - 4
        return header + self._socket.recv(rest, socket.MSG_WAITALL)

    def rate(self, op: Callable[[int], list[m.Message]], depth: int, seconds: float) -> float:
        """Operations per second, `depth` of them outstanding."""
        reply_size = self.ask(*op(0))
        packed = [b"".join(msg.pack() for msg in op(tag)) for tag in range(TAGS)]
        size = len(packed[0])
        ring = b"".join(packed) * 2
        sock = self._socket
        sock.sendall(ring[: depth * size])
        sent, done, received = depth, 0, 0
        began = time.perf_counter()
        end = began + seconds
        while (now := time.perf_counter()) < end:
            received += len(sock.recv(1 << 18))
            done = received // reply_size
            if more := done + depth - sent:
                at = sent % TAGS
                sock.sendall(ring[at * size : (at + more) * size])
                sent += more
        rate = done / (now - began)
        while received < sent * reply_size:
            received += len(sock.recv(1 << 18))
        return rate

    def close(self) -> None:
        self._socket.close()


# -- the servers --------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def serve_ours(port: int) -> None:
    import uvloop

    from llambo9p.fs.tree import Directory, TextFile, Tree
    from llambo9p.net.address import Address
    from llambo9p.net.server import Server

    async def main() -> None:
        tree = Tree("bench")
        root = Directory(tree, "/")
        root.add(TextFile(tree, NAME, lambda: "x" * COUNT))
        server = Server(lambda uname, aname: root)
        await server.listen(Address("tcp", "127.0.0.1", port))
        print("ready", flush=True)
        while not server.connections:  # noqa: ASYNC110 - only so that --profile may end
            await asyncio.sleep(0.05)
        while server.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    uvloop.run(main())


def serve_pyroute2(port: int) -> None:
    from pyroute2 import Plan9ServerSocket

    async def main() -> None:
        server = Plan9ServerSocket(address=("127.0.0.1", port))
        server.filesystem.create(NAME, data="x" * COUNT)
        task = await server.async_run()
        print("ready", flush=True)
        await task

    asyncio.run(main())


def serve_echo(port: int) -> None:
    """Answers every run of equal messages by looking at the first and multiplying.

    A run arrives whole: the generator sends less at once than a segment holds.
    """
    kept: dict[tuple[int, bool], bytes] = {}
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("ready", flush=True)
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(1 << 18):
            size = int.from_bytes(data[:4], "little")
            type, tag = data[4], data[5] | data[6] << 8
            clunks = type == m.Twalk.number and len(data) > size
            if (type, clunks) not in kept:
                kept[type, clunks] = canned(type, tag) + (m.Rclunk(0).pack() if clunks else b"")
            unit = size + len(m.Tclunk(0, 0).pack()) if clunks else size
            sock.sendall(kept[type, clunks] * (len(data) // unit))


def canned(type: int, tag: int) -> bytes:
    """The reply to a message of that type; but for the set-up, tags do not matter."""
    qid = Qid(0, 0, 1)
    replies: list[m.Message] = [
        m.Rversion(tag, 8192, c.VERSION_9P2000),
        m.Rattach(tag, qid),
        m.Rwalk(tag, (qid,)),
        m.Ropen(tag, qid, 0),
        m.Rread(tag, b"x" * COUNT),
        m.Rstat(tag, Dir(NAME, qid, 0o444, uid="bench", gid="bench", muid="bench")),
    ]
    return next(reply.pack() for reply in replies if reply.number == type + 1)


SERVE = {"ours": serve_ours, "pyroute2": serve_pyroute2, "echo": serve_echo}


@contextlib.contextmanager
def running(name: str) -> Iterator[Generator]:
    """The server in a process, and a generator connected to it."""
    port = free_port()
    command = [sys.executable, __file__, "--serve", name, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"{name} did not start")
            generator = Generator(port)
            yield generator
            generator.close()
        finally:
            process.kill()


# -- the comparison -------------------------------------------------------------------


def compare(op: str, depth: int, rounds: int, seconds: float) -> None:
    rates: dict[str, list[float]] = {name: [] for name in SERVERS}
    with contextlib.ExitStack() as stack:
        generators = {name: stack.enter_context(running(name)) for name in SERVERS}
        for generator in generators.values():
            generator.rate(OPS[op], depth, seconds / 5)
        for _ in range(rounds):
            for name, generator in generators.items():
                rates[name].append(generator.rate(OPS[op], depth, seconds))
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["pyroute2"], strict=True)]
    ours, theirs, ceiling = (statistics.median(rates[name]) for name in SERVERS)
    print(
        f"{op:18} {depth:5} {ours:10,.0f} {theirs:10,.0f} {ceiling:12,.0f}   "
        f"{statistics.median(ratios):5.2f} ({min(ratios):.2f}..{max(ratios):.2f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--ops", default="read,stat,walk", help="beginnings of names")
    parser.add_argument("--serve", choices=SERVE, help="run one server alone")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--profile", metavar="FILE", help="with --serve: write cProfile's data")
    parser.add_argument("--load", type=int, metavar="PORT", help="run the generator alone")
    args = parser.parse_args()
    if args.serve:
        serve, port = SERVE[args.serve], args.port
        if not port:
            port = free_port()
            print(f"listening on port {port}", file=sys.stderr)
        if args.profile:
            cProfile.runctx("serve(port)", {}, {"serve": serve, "port": port}, args.profile)
        else:
            serve(port)
        return
    wanted = [op for op in OPS if op.startswith(tuple(args.ops.split(",")))]
    if args.load:
        generator = Generator(args.load)
        for op in wanted:
            for depth in DEPTHS:
                rate = generator.rate(OPS[op], depth, args.seconds)
                print(f"{op:18} {depth:5} {rate:10,.0f}", flush=True)
        return
    print(f"operations/s of one connection, medians of {args.rounds} rounds in turns")
    print(f"{'':18} {'depth':>5} {'ours':>10} {'pyroute2':>10} {'the ceiling':>12}   ours/pyroute2")
    for op in wanted:
        for depth in DEPTHS:
            compare(op, depth, args.rounds, args.seconds)


if __name__ == "__main__":
    main()
