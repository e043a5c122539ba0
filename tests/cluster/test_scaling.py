"""Hosts that come and go by the load, by `scale` and by `load`: real processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from llambo9p.cluster import scaling
from llambo9p.cluster.config import Cluster
from llambo9p.cluster.health import Health
from llambo9p.cluster.host import Worker
from llambo9p.cluster.members import Members
from llambo9p.errors import Error
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from tests.files import Files, story, until

from .harness import RunningCluster, cluster, simulated_host

NODES = {
    "tiny": {
        "count": 2,
        "workers_per_host": 2,
        "resources": {"model": "simulated", "slots": 2, "threads": 1, "context_size": 4096},
    },
    "bad": {"resources": {"model": "/nowhere.gguf"}},
}
SOON = {"look_back": "500ms", "cool_down_up": "100ms", "cool_down_down": "500ms"}


def config(**orchestrator: object) -> Cluster:
    return Cluster.model_validate(
        {
            "nodes": NODES,
            "orchestrator": orchestrator,
            "load_balancer": {"health_check_interval": 50},
        }
    )


def workers(running: RunningCluster) -> list[str]:
    return sorted(running.orchestrator._members.workers)


class Asking:
    """Clients that ask without a pause."""

    def __init__(self, files: Files) -> None:
        self.answers = 0
        self._files = files
        self._over = False

    @contextlib.asynccontextmanager
    async def clients(self, count: int) -> AsyncIterator[None]:
        """Inside they ask; at the end each has its last answer.  What is wrong is raised."""
        asking = [asyncio.create_task(self._ask(number)) for number in range(count)]
        try:
            yield
        finally:
            self._over = True
            await asyncio.gather(*asking)

    async def _ask(self, number: int) -> None:
        while not self._over:
            prompt = f"client {number} asks {self.answers} " + "a" * 200
            async with await self._files.open("data", c.ORDWR) as data:
                await data.write(prompt.encode())
                assert (await data.read_all()).decode() == f"simulated: {prompt}"
            self.answers += 1


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_SAMPLE_S", 0.05)


# -- the load ---------------------------------------------------------------------


@story
async def test_from_zero_to_several_hosts_and_back_and_nothing_is_lost() -> None:
    async with cluster(config(auto_scale=True, max_nodes=6, **SOON)) as running:
        asking = Asking(running.files)
        async with asking.clients(12):
            await until(lambda: len(workers(running)) == 6)
            assert (await running.files.attrs("status"))["hosts"] == "3"
        await until(lambda: not workers(running))
        assert not running.orchestrator._members.hosts
        assert asking.answers >= 12
        metrics = await running.files.attrs("metrics")
        assert metrics['llambo_requests_total{outcome="stop"}'] == f"{asking.answers:.1f}"
        assert float(metrics['llambo_scalings_total{direction="up"}']) >= 2
        async with asking.clients(1):
            pass
        assert await running.files.ask("again") == "simulated: again", "from zero once more"


@story
async def test_what_spawn_started_stays() -> None:
    async with cluster(config(auto_scale=True, min_nodes=1, max_nodes=8, **SOON)) as running:
        await until(lambda: workers(running) == ["worker-0000"])
        await running.files.write("ctl", "spawn --count 3")
        async with Asking(running.files).clients(20):
            await until(lambda: len(workers(running)) == 8)
        await until(lambda: len(workers(running)) == 4)
        scaler = running.orchestrator._scaling._types["tiny"].scaler
        seen = scaler._sampled
        await until(lambda: scaler._sampled > seen + 1.5)
        assert len(workers(running)) == 4, "3 that were asked for, on hosts of 2"


@story
async def test_why_a_host_cannot_be_started_is_told() -> None:
    async with cluster(config(auto_scale=True, cool_down_up="1m")) as running:
        files = running.files
        await files.write("ctl", "type bad")
        for _ in range(2):  # started for the first, and not again for the second
            with pytest.raises(Error, match="/nowhere.gguf: no such file"):
                await files.ask("hello")
        events = await files.open("events")
        text = (await events.read(0, 8192)).decode()
        events.forget()
        assert text.count('"kind": "scale.failed", "type": "bad"') == 1
        await files.write("ctl", "type huge")
        with pytest.raises(Error, match="no healthy worker"):
            await files.ask("hello")
        await files.write("ctl", "type")
        assert await files.ask("hello") == "simulated: hello", "others are started"


@story
async def test_without_auto_scale_nothing_is_started() -> None:
    async with cluster(config()) as running:
        with pytest.raises(Error, match="no healthy worker; start some"):
            await running.files.ask("hello")


@story
async def test_what_there_is_is_looked_at_once_for_all_types(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with cluster(config()) as running:
        scaler = running.orchestrator._scaling
        asked = 0

        def waiting() -> Counter[str]:
            nonlocal asked
            asked += 1
            return Counter({"": 2, "tiny": 1, "bad": 4})

        monkeypatch.setattr(scaler, "_waiting", waiting)
        monkeypatch.setattr(scaler, "_grow", never)
        scaler._look()
        assert asked == 1
        requests = {name: each.scaler.requests for name, each in scaler._types.items()}
        assert requests == {"tiny": 3, "bad": 4}, "of no type are the first's, none having slots"


async def never(*args: object) -> None:
    """Nothing is started."""


# -- scale ------------------------------------------------------------------------


@story
async def test_scale_sets_the_number_of_workers_while_they_are_asked() -> None:
    async with cluster(config()) as running:
        files = running.files
        await files.write("ctl", "scale 5 tiny")
        async with Asking(files).clients(6):
            for count, hosts in ((5, "3"), (2, "1"), (3, "2"), (1, "1")):
                await files.write("ctl", f"scale {count}")
                assert len(workers(running)) == count
                assert (await files.attrs("status"))["hosts"] == hosts
        await files.write("ctl", "scale 0")
        assert not workers(running)


@story
async def test_nobody_stays_drained_when_a_scale_is_flushed_and_then_its_fid_clunked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Linux does at ^C; the clunk comes while the worker is resumed."""
    tell = Members._tell
    resuming, clunked = asyncio.Event(), asyncio.Event()

    async def slowly(self: Members, worker: Worker, verb: str) -> None:
        if verb == "resume":
            resuming.set()
            await clunked.wait()
        await tell(self, worker, verb)

    monkeypatch.setattr(Members, "_tell", slowly)
    async with cluster(config()) as running:
        files, members = running.files, running.orchestrator._members
        await files.write("ctl", "spawn --count 2 --type tiny")
        for worker in members.workers.values():
            members.sent(worker)  # which is not over, so that it is waited for
        ctl = await files.open("ctl", c.OWRITE)
        write = files.client.call(m.Twrite(0, ctl.fid, 0, b"scale 1 tiny"), m.Rwrite)
        await until(lambda: members.counts[Health.DRAINING])
        write.cancel()
        await resuming.wait()
        await ctl.clunk()
        clunked.set()
        await until(lambda: members.counts[Health.HEALTHY] == 2)
        assert {worker.state for worker in members.workers.values()} == {"idle"}


