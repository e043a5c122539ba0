"""Every strategy on two real hosts; the file `balancer`; `type`; strategies of other packages.

Hosts are processes with the simulated engine.  One that is stopped by a signal keeps what it
was sent, which is how a test makes it busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from llambo9p.cluster import strategies
from llambo9p.cluster.config import Cluster
from llambo9p.errors import Error, InvalidArgument, PermissionDenied
from llambo9p.p9 import constants as c
from tests.files import Files, story

from .harness import RunningCluster, cluster
from .test_users import shared

README = (Path(__file__).parents[2] / "README.md").read_text()
PREFIX = "You are a helpful assistant, and answer in one word. " * 20


def simulated(context: int) -> dict[str, object]:
    return {"count": 2, "resources": {"model": "simulated", "context_size": context}}


@contextlib.asynccontextmanager
async def two_hosts(strategy: str, patience: int = 30_000) -> AsyncIterator[RunningCluster]:
    """worker-0000 and worker-0001 of type tiny on one, worker-0002 and worker-0003 of type
    large on the other."""
    config = Cluster.model_validate(
        {
            "nodes": {"tiny": simulated(2048), "large": simulated(32768)},
            "load_balancer": {"strategy": strategy, "timeout": patience},
        }
    )
    async with cluster(config) as running:
        await running.files.write("ctl", "spawn --type tiny\nspawn --type large")
        yield running


async def one_shot(files: Files, text: str) -> str:
    async with await files.open("data", c.ORDWR) as data:
        await data.write(text.encode())
        return (await data.read_all()).decode()


async def dispatched(files: Files) -> list[int]:
    """What was sent to each of the four workers, as `balancer` shows it."""
    text = await files.read("balancer")
    found = dict(re.findall(r"^worker (\S+) .*dispatched (\d+)$", text, re.MULTILINE))
    return [int(found[f"worker-{i:04d}"]) for i in range(4)]


@contextlib.asynccontextmanager
async def stopped(files: Files, worker: str) -> AsyncIterator[None]:
    """The host of that worker does nothing."""
    path = (await files.attrs(f"nodes/{worker}"))["addr"].removeprefix("unix!")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        ucred = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, _, _ = struct.unpack("3i", ucred)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@story
async def test_round_robin_on_two_hosts() -> None:
    async with two_hosts("round-robin") as running:
        for i in range(12):
            assert await one_shot(running.files, str(i)) == f"simulated: {i}"
        assert await dispatched(running.files) == [3, 3, 3, 3]


@story
async def test_random_on_two_hosts() -> None:
    async with two_hosts("random") as running:
        for i in range(60):
            await one_shot(running.files, str(i))
        counts = await dispatched(running.files)
        assert sum(counts) == 60 and min(counts) > 0


@story
async def test_least_loaded_on_two_hosts_goes_where_less_is_pending() -> None:
    async with two_hosts("least-loaded") as running:
        files = running.files
        async with stopped(files, "worker-0000"):
            asking = []
            while sum((await dispatched(files))[:2]) == 0:  # by chance
                asking.append(asyncio.ensure_future(one_shot(files, "stuck or not")))
                await asyncio.wait(asking, timeout=0.05)
            before = await dispatched(files)
            for i in range(10):
                assert await one_shot(files, str(i)) == f"simulated: {i}"
            after = await dispatched(files)
            assert after[:2] == before[:2], "the stopped host has enough to do"
            assert sum(after) == sum(before) + 10
        assert {await each for each in asking} == {"simulated: stuck or not"}
        attrs = await files.attrs("balancer")
        assert (attrs["requests"], attrs["pending_decode"]) == ("0", "0")


@story
async def test_affinity_on_two_hosts_finds_the_prefix_in_the_cache() -> None:
    async with two_hosts("affinity") as running:
        files = running.files
        await files.write("system", PREFIX)
        cached = []
        for i in range(8):
            await one_shot(files, f"question {i}")
            cached.append(int((await files.attrs("usage"))["cached_tokens"]))
        assert cached[0] == 0 and min(cached[1:]) > len(PREFIX) // 2
        counts = await dispatched(files)
        assert sorted((sum(counts[:2]), sum(counts[2:]))) == [0, 8]
        assert "\naffinity followed 7\naffinity passed_over 0\n" in await files.read("balancer")


@story
async def test_affinity_passes_over_a_busy_favourite() -> None:
    async with two_hosts("affinity") as running:
        files = running.files
        await files.write("ctl", "max_tokens 2000\nmode complete")
        for node_type in ("tiny", "large"):  # how fast both are becomes known
            await files.write("ctl", f"type {node_type}")
            for _ in range(8):
                await one_shot(files, "something short\n" + "to measure it " * 5)
        await files.write("ctl", "type tiny")
        await one_shot(files, PREFIX + "first")
        await files.write("ctl", "type")
        async with stopped(files, "worker-0000"):
            asking = [
                asyncio.ensure_future(one_shot(files, f"{PREFIX}\nstuck {i}")) for i in range(8)
            ]
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            assert "passed_over 0" not in await files.read("balancer")
        assert all("stuck" in answer for answer in await asyncio.gather(*asking))


@story
async def test_the_strategy_is_changed_by_balancer_and_by_ctl(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        files = place.me
        for path, text, strategy in (
            ("balancer", "affinity\n", "affinity"),
            ("ctl", "strategy random", "random"),
            ("balancer", "round-robin", "round-robin"),
        ):
            await files.write(path, text)
            assert (await place.alice.attrs("balancer"))["strategy"] == strategy
            assert (await files.attrs("status"))["strategy"] == strategy
            await place.alice.ask("hello")
        assert "\ndecisions round-robin 1\n" not in await files.read("balancer"), (
            "a conversation stays with its worker"
        )
        assert "\ndecisions affinity 1\n" in await files.read("balancer")
        for path, text in (
            ("balancer", "fastest"), ("balancer", "\n"), ("balancer", "strategy random"),
            ("ctl", "max_tokens 3\nstrategy fastest"),
        ):  # fmt: skip
            with pytest.raises(Error, match="^no strategy .*; strategies are round-r"):
                await files.write(path, text)
        assert (await files.attrs("ctl"))["max_tokens"] == "256"
        await place.bob.write("balancer", "random")
        for path, text in (("balancer", "affinity"), ("ctl", "strategy affinity")):
            with pytest.raises(PermissionDenied, match="is for the owner and security.admins"):
                await place.alice.write(path, text)
        assert (await files.attrs("balancer"))["strategy"] == "random"


# -- types ------------------------------------------------------------------------


@story
async def test_a_request_goes_to_the_type_that_its_conversation_has() -> None:
    async with two_hosts("round-robin") as running:
        files = running.files
        await files.write("ctl", "type large")
        for i in range(4):
            await one_shot(files, str(i))
        assert await dispatched(files) == [0, 0, 2, 2]
        clone = await files.open("clone", c.ORDWR)
        assert (await files.attrs("0/ctl"))["type"] == ""
        await clone.write(b"type tiny")
        for i in range(3):
            await files.ask(str(i), "0")
        assert sorted((await dispatched(files))[:2]) == [0, 3], "and stays with its worker"
        await clone.write(b"reset\ntype large")
        assert await files.ask("moved", "0") == "simulated: moved"
        assert sum((await dispatched(files))[2:]) == 5
        assert (await files.attrs("ctl"))["type"] == "large"
        await files.write("ctl", "type")
        for i in range(4):
            await one_shot(files, str(i))
        assert sum(await dispatched(files)) == 12 and sum((await dispatched(files))[:2]) > 3


@story
async def test_a_conversation_that_changes_its_type_takes_its_history_along() -> None:
    async with two_hosts("least-loaded") as running:
        files = running.files
        await files.write("ctl", "type tiny")
        await files.ask("first")
        await files.write("ctl", "type large")
        assert await files.ask("second") == "simulated: second"
        counts = await dispatched(files)
        assert (sum(counts[:2]), sum(counts[2:])) == (1, 1)
        prompt_tokens = int((await files.attrs("usage"))["prompt_tokens"])
        assert prompt_tokens > len("first" "simulated: first" "second")


@story
async def test_a_type_that_nobody_has_is_refused_with_those_there_are() -> None:
    async with two_hosts("affinity", patience=500) as running:
        files = running.files
        await files.write("ctl", "type huge")
        said = "no healthy worker of type huge; types are large tiny"
        with pytest.raises(Error, match=f"^{said}$"):
            await files.ask("hello")
        with pytest.raises(Error, match=f"^{said}$"):
            await one_shot(files, "hello")
        assert (await files.attrs("status"))["error"] == said
        await files.write("worker-0002/ctl", "drain")
        await files.write("worker-0003/ctl", "drain")
        await files.write("ctl", "type large")
        await until_drained(files)
        with pytest.raises(Error, match="^no healthy worker of type large; types are tiny$"):
            await files.ask("hello")
        await files.write("worker-0003/ctl", "resume")
        while "no healthy" in await failure(files):
            pass
        assert (await dispatched(files))[3] == 1


async def until_drained(files: Files) -> None:
    for name in ("worker-0002", "worker-0003"):
        while (await files.attrs(f"nodes/{name}"))["state"] != "draining":
            pass


async def failure(files: Files) -> str:
    """What asking fails with, if it does."""
    try:
        await one_shot(files, "hello")
    except Error as e:
        return str(e)
    return ""


@story
async def test_a_worker_refuses_a_type_that_is_not_its_own() -> None:
    async with two_hosts("affinity") as running:
        files = running.files
        await files.write("worker-0000/ctl", "type large")
        with pytest.raises(Error, match="^worker-0000 is of type tiny, not large$"):
            await files.ask("hello", "worker-0000")
        await files.write("worker-0000/ctl", "type tiny")
        assert await files.ask("hello", "worker-0000") == "simulated: hello"


@story
async def test_a_long_prompt_goes_where_it_fits() -> None:
    async with two_hosts("round-robin") as running:
        files = running.files
        await files.write("ctl", "overflow error\nmax_tokens 1")
        for i in range(8):
            await one_shot(files, "x" * (10_000 if i % 2 else 10))
        assert await dispatched(files) == [1, 1, 3, 3]


# -- other packages' strategies ---------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with strategies, as pip would install it: README's, which is the seed's custom
    load balancer, and some that cannot be used."""
    [by_length] = re.findall(
        r"^```python\n([^`]*class ByLength\(LeastLoaded\)[^`]*)^```$", README, re.MULTILINE
    )
    (tmp_path / "by_length.py").write_text(
        f"{by_length}\n\n"
        "class Broken(LeastLoaded):\n"
        "    def choose(self, needs, eligible):\n"
        "        return eligible.workers[10**6]\n\n\n"
        "class Needy(LeastLoaded):\n"
        "    def __init__(self, rng):\n"
        "        raise OSError('no crystal ball')\n"
    )
    info = tmp_path / "by_length-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: by-length\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[llambo9p.strategies]\n"
        "by-length = by_length:ByLength\n"
        "broken = by_length:Broken\n"
        "missing = by_length:Missing\n"
        "needy = by_length:Needy\n"
        "none = os:getcwd\n"
        "random = by_length:Broken\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield


