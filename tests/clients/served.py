"""A simulated cluster on a thread of its own, for clients that are other programs.

An orchestrator with two hosts, all over TCP: `worker-0000` and `worker-0001` answer at
once with the prompt's last line; `HELD` takes a step of decoding only when the test
allows it, and is mounted where no prompt of the root comes to it.  Each client gets a
`Door` of its own, which sees its messages.  What is asked of the cluster is asked on its
thread, with `until` and `call`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from llambo9p.engine.simulated import Gate
from llambo9p.net.server import Server
from llambo9p.p9 import messages as m
from llambo9p.p9.server import Attach
from tests.cluster.harness import RunningCluster, SimulatedHost, cluster, simulated_host
from tests.files import ANYWHERE, until

T = TypeVar("T")

HELD = "held/worker-0002"
LIMIT_S = 60.0


class Door:
    """A port on which a tree is served, for one client at a time.

    `outstanding` are its T-messages without a reply, by tag, `fids` the numbers that its
    attaches and walks have made and no clunk has freed.
    """

    def __init__(self, attach: Attach) -> None:
        self.server = Server(attach, trace=self._trace)
        self.port = 0
        self.asked: list[m.Message] = []
        """every T-message"""
        self.outstanding: dict[int, m.Message] = {}
        self.fids: set[int] = set()

    async def open(self) -> None:
        self.port = (await self.server.listen(ANYWHERE)).port

    def seen(self, cls: type[m.Message]) -> int:
        """How many messages of that type the client has sent."""
        return sum(isinstance(msg, cls) for msg in self.asked)

    def waits(self, cls: type[m.Message]) -> bool:
        """Whether the client waits for the reply to one of that type."""
        return any(isinstance(msg, cls) for msg in self.outstanding.values())

    def _trace(self, way: str, msg: m.Message) -> None:
        if way == "->":
            self.asked.append(msg)
            self.outstanding[msg.tag] = msg
            return
        asked = self.outstanding.pop(msg.tag)
        if isinstance(asked, m.Tflush):
            self.outstanding.pop(asked.oldtag, None)
        elif isinstance(msg, m.Rattach):
            assert isinstance(asked, m.Tattach)
            self.fids.add(asked.fid)
        elif isinstance(msg, m.Rwalk):
            assert isinstance(asked, m.Twalk)
            if len(msg.wqid) == len(asked.wname):
                self.fids.add(asked.newfid)
        elif isinstance(asked, (m.Tclunk, m.Tremove)):
            self.fids.discard(asked.fid)


class Served:
    """The cluster.  `gate` lets the steps of `HELD` go on."""

    running: RunningCluster
    free: SimulatedHost
    held: SimulatedHost

    def __init__(self) -> None:
        self.gate = Gate()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._opened = contextlib.AsyncExitStack()

    async def _start(self) -> None:
        enter = self._opened.enter_async_context
        self.free = await enter(simulated_host(2, n_ctx=65536))
        self.held = await enter(simulated_host(1, first=2, gate=self.gate))
        self.running = await enter(cluster())
        for mount in (f"mount {self.free.address}", f"mount {self.held.address} held"):
            await self.running.files.write("ctl", mount)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(LIMIT_S)

    def until(self, condition: Callable[[], object]) -> None:
        self.call(until(condition))

    def door(self, attach: Attach | None = None) -> Door:
        """One more port: the orchestrator's tree, or what `attach` gives."""
        door = Door(attach or self.running.orchestrator.attach)
        self.call(door.open())
        self._opened.push_async_callback(door.server.close)
        return door

    @property
    def answering(self) -> int:
        """Requests that `HELD` has not finished."""
        return self.held.engine.load.active + self.held.engine.load.queued

    def step(self) -> None:
        """Let `HELD` take one step; waits until it is about to."""
        self.gate.entered()
        self.gate.allow()

    def spend(self) -> int:
        """Let `HELD` take the steps that it needs to be idle; returns how many."""
        steps = 0
        while self.answering:
            if self.gate.entered(timeout=0.01):
                self.gate.allow()
                steps += 1
        return steps

    def settle(self) -> None:
        """End whatever `HELD` is asked."""
        self.call(self.running.files.write(f"{HELD}/ctl", "reset"))
        self.spend()

    def start(self) -> None:
        self.call(self._start())

    def close(self) -> None:
        try:
            self.call(self._opened.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


@contextlib.contextmanager
def served() -> Iterator[Served]:
    """The cluster from its start to its end."""
    here = Served()
    try:
        here.start()
        yield here
    finally:
        here.close()
