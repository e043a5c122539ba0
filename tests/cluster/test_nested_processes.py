"""Two levels of orchestrators as processes: a root, and regions whose hosts are their own.

Processes are killed, and a client is cut off, while answers stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from llambo9p.net.address import Address, parse
from llambo9p.p9 import constants as c
from tests.chaos.answers import answer
from tests.chaos.processes import Process
from tests.files import Files, files_of, reading, story, until
from tests.tiers import either

pytestmark = pytest.mark.timeout(60)

CONFIG = """
cluster:
  nodes:
    one:
      workers_per_host: 1
      resources: {{model: {model}, slots: 8, context_size: 512, threads: 1}}
  load_balancer: {{health_check_interval: 100, strategy: round-robin}}
  state: {{orphan_timeout: 120000}}
"""
STEP_S = 0.01
"""of the simulated model"""
AT_LEAST, AT_MOST = 60, 150
"""tokens of each answer; the simulated model's are bytes"""
SETTINGS = f"mode complete\ntemperature 0\nmax_tokens {AT_MOST}"
PROMPTS = [f"prompt {n}" for n in range(100)]
SIMULATED = [p for p in PROMPTS if AT_LEAST < len(answer(p)) <= AT_MOST][:6]
LISTS = [
    f"{what}, one after the other: 1. {first}, 2."
    for what, first in (("The planets", "Mercury"), ("The months", "January"))
]
"""the real model goes on with them for long"""
HELD = re.compile(r"^llambo_(?:fids|conversations|buffered_bytes|active_requests) .*", re.MULTILINE)


class Orchestrator:
    """One process after the other, with the same socket and state file."""

    def __init__(self, directory: Path, name: str, config: Path) -> None:
        self.address = parse(f"unix!{directory}/{name}")
        self._state = directory / f"{name}.state"
        self._process = Process(
            "llambo9p_nodes.orchestrator",
            *("--listen", str(self.address), "--state", str(self._state)),
            *("--config", str(config)),
            log=directory / f"{name}.log",
            step=STEP_S,
        )

    async def start(self) -> None:
        await self._process.start()

    async def kill(self) -> None:
        await self._process.end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._process.end(signal.SIGTERM)

    def hosts(self) -> dict[str, int]:
        """The pids of those that it started, by name."""
        started = [host["started"] for host in json.loads(self._state.read_text())["hosts"]]
        return {each["spec"]["name"]: int(each["handle"]) for each in started}


class Nested:
    """`regions` are mounted by the root under their names."""

    def __init__(self, root: Orchestrator, files: Files, regions: dict[str, Orchestrator]) -> None:
        self.root = root
        self.files = files
        self.regions = regions

    async def until_node(self, path: str, **wanted: str) -> dict[str, str]:
        while not wanted.items() <= (attrs := await self.files.attrs(path)).items():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return attrs


@contextlib.asynccontextmanager
async def nested(
    hosts: Sequence[int], model: str = "simulated"
) -> AsyncIterator[Nested]:
    """A region for each of `hosts`, with so many."""
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llambo-")))
        config = directory / "config.yaml"
        config.write_text(CONFIG.format(model=model))
        names = ["root", *(f"region{n}" for n in range(1, len(hosts) + 1))]
        root, *regions = [Orchestrator(directory, name, config) for name in names]
        for each in (*regions, root):  # the root ends first
            stack.push_async_callback(each.stop)
        await asyncio.gather(*(each.start() for each in (*regions, root)))
        await asyncio.gather(
            *(_spawn(each.address, count) for each, count in zip(regions, hosts, strict=True))
        )
        files = await stack.enter_async_context(files_of(root.address))
        for name, each in zip(names[1:], regions, strict=True):
            await files.write("ctl", f"mount {each.address} {name}")
        yield Nested(root, files, dict(zip(names[1:], regions, strict=True)))


async def _spawn(at: Address, count: int) -> None:
    async with files_of(at) as files:
        await files.write("ctl", f"spawn --count {count}")


class Reader:
    """A conversation of its own, whose answer is read as it comes."""

    def __init__(self, files: Files, number: str) -> None:
        self._files = files
        self._number = number
        self.tokens = b""
        """the lines of those that came"""

    @classmethod
    async def ask(cls, files: Files, prompt: str) -> tuple[Reader, asyncio.Task[Answered]]:
        clone = await files.open("clone", c.ORDWR)
        await clone.write(SETTINGS.encode())
        reader = cls(files, (await clone.read(0)).decode().strip())
        await files.write(f"{reader._number}/prompt", prompt)
        return reader, asyncio.create_task(reader._read())

    async def _read(self) -> Answered:
        async with await self._files.open(f"{self._number}/tokens") as tokens:
            async for lines in tokens.chunks():
                self.tokens += lines
        usage = await self._files.attrs(f"{self._number}/usage")
        counted = usage["completion_tokens"], usage["given_tokens"], usage["finish_reason"]
        return self.tokens, await self._files.read(f"{self._number}/out"), counted

    @property
    def count(self) -> int:
        return self.tokens.count(b"\n")


Answered = tuple[bytes, str, tuple[str, str, str]]


async def ask_all(
    files: Files, prompts: Sequence[str]
) -> tuple[list[Reader], asyncio.Future[list[Answered]]]:
    asked = [await Reader.ask(files, prompt) for prompt in prompts]
    return [reader for reader, _ in asked], asyncio.gather(*(answer for _, answer in asked))