@story
async def test_scale_leaves_those_that_others_started() -> None:
    async with cluster(config()) as running, simulated_host(2) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        await files.write("ctl", "scale 1 tiny")
        assert workers(running) == ["worker-0000", "worker-0001", "worker-0002"]
        await files.write("ctl", "scale 0 tiny")
        assert workers(running) == ["worker-0000", "worker-0001"]
        for line, words in {
            "scale": "usage: scale N [TYPE]",
            "scale -1": "scale: N must be 0..10000, not '-1'",
            "scale 1 huge": "no node type 'huge'; types are tiny bad",
        }.items():
            with pytest.raises(Error) as e:
                await files.write("ctl", line)
            assert words in str(e.value)


# -- load -------------------------------------------------------------------------


@story
async def test_a_worker_comes_back_with_another_model() -> None:
    """And then with the one before: there is a host that has it."""
    async with cluster(config()) as running:
        files = running.files
        await files.write("ctl", "spawn --count 2")
        await files.write("ctl", "load worker-0000 default")
        assert "SmolLM2" in (await files.attrs("nodes/worker-0000"))["model"]
        assert (await files.attrs("nodes/worker-0001"))["model"] == "simulated"
        assert (await files.attrs("status"))["hosts"] == "2"
        assert await files.ask("hello", "worker-0001") == "simulated: hello"
        await files.write("worker-0000/ctl", "max_tokens 4")
        answer = await files.ask("hello", "worker-0000")
        assert answer and not answer.startswith("simulated")
        await files.write("ctl", "load worker-0000 simulated")
        assert await files.ask("hello", "worker-0000") == "simulated: hello"
        assert workers(running) == ["worker-0000", "worker-0001"]
        (host,) = running.orchestrator._members.hosts
        assert list(await host.lines_now()) == ["worker-0001", "worker-0000"]


@story
async def test_a_worker_whose_model_cannot_be_loaded_stays() -> None:
    async with cluster(config()) as running, simulated_host(1, 5) as other:
        files = running.files
        await files.write("ctl", "spawn --count 1")
        await files.write("ctl", f"mount {other.address}")
        for line, words in {
            "load worker-0000 /nowhere.gguf": "/nowhere.gguf: no such file",
            "load worker-0000 nope": "no model 'nope'; there are default simulated, and paths",
            "load worker-0042 default": "nothing is mounted as worker-0042",
            "load worker-0005 default": "worker-0005 is on a host that was not started here",
            "load worker-0000": "usage: load NAME MODEL",
        }.items():
            with pytest.raises(Error) as e:
                await files.write("ctl", line)
            assert words in str(e.value)
        await files.write("ctl", "load worker-0000 simulated")
        assert (await files.attrs("nodes/worker-0000"))["health"] == "healthy"
        assert await files.ask("hello", "worker-0000") == "simulated: hello"
        assert (await files.attrs("status"))["hosts"] == "2"
