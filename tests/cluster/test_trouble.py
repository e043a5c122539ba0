"""What operators and unlucky clients do to a cluster, one test for each defect that
was found by trying: crowds, half-written files, workers that leave in use, drains
that nobody was told of, servers that hang or talk nonsense.
"""

from __future__ import annotations

import asyncio

import pytest

from llambo9p.cluster import host as hosts
from llambo9p.cluster.config import Cluster
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error
from llambo9p.fs.file import File, OpenFile
from llambo9p.fs.tree import Directory, SyntheticFile, TextFile, Tree
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.worker.host import Host
from tests.files import ANYWHERE, Files, files_of, reading, story, turns_of_the_loop, until

from .harness import cluster, simulated_host

OFTEN = Cluster.model_validate({"load_balancer": {"health_check_interval": 20}})
RARELY = Cluster.model_validate(
    {"load_balancer": {"health_check_interval": 60_000, "strategy": "round-robin"}}
)


class LaterLoop(asyncio.SelectorEventLoop):
    """Its clock is `ahead` seconds before the real one."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


async def ask(files: Files, text: str) -> str:
    data = await files.open("data", c.ORDWR)
    await data.write(text.encode())
    answer = (await data.read_all()).decode()
    await data.clunk()
    return answer


@story
async def test_a_crowd_of_waiting_readers_is_no_lost_host() -> None:
    gate = Gate()
    async with (
        cluster(OFTEN) as running,
        simulated_host(gate=gate) as host,
        files_of(running.address) as one,
        files_of(running.address) as two,
    ):
        await running.files.write("ctl", f"mount {host.address}")
        await running.files.write("worker-0000/prompt", "wait")
        for files in (one, two):
            out = await files.open("worker-0000/out")
            crowd = [reading(out) for _ in range(600)]
        [mounted] = running.orchestrator._members.hosts
        seen = mounted.heartbeat
        await until(lambda: mounted.heartbeat > seen or mounted.lost)
        assert not mounted.lost
        gate.open()
        await asyncio.gather(*crowd, return_exceptions=True)


@pytest.mark.parametrize("path", ["worker-0000/prompt", "worker-0000/system"])
@story
async def test_a_half_written_file_of_a_worker_is_discarded_with_its_client(path: str) -> None:
    async with (
        cluster() as running,
        simulated_host() as host,
        files_of(running.address) as leaves,
    ):
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        half = await leaves.open(path, c.OWRITE)
        await half.write(b"the first half of")
        leaves.client.close()
        await until(lambda: len(running.server.connections) == 1)
        assert await files.read(path) == ""  # behind what became of the half
        assert host.host.workers["worker-0000"].requests == 0


@story
async def test_an_answer_goes_on_when_its_worker_is_unmounted() -> None:
    gate = Gate()
    async with cluster() as running, simulated_host(2, gate=gate) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        await files.write("prompt", "go on")
        workers = host.host.workers
        await until(lambda: any(worker.active for worker in workers.values()))
        [busy] = [name for name, worker in workers.items() if worker.active]
        await files.write("ctl", f"unmount {busy}")
        gate.open()
        assert "go on" in await files.read("out")
        await files.write("prompt", "and on")  # on the other: its own is unmounted
        assert "and on" in await files.read("out")
        assert [worker.requests for worker in workers.values()] == [1, 1]
        await files.write("ctl", f"mount {host.address}")
        assert busy in await files.ls()
        with pytest.raises(Error, match="all workers of tcp!.* are mounted"):
            await files.write("ctl", f"mount {host.address}")


@pytest.mark.parametrize("verb", ["drain", "shutdown"])
@story
async def test_a_worker_that_leaves_between_heartbeats_fails_nobody(verb: str) -> None:
    async with cluster(RARELY) as running, simulated_host(2) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        await files.write("worker-0000/ctl", verb)
        for i in range(4):
            assert f"question {i}" in await ask(files, f"question {i}")


@story
async def test_when_all_workers_refuse_the_reason_is_told() -> None:
    async with cluster(RARELY) as running, simulated_host() as host:
        await running.files.write("ctl", f"mount {host.address}")
        await running.files.write("worker-0000/ctl", "drain")
        with pytest.raises(Error, match="worker-0000 is draining"):
            await ask(running.files, "anybody?")


@pytest.mark.parametrize("path", ["", "worker-0000/"])
@story
async def test_an_answer_that_a_shutdown_cuts_off_is_an_error(path: str) -> None:
    gate = Gate()
    async with (
        cluster() as running,
        simulated_host(gate=gate, answer=lambda prompt: b"0123456789" * 9) as host,
    ):
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        data = await files.open(f"{path}data", c.ORDWR)
        await data.write(b"go")
        first = reading(data)
        await until(lambda: gate.allow() or first.done())
        await files.write("worker-0000/ctl", "shutdown")
        gate.open()
        with pytest.raises(Error, match="worker-0000 was shut down"):
            while (await reading(data)).data:
                pass


@story
async def test_who_comes_takes_no_place_of_one_that_is_waited_for() -> None:
    async with cluster() as running, simulated_host(2) as dies, simulated_host(1) as comes:
        files = running.files
        await files.write("ctl", f"mount {dies.address}")
        dies.kill()
        await until(lambda: "lost 2\n" in running.orchestrator.status_text(True))
        await files.write("ctl", f"mount {comes.address}")
        states = [(await files.attrs(f"nodes/worker-000{i}"))["state"] for i in (0, 1, 2)]
        assert states == ["lost", "lost", "idle"]
        assert "hello" in await ask(files, "hello")
        await files.write("ctl", "unmount worker-0000\nunmount worker-0001\nunmount worker-0002")
        await files.write("ctl", f"mount {comes.address}")
        assert await files.ls("nodes") == ["worker-0000"]


@pytest.mark.parametrize(
    "name", ["0", "a/b", "..", "worker-\u00b2", "x" * 65, "'a\nb'", "-", "\u0007"]
)
@story
async def test_bad_names_are_refused(name: str) -> None:
    async with cluster() as running, simulated_host() as host:
        before = await running.files.ls()
        with pytest.raises(Error, match="mount: bad name"):
            await running.files.write("ctl", f"mount {host.address} {name}")
        assert await running.files.ls() == before


@story
async def test_nothing_of_a_write_with_a_wrong_name_happens() -> None:
    async with cluster() as running:
        with pytest.raises(Error, match="nothing is mounted as nosuch"):
            await running.files.write("ctl", "temperature 0.125\nunmount nosuch\ntop_k 5")
        assert "temperature 0.125" not in await running.files.read("ctl")


@pytest.mark.parametrize(
    "verb", ["spawn --count ", "mount tcp!127.0.0.1!", "mount tcp!a..b!1 x", "seed ", "stop "]
)
@story
async def test_absurd_words_are_refused_as_such(verb: str) -> None:
    async with cluster() as running:
        with pytest.raises(Error) as refused:
            await running.files.write("ctl", verb + "9" * 5000)
        assert "internal error" not in str(refused.value)


@story
async def test_a_server_that_never_answers_attach_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosts, "CONNECT_S", 0.1)

    async def answer_version(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(m.Rversion(c.NOTAG, 8192, "9P2000").pack())
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer_version, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, cluster() as running:
        with pytest.raises(Error, match=f"timed out: tcp!127.0.0.1!{port} does not answer"):
            await running.files.write("ctl", f"mount tcp!127.0.0.1!{port} mute")
        await turns_of_the_loop()


@story
async def test_a_host_that_talks_nonsense_is_lost() -> None:
    tree = Tree("glenda")
    root = Directory(tree, "/")
    said = ["worker-0000 idle 0 0 0 0 0\n"]
    root.add(TextFile(tree, "workers", lambda: said[0]))
    root.add(TextFile(tree, "status", lambda: "type tiny\nslots 1\n"))
    root.add(Directory(tree, "worker-0000"))
    server = Server(lambda uname, aname: root)
    address = await server.listen(ANYWHERE)
    async with cluster(OFTEN) as running:
        await running.files.write("ctl", f"mount {address}")
        said[0] = "worker-0000 is fine\n"
        await until(lambda: "lost 1\n" in running.orchestrator.status_text(True))
    await server.close()


class Created(SyntheticFile):
    """Keeps what is written."""

    def __init__(self, tree: Tree, name: str) -> None:
        super().__init__(tree, name, 0o666)
        self.data = b""

    def open(self, mode: int) -> OpenFile:
        return OpenCreated(self)


class OpenCreated(OpenFile):
    def __init__(self, file: Created) -> None:
        self.file = file

    def write(self, offset: int, data: bytes) -> int:
        self.file.data += data
        return len(data)


class Writable(Directory):
    def create(self, name: str, perm: int, mode: int) -> tuple[File, OpenFile]:
        made = self.add(Created(self.tree, name))
        return made, OpenCreated(made)


@story
async def test_a_file_can_be_created_through_a_mount() -> None:
    tree = Tree("glenda")
    root = Writable(tree, "/")
    server = Server(lambda uname, aname: root)
    address = await server.listen(ANYWHERE)
    async with cluster() as running:
        files = running.files
        await files.write("ctl", f"mount {address} disk")
        fid, _ = await files.walk("disk")
        await files.client.call(m.Tcreate(0, fid, "new", 0o666, c.OWRITE), m.Rcreate)
        await files.client.call(m.Twrite(0, fid, 0, b"written"), m.Rwrite)
        await files.client.clunk(fid)
        assert "new" in await files.ls("disk")
        new = root.find("new")
        assert isinstance(new, Created) and new.data == b"written"
    await server.close()


def test_23_a_prefill_that_takes_minutes_is_no_lost_worker() -> None:
    """Heartbeats say that the host is well, and steps end, however long its first token takes."""
    gate = Gate()
    seconds = 6.0
    config = Cluster.model_validate({"load_balancer": {"health_check_interval": seconds * 1000}})

    async def main(loop: LaterLoop) -> None:
        async with cluster(config) as running, simulated_host(gate=gate) as host:
            await running.files.write("ctl", f"mount {host.address}")
            [mounted] = running.orchestrator._members.hosts
            outs = []
            for place in ("", "worker-0000/"):
                await running.files.write(f"{place}prompt", "long " * 750)
                outs.append(reading(await running.files.open(f"{place}out")))
            await until(lambda: host.engine.load.active)
            for _ in range(40):
                seen = mounted.heartbeat
                loop.ahead += seconds
                await until(lambda seen=seen: mounted.heartbeat > seen or mounted.lost)
                await until(lambda: gate.entered(0))
                gate.allow()
                await turns_of_the_loop()  # until the next heartbeat is waited for
            assert not mounted.lost and not any(out.done() for out in outs)
            gate.open()
            for out in outs:
                assert (await out).data.startswith(b"s")

    with asyncio.Runner(loop_factory=LaterLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, LaterLoop)
        runner.run(main(loop))


def test_a_host_that_is_busy_for_seconds_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who writes megabytes of `history` keeps a host's event loop that long; it was
    stopped for that, with everybody's conversations."""
    seconds = 5.0

    async def main(loop: LaterLoop) -> None:
        workers_text = Host.workers_text

        def late(host: Host, figures: bool) -> str:
            loop.ahead += seconds
            return workers_text(host, figures)

        async with cluster(OFTEN) as running:
            monkeypatch.setattr(Host, "workers_text", late)
            async with simulated_host() as host:
                await running.files.write("ctl", f"mount {host.address}")
                [mounted] = running.orchestrator._members.hosts
                for _ in range(3):
                    seen = mounted.heartbeat
                    await until(lambda seen=seen: mounted.heartbeat > seen or mounted.lost)
                assert not mounted.lost

    with asyncio.Runner(loop_factory=LaterLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, LaterLoop)
        runner.run(main(loop))