async def failovers(files: Files, path: str) -> int:
    """As `events` tells of them."""
    async with await files.open(path) as events:
        return (await events.read(0)).count(b'"request.failover"')


@story
async def test_a_tree_of_two_levels_is_answered_by_all_that_is_below() -> None:
    async with nested([2, 1]) as running:
        files = running.files
        assert set(await files.ls("nodes")) == {"region1", "region2"}
        for name in running.regions:
            assert set(await files.ls(name)) >= {"ctl", "prompt", "out", "nodes", "worker-0000"}
        _, answers = await ask_all(files, SIMULATED)
        expected = [answer(prompt).decode() for prompt in SIMULATED]
        assert [text for _, text, _ in await answers] == expected
        await running.until_node("region2/nodes/worker-0000", requests="3")
        assert await files.ask(SIMULATED[0], "region1") == expected[0]
        assert await files.ask(SIMULATED[1], "region1/worker-0001") == expected[1]


@pytest.mark.parametrize(
    ("model", "prompts"),
    [
        ("simulated", SIMULATED),
        pytest.param(
            "default",
            LISTS * either(1, 3),
            marks=[pytest.mark.slow, pytest.mark.timeout(300)],
        ),
    ],
)
@story
async def test_a_region_that_is_killed_is_lost_to_no_reader_and_comes_back(
    model: str, prompts: list[str]
) -> None:
    async with nested([1, 1], model) as running:
        files, region = running.files, running.regions["region1"]
        _, answers = await ask_all(files, prompts)
        undisturbed = await answers
        assert all(tokens.count(b"\n") > AT_LEAST for tokens, _, _ in undisturbed)
        hosts = region.hosts()
        epoch = (await files.attrs("region1/nodes/worker-0000"))["epoch"]
        readers, answers = await ask_all(files, prompts)
        await until(lambda: all(reader.count > 5 for reader in readers))
        assert max(reader.count for reader in readers) <= AT_LEAST, "they are read as they come"
        await region.kill()
        assert await answers == undisturbed
        assert await failovers(files, "events") >= len(prompts) // 2
        await region.start()
        await running.until_node("nodes/region1", health="healthy", capacity="8")
        assert (await files.attrs("region1/nodes/worker-0000"))["epoch"] == epoch
        assert region.hosts() == hosts, "they are not started again"
        await files.write("ctl", "drain region2")
        _, answers = await ask_all(files, prompts)
        assert await answers == undisturbed


@story
async def test_a_leaf_that_is_killed_is_replaced_by_its_region() -> None:
    async with nested([2, 1]) as running:
        files, region = running.files, running.regions["region1"]
        _, answers = await ask_all(files, SIMULATED)
        undisturbed = await answers
        epoch = (await files.attrs("region1/nodes/worker-0000"))["epoch"]
        readers, answers = await ask_all(files, SIMULATED + SIMULATED)
        await until(lambda: all(reader.count > 5 for reader in readers))
        assert max(reader.count for reader in readers) <= AT_LEAST
        os.kill(region.hosts()["host-0000"], signal.SIGKILL)
        assert await answers == undisturbed + undisturbed
        assert await failovers(files, "region1/events") > 0
        assert await failovers(files, "events") == 0
        await running.until_node("region1/nodes/worker-0000", health="healthy")
        node = await running.until_node("nodes/region1", health="healthy", capacity="16")
        assert node["state"] != "lost"
        assert (await files.attrs("region1/nodes/worker-0000"))["epoch"] != epoch
        prompt = SIMULATED[0]
        assert await files.ask(prompt, "region1/worker-0000") == answer(prompt).decode()


@story
async def test_a_client_that_is_cut_off_leaves_nothing_two_levels_down() -> None:
    """Its requests stop at the leaf, and what it had half written is not submitted."""
    long = max(PROMPTS, key=lambda prompt: len(answer(prompt)))
    worker = "region1/worker-0000"
    async with nested([1]) as running:
        files = running.files
        await files.ask(SIMULATED[0])  # what is made once is there
        await files.attrs(f"{worker}/status")
        host = parse((await files.attrs("region1/nodes/worker-0000"))["addr"])
        async with files_of(host) as leaf, files_of(running.regions["region1"].address) as region:
            before = [await _held(each) for each in (leaf, region, files)]
            told = await leaf.attrs("status")
            async with files_of(running.root.address) as cut_off:
                await _open_much(cut_off, worker, long)
                while (await leaf.attrs("status"))["active"] != "4":  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            while [await _held(each) for each in (leaf, region, files)] != before:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            now = await leaf.attrs("status")
            generated = int(now["generated_tokens"]) - int(told["generated_tokens"])
            assert generated < 2 * len(answer(long)), "of four answers"
            prompts = [await files.read(f"{path}/prompt") for path in ("", "region1", worker)]
            assert prompts == [SIMULATED[0], "", ""]


async def _held(files: Files) -> list[str]:
    return HELD.findall(await files.read("metrics"))


async def _open_much(files: Files, worker: str, prompt: str) -> None:
    """Four requests that run, three prompts that are half written."""
    for path in ("", worker):
        data = await files.open(f"{path}/data", c.ORDWR)
        await data.write(prompt.encode())
        reading(data).add_done_callback(lambda read: read.exception())
        clone = await files.open(f"{path}/clone", c.ORDWR)
        number = (await clone.read(0)).decode().strip()
        await files.write(f"{path}/{number}/prompt", prompt)
    for path in ("", "region1", worker):
        await (await files.open(f"{path}/prompt", c.OWRITE)).write(b"half a pro")
