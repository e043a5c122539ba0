"""An answer that was cut is never a whole one: whatever ends, who reads gets all of it or an
error."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from llambo9p.cluster.config import Cluster
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error
from llambo9p.net.client import RemoteOpen
from llambo9p.p9 import constants as c
from tests.files import Files, story, until

from .harness import RunningCluster, SimulatedHost, cluster, simulated_host

PROMPT = "a prompt " + "with a long answer " * 10
WHOLE = f"simulated: {PROMPT}".encode()
STEPS = 30
"""of each host, before something ends"""


@dataclass
class Place:
    running: RunningCluster
    hosts: list[SimulatedHost]
    gates: list[Gate]

    @property
    def files(self) -> Files:
        return self.running.files

    def step(self) -> None:
        for gate in self.gates:
            gate.step()

    def open_gates(self) -> None:
        for gate in self.gates:
            gate.open()


@contextlib.asynccontextmanager
async def place() -> AsyncIterator[Place]:
    """A cluster of two hosts, which decode when their gates let them."""
    gates = [Gate(), Gate()]
    config = Cluster.model_validate({"load_balancer": {"timeout": 500}})
    async with (
        simulated_host(1, gate=gates[0]) as one,
        simulated_host(1, 1, gate=gates[1]) as other,
        cluster(config) as running,
    ):
        await running.files.write("ctl", f"mount {one.address}\nmount {other.address}")
        try:
            yield Place(running, [one, other], gates)
        finally:
            for gate in gates:
                gate.open()


# What reads: each gives the file that the answer is read from.


async def out(files: Files, directory: str) -> RemoteOpen:
    await files.write(f"{directory}/prompt", PROMPT)
    return await files.open(f"{directory}/out")


async def queued(files: Files, directory: str) -> RemoteOpen:
    """Of a prompt that waits for the one before it."""
    await files.write(f"{directory}/prompt", PROMPT)
    return await out(files, directory)


async def data(files: Files, directory: str) -> RemoteOpen:
    file = await files.open(f"{directory}/data", c.ORDWR)
    await file.write(PROMPT.encode())
    return file


async def clone(files: Files, directory: str) -> RemoteOpen:
    made = await files.open(f"{directory}/clone", c.ORDWR)
    number = (await made.read(0)).decode().strip()
    return await out(files, f"{directory}/{number}")


WAYS = {"out": out, "a queued prompt": queued, "data": data, "a clone": clone}
PLACES = {"the root": "", "a worker": "worker-0000", "fusion": "fusion"}
READERS = {
    f"{name} of {where}": (read, directory)
    for where, directory in PLACES.items()
    for name, read in WAYS.items()
}


# What ends.


async def orchestrator_ends(place: Place) -> None:
    """As `shutdown` and SIGTERM do it."""
    await place.running.orchestrator.close()
    await place.running.server.close()


async def host_ends(place: Place) -> None:
    """As SIGTERM does it."""
    await place.hosts[0].server.close()


async def all_hosts_end(place: Place) -> None:
    for host in place.hosts:
        await host.server.close()


async def workers_are_shut_down(place: Place) -> None:
    for name in ("worker-0000", "worker-0001"):
        with contextlib.suppress(Error):
            await place.files.write(f"{name}/ctl", "shutdown")


def verb(text: str) -> Callable[[Place], Awaitable[None]]:
    async def write(place: Place) -> None:
        await place.files.write("ctl", text)

    return write


ENDS = {
    "the orchestrator": orchestrator_ends,
    "a host": host_ends,
    "all hosts": all_hosts_end,
    "workers, by their ctl": workers_are_shut_down,
    "a mount": verb("unmount worker-0000"),
    "all mounts": verb("unmount worker-0000\nunmount worker-0001"),
    "a worker, by kill": verb("kill worker-0000"),
}


@pytest.mark.parametrize("end", ENDS)
@story
async def test_an_answer_is_whole_or_fails(end: str) -> None:
    async with place() as here:
        files = [await read(here.files, directory) for read, directory in READERS.values()]
        reading = [asyncio.ensure_future(file.read_all()) for file in files]
        await until(lambda: here.step() or all(h.engine.steps > STEPS for h in here.hosts))
        assert not any(each.done() for each in reading)
        await ENDS[end](here)
        here.open_gates()
        answers = await asyncio.gather(*reading, return_exceptions=True)
        for reader, answer in zip(READERS, answers, strict=True):
            assert isinstance(answer, Error) or answer == WHOLE, (reader, answer)


@pytest.mark.parametrize("verb", ["cancel", "reset"])
@pytest.mark.parametrize("directory", ["", "worker-0000", "fusion"])
@story
async def test_what_its_user_cancels_has_an_end(directory: str, verb: str) -> None:
    async with place() as here:
        file = await out(here.files, directory)
        reading = asyncio.ensure_future(file.read_all())
        await until(lambda: here.step() or any(h.engine.load.active for h in here.hosts))
        await here.files.write(f"{directory}/ctl", verb)
        here.open_gates()
        answer = await reading
        assert WHOLE.startswith(answer) and len(answer) < len(WHOLE)
