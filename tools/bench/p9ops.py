"""9P operations per second: our server against diod (C, 9P2000.L) and pyroute2 (9P2000),
and a tree mounted by an orchestrator against that tree itself.

Each server runs in a process of its own: ours on uvloop, as our processes run it, diod
with its own defaults over a directory of tmpfs, pyroute2's Plan9ServerSocket on asyncio,
as it comes.  The load is `load.c`, compiled here: one thread that unpacks nothing.  It
says how much of a core it used; below 1 it was not the bottleneck.

At depth 1 an idle machine mostly measures how long a sleeping core takes to wake up, on
either side of every message.  `--one-core` puts load and servers on one core, which then
never sleeps: what is left is what they do.

The servers take turns in each round; printed are medians over the rounds, and the
median, least and largest of the rounds' ratios.

    python -m llambo9p_tools.bench.p9ops [--rounds 7] [--seconds 0.5]
        [--ops read,stat,walk] [--depths 1,8,32] [--connections 1,8]
        [--peers diod,pyroute2,direct,echo] [--one-core]

The peer `echo` is what no Python server can beat at depth 1: recv, a reply made beforehand,
send, and nothing else.  The peer `direct` is the server that the orchestrator has mounted:
there `ours` goes through the orchestrator, and a ratio is what its pass-through leaves.

`--idle 5000` measures instead what an idle connection costs our server in memory, and
how an active one does beside them.  `--serve ours` serves and nothing more, for a
profiler.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from . import processes

COUNT = 512
"""bytes of a read, as in load.c"""
NAME = "file"
DIOD = shutil.which("diod", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""
DIALECT = {"diod": "9P2000.L", "pyroute2": "9P2000", "direct": "9P2000", "echo": "9P2000"}
"""that we and the peer are asked in"""


# -- the servers --------------------------------------------------------------------


def serve_ours(port: int) -> None:
    import uvloop

    from llambo9p.fs.tree import Directory, TextFile, Tree
    from llambo9p.net.address import Address
    from llambo9p.net.server import Server

    async def main() -> None:
        tree = Tree("bench")
        root = Directory(tree, "/")
        root.add(TextFile(tree, NAME, lambda: "x" * COUNT))
        server = Server(lambda user, aname: root)
        await server.listen(Address("tcp", "127.0.0.1", port))
        await asyncio.Event().wait()

    uvloop.run(main())


def serve_pyroute2(port: int) -> None:
    from pyroute2 import Plan9ServerSocket

    async def main() -> None:
        server = Plan9ServerSocket(address=("127.0.0.1", port))
        server.filesystem.create(NAME, data="x" * COUNT)
        await (await server.async_run())

    asyncio.run(main())


def serve_echo(port: int) -> None:
    """Answers one message after the other, by its type."""
    from llambo9p.p9 import messages as m
    from llambo9p.p9.wire import Dir, Qid

    qid = Qid(0, 0, 1)
    stat = Dir(NAME, qid, 0o444, uid="bench", gid="bench", muid="bench")
    replies: list[m.Message] = [
        m.Rversion(0, 8192, "9P2000"),
        m.Rattach(0, qid),
        m.Rwalk(0, (qid,)),
        m.Ropen(0, qid, 0),
        m.Rread(0, b"x" * COUNT),
        m.Rstat(0, stat),
        m.Rclunk(0),
    ]
    packed = {reply.number - 1: reply.pack() for reply in replies}
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            client, _ = listener.accept()
            with client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while frame := client.recv(8192):
                    reply = packed[frame[4]]
                    client.sendall(reply[:5] + frame[5:7] + reply[7:])


def serve_mounted(port: int) -> None:
    """An orchestrator that mounts whatever is written to its ctl."""
    import uvloop

    from llambo9p.cluster.config import Cluster
    from llambo9p.cluster.namespace import Orchestrator
    from llambo9p.net.address import Address
    from llambo9p.net.server import Server

    async def main() -> None:
        server = Server(Orchestrator(Cluster(), lambda: None).attach)
        await server.listen(Address("tcp", "127.0.0.1", port))
        await asyncio.Event().wait()

    uvloop.run(main())


async def mount(port: int, what: int, name: str) -> None:
    """Make the orchestrator at `port` mount the server at port `what`."""
    from llambo9p.net.address import Address
    from llambo9p.net.client import Client
    from llambo9p.p9.constants import OWRITE

    client = await Client.connect(Address("tcp", "127.0.0.1", port))
    root, _ = await client.attach("")
    async with await client.open(root, "ctl", OWRITE) as ctl:
        await ctl.write(f"mount tcp!127.0.0.1!{what} {name}".encode())
    client.close()


SERVE = {
    "ours": serve_ours,
    "direct": serve_ours,
    "pyroute2": serve_pyroute2,
    "mounted": serve_mounted,
    "echo": serve_echo,
}


class Running:
    """A server in a process of its own, at a port of this machine."""

    def __init__(self, name: str, directory: Path) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        self.aname = str(directory) if name == "diod" else ""
        if name == "diod":
            command = [
                *(DIOD, "--foreground", "--no-auth", "--no-userdb", "--export", str(directory)),
                *("--listen", f"127.0.0.1:{self.port}"),
            ]
        else:
            module = "llambo9p_tools.bench.p9ops"
            command = [sys.executable, "-m", module, "--serve", name, "--port", str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise SystemExit(f"{name} did not start") from None
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running(*names: str) -> Iterator[list[Running]]:
    shm = Path("/dev/shm")
    with contextlib.ExitStack() as stack:
        parent = str(shm) if shm.is_dir() else None
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))
        (directory / NAME).write_bytes(b"x" * COUNT)
        servers = []
        for name in names:
            servers.append(Running(name, directory))
            stack.callback(servers[-1].stop)
        yield servers


# -- the load -----------------------------------------------------------------------


class Load:
    """`load.c`, compiled."""

    def __init__(self, directory: Path) -> None:
        self.program = str(directory / "load")
        source = Path(__file__).with_name("load.c")
        subprocess.run(["cc", "-O2", "-o", self.program, str(source)], check=True)

    def command(
        self, server: Running, dialect: str, op: str, depth: int, connections: int, seconds: float
    ) -> list[str]:
        words = (server.port, dialect, server.aname, NAME, op, depth, connections, seconds)
        return [self.program, *map(str, words)]

    def rate(
        self, server: Running, dialect: str, op: str, depth: int, connections: int, seconds: float
    ) -> tuple[float, float]:
        """Operations per second, and the cores that the load itself used."""
        command = self.command(server, dialect, op, depth, connections, seconds)
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rate, cores = out.split()
        return float(rate), float(cores)


# -- the comparison -------------------------------------------------------------------


def compare(
    load: Load, peer: str, op: str, depth: int, connections: int, rounds: int, seconds: float
) -> None:
    rates: dict[str, list[float]] = {"ours": [], peer: []}
    cores: list[float] = []
    with running("mounted" if peer == "direct" else "ours", peer) as servers:
        if peer == "direct":
            asyncio.run(mount(servers[0].port, servers[1].port, "bench"))
            servers[0].aname = "bench"
        for server in servers:
            load.rate(server, DIALECT[peer], op, depth, connections, seconds / 5)
        for _ in range(rounds):
            for name, server in zip(rates, servers, strict=True):
                rate, used = load.rate(server, DIALECT[peer], op, depth, connections, seconds)
                rates[name].append(rate)
                if name == "ours":
                    cores.append(used)
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates[peer], strict=True)]
    ours, theirs = (statistics.median(rates[name]) for name in rates)
    print(
        f"{op:5} {depth:5} {connections:5} {peer:9} {ours:9,.0f} {theirs:9,.0f} "
        f"{statistics.median(ratios):6.2f} ({min(ratios):.2f}..{max(ratios):.2f}) "
        f"{statistics.median(cores):6.2f}",
        flush=True,
    )


def measure_idle(load: Load, count: int, rounds: int, seconds: float) -> None:
    """What `count` connections that do nothing cost, and do to one that does."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with running("ours") as (server,):
        load.rate(server, "9P2000", "read", 1, 1, seconds)
        rates: dict[str, list[float]] = {"alone": [], "beside them": []}
        costs = []
        for _ in range(rounds):
            rates["alone"].append(load.rate(server, "9P2000", "read", 1, 1, seconds)[0])
            before = processes.memory(server.process.pid)
            command = load.command(server, "9P2000", "idle", 1, count, 0)
            pipe = subprocess.PIPE
            with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as idle:
                assert idle.stdout is not None
                if idle.stdout.readline() != "ready\n":
                    raise SystemExit("the idle connections were not made")
                costs.append((processes.memory(server.process.pid) - before) / count)
                beside = load.rate(server, "9P2000", "read", 1, 1, seconds)[0]
                rates["beside them"].append(beside)
        # memory of connections that ended is used again, so only the first round shows it
        print(f"{count} idle connections: {costs[0] / 1024:.1f} KB of memory each")
        for name, values in rates.items():
            latency = 1e6 / statistics.median(values)
            print(f"a read of {COUNT} bytes on an active one {name}: {latency:.1f} us")