@story
async def long_prompts_to_large_nodes_and_short_ones_to_tiny_nodes() -> None:
    async with two_hosts("by-length") as running:
        files = running.files
        for i in range(3):
            await one_shot(files, f"short {i}")
            await one_shot(files, f"long {i}\n" + "x" * 1000)
        counts = await dispatched(files)
        assert (sum(counts[:2]), sum(counts[2:])) == (3, 3)
        await files.write("ctl", "type tiny")
        await one_shot(files, "x" * 1500)
        assert sum((await dispatched(files))[:2]) == 4, "what the request requires comes first"
        attrs = await files.attrs("balancer")
        assert attrs["strategies"] == (
            "round-robin least-loaded random affinity broken by-length missing needy none"
        )
        await files.write("balancer", "broken")
        with pytest.raises(Error, match=r"^strategy broken: IndexError\("):
            await one_shot(files, "hello")
        for name, said in (
            ("missing", "strategy missing: cannot load by_length:Missing: "),
            ("none", "strategy none: os:getcwd is no subclass of Strategy"),
            ("needy", "strategy needy: OSError.*no crystal ball"),
        ):
            with pytest.raises(Error, match=said):
                await files.write("balancer", name)
        assert (await files.attrs("balancer"))["strategy"] == "broken"
        await files.write("balancer", "random")
        await one_shot(files, "the built-in one")


def test_the_seeds_custom_balancer(installed: None) -> None:
    long_prompts_to_large_nodes_and_short_ones_to_tiny_nodes()


def test_strategies_have_the_seeds_numbers() -> None:
    assert [strategies.numbered(i) for i in range(3)] == ["round-robin", "least-loaded", "random"]
    for number in (-1, 3):
        with pytest.raises(InvalidArgument, match="strategies are 0 round-robin, 1 least-loaded"):
            strategies.numbered(number)