def main() -> None:
    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--ops", default="read,stat,walk")
    parser.add_argument("--peers", default="diod,pyroute2,direct")
    parser.add_argument("--depths", type=numbers, default=[1, 8, 32])
    parser.add_argument("--connections", type=numbers, default=[1, 8])
    parser.add_argument("--one-core", action="store_true")
    parser.add_argument("--idle", type=int, metavar="N")
    parser.add_argument("--serve", choices=SERVE)
    parser.add_argument("--port", type=int, default=5640)
    args = parser.parse_args()
    if args.serve:
        SERVE[args.serve](args.port)
        return
    with tempfile.TemporaryDirectory() as directory:
        load = Load(Path(directory))
        if args.one_core:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # our children inherit it
        if args.idle:
            measure_idle(load, args.idle, args.rounds, args.seconds)
            return
        print(f"operations/s, medians of {args.rounds} rounds in turns")
        print(f"{'':5} depth conns {'':9} {'ours':>9} {'theirs':>9}   ratio {'':13} load's cores")
        for peer in args.peers.split(","):
            if peer == "diod" and not DIOD:
                print("no diod here: apt-get install diod")
                continue
            for op in args.ops.split(","):
                for connections in [1] if peer == "echo" else args.connections:
                    for depth in [1] if peer == "echo" else args.depths:
                        rounds, seconds = args.rounds, args.seconds
                        compare(load, peer, op, depth, connections, rounds, seconds)


if __name__ == "__main__":
    main()
