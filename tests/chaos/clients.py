"""Clients of the cluster that ask, and know what is right.

Each has a connection of its own, which it drops in the middle of things now and then, and does
one thing after the other: whole conversations, one-shots, questions in a worker's own tree,
cancels, flushes, slow readers.  All they see is in the `Count`.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from llambo9p.errors import Error
from llambo9p.net.address import Address
from llambo9p.net.client import Client, RemoteOpen
from llambo9p.p9 import constants as c
from tests.files import Files, reading

_T = TypeVar("_T")

SILENCE_S = 60.0
"""that a client waits for anything"""
Expected = Callable[[Sequence[str]], str]
"""the answer to the last of some messages"""


class Silent(Exception):
    """Nobody said anything for too long."""


@dataclass
class Count:
    asked: int = 0
    answered: int = 0
    stopped: int = 0
    """by the client's cancel, flush or clunk"""
    left: int = 0
    """in the middle"""
    refused: int = 0
    """connections: there was no orchestrator"""
    broken: Counter[str] = field(default_factory=Counter)
    """with the connection, as when the orchestrator is killed"""
    failed: Counter[str] = field(default_factory=Counter)
    """what was asked of the orchestrator, by error"""
    failed_there: Counter[str] = field(default_factory=Counter)
    """what was asked in a worker's own tree, which is lost with the worker"""
    other_errors: Counter[str] = field(default_factory=Counter)
    """of what is no question"""
    wrong: list[str] = field(default_factory=list)

    @property
    def ended(self) -> int:
        failed = self.failed.total() + self.failed_there.total() + self.broken.total()
        return self.answered + self.stopped + self.left + failed

    def __str__(self) -> str:
        lines = [
            f"asked {self.asked}, answered {self.answered}, stopped {self.stopped}, "
            f"left {self.left}, broken {self.broken.total()}, failed {self.failed.total()}, "
            f"failed in workers {self.failed_there.total()}, wrong {len(self.wrong)}; "
            f"connections refused {self.refused}"
        ]
        for name in ("broken", "failed", "failed_there", "other_errors"):
            for error, times in getattr(self, name).most_common():
                lines.append(f"  {name} {times}: {error}")
        return "\n".join(lines)


async def in_time(awaitable: Awaitable[_T], what: str) -> _T:
    """Raises Silent naming `what`."""
    try:
        return await asyncio.wait_for(awaitable, SILENCE_S)
    except TimeoutError:
        raise Silent(what) from None


class ChaosClient:
    """One client.  `run` until `stop` is set."""

    _numbers = itertools.count()

    def __init__(
        self,
        address: Address,
        rng: random.Random,
        count: Count,
        expected: Expected,
        prompt: Callable[[random.Random], str],
        settings: str,
    ) -> None:
        self._address = address
        self._rng = rng
        self._count = count
        self._expected = expected
        self._prompt = prompt
        self._settings = settings
        self._client: Client | None = None
        self._files: Files | None = None
        self._name = f"client {next(self._numbers)}"
        self._stop = False

    def stop(self) -> None:
        self._stop = True

    async def run(self) -> None:
        doings: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._converse, 8),
            (self._ask_once, 8),
            (self._ask_worker, 4),
            (self._fuse, 1),
            (self._leave, 2),
            (self._look, 2),
        ]
        weighted = [doing for doing, weight in doings for _ in range(weight)]
        while not self._stop:
            doing = self._rng.choice(weighted)
            try:
                await doing()
            except Silent as e:
                self._wrong(f"silent: {e}")
                self._hang_up()
            except Error as e:
                self._count.other_errors[f"{doing.__name__}: {_kind(e)}"] += 1
            except AssertionError as e:
                self._wrong(f"{doing.__name__}: {e}")
            await asyncio.sleep(self._rng.expovariate(10))
        self._hang_up()

    def _wrong(self, what: str) -> None:
        self._count.wrong.append(f"{self._name}: {what}")

    async def _connected(self) -> Files:
        if self._files is None or self._client is None or self._client.lost.done():
            self._hang_up()
            self._client = await in_time(self._connect(), "connect")
            root, _ = await in_time(self._client.attach(""), "attach")
            self._files = Files(self._client, root)
        return self._files

    async def _connect(self) -> Client:
        """As soon as there is an orchestrator."""
        while True:
            try:
                return await Client.connect(self._address)
            except Error:
                self._count.refused += 1
                await asyncio.sleep(self._rng.uniform(0.1, 0.3))

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = self._files = None

    def _ended_by(self, error: Error, failed: Counter[str]) -> Counter[str]:
        """Where a question that ends with an error is counted."""
        is_broken = str(error).startswith(f"{self._address}: connection ")
        return self._count.broken if is_broken else failed

    # -- what they do -------------------------------------------------------------

    async def _converse(self) -> None:
        await self._converse_at("", self._count.failed)

    async def _converse_at(self, place: str, failed: Counter[str]) -> None:
        """In a new conversation: some turns, each of which knows those before."""
        files = await self._connected()
        clone, number = await self._clone(files, place)
        try:
            history: list[str] = []
            for _ in range(self._rng.randint(1, 4)):
                if not await self._turn(files, f"{place}{number}/", clone, history, failed):
                    break
        finally:
            clone.forget()

    async def _turn(
        self,
        files: Files,
        place: str,
        ctl: RemoteOpen,
        history: list[str],
        failed: Counter[str],
    ) -> bool:
        """Whether the conversation can go on."""
        prompt = self._prompt(self._rng)
        right = self._expected([*history, prompt])
        cancels = self._rng.random() < 0.15
        self._count.asked += 1
        try:
            await in_time(files.write(f"{place}prompt", prompt), "prompt")
            out = await in_time(files.open(f"{place}out"), "out")
            try:
                if cancels:
                    some = await self._read(out, stop_after=self._rng.randint(0, 30))
                    await in_time(ctl.write(b"cancel"), "cancel")
                    said = some + await self._read(out, offset=len(some))
                else:
                    said = await self._read(out)
                    if self._rng.random() < 0.2:
                        again = await self._read(out)
                        assert again == said, f"read again: {again!r}, not {said!r}"
            finally:
                out.forget()
        except Error as e:
            self._ended_by(e, failed)[_kind(e)] += 1
            return False
        text = said.decode()  # whole characters, whatever became of it
        if cancels:
            self._count.stopped += 1
            # within a character, its bytes end as U+FFFD
            whole = text.removesuffix("\ufffd")
            assert right.startswith(whole), f"cancelled: {text!r} of {right!r}"
        else:
            self._count.answered += 1
            assert text == right, f"{text!r}, not {right!r}"
        if text:
            history += [prompt, text]
        return True

    async def _ask_once(self) -> None:
        files = await self._connected()
        await self._data(files, "data", self._count.failed)

    async def _data(self, files: Files, path: str, failed: Counter[str]) -> None:
        """One-shots on a `data` fid, the last one perhaps flushed or clunked in the middle."""
        data = await in_time(files.open(path, c.ORDWR), path)
        try:
            for _ in range(self._rng.randint(1, 3)):
                prompt = self._prompt(self._rng)
                right = self._expected([prompt]).encode()
                how = self._rng.random()
                self._count.asked += 1
                try:
                    await in_time(data.write(prompt.encode()), f"{path}: write")
                    if how < 0.1:
                        said = await self._read(data, stop_after=self._rng.randint(1, 30))
                        self._count.stopped += 1
                        assert right.startswith(said), f"begun: {said!r} of {right!r}"
                        continue  # the next query, or the clunk, stops it
                    if how < 0.2:
                        flushed = reading(data)
                        await asyncio.sleep(self._rng.uniform(0, 0.3))
                        flushed.cancel()
                        self._count.stopped += 1
                        return
                    said = await self._read(data)
                except Error as e:
                    self._ended_by(e, failed)[_kind(e)] += 1
                    return
                self._count.answered += 1
                assert said == right, f"{said!r}, not {right!r}"
        finally:
            data.forget()

    async def _ask_worker(self) -> None:
        """In the tree of a worker, by its name."""
        worker = await self._some_worker(await self._connected())
        if worker is not None:
            how = self._converse_at if self._rng.random() < 0.5 else self._query_at
            await how(f"{worker}/", self._count.failed_there)

    async def _query_at(self, place: str, failed: Counter[str]) -> None:
        """One-shots of a new conversation."""
        files = await self._connected()
        clone, number = await self._clone(files, place)
        try:
            await self._data(files, f"{place}{number}/data", failed)
        finally:
            clone.forget()

    async def _fuse(self) -> None:
        """Ask three workers, of whose answers one is taken: all say the same."""
        await self._query_at("fusion/", self._count.failed)

    async def _leave(self) -> None:
        """Ask, and hang up in the middle of the answers, or of the question."""
        files = await self._connected()
        prompt = self._prompt(self._rng)
        data = await in_time(files.open("data", c.ORDWR), "data")
        await in_time(data.write(prompt.encode()), "data: write")
        if self._rng.random() < 0.7:
            worker = await self._some_worker(files)
            place = f"{worker}/" if worker is not None and self._rng.random() < 0.5 else ""
            _, number = await self._clone(files, place)
            await in_time(files.write(f"{place}{number}/prompt", prompt), "prompt")
            out = await in_time(files.open(f"{place}{number}/out"), "out")
            pending = [reading(data), reading(out, 10**6)]
            await asyncio.sleep(self._rng.uniform(0, 0.5))
            self._count.asked += 2
            self._count.left += 2
            self._hang_up()
            await asyncio.gather(*pending, return_exceptions=True)
        self._hang_up()

    async def _look(self) -> None:
        """At files that operators look at, and at some that may be gone."""
        files = await self._connected()
        for path in self._rng.sample(("status", "metrics", "balancer", "health", "config"), 2):
            await in_time(files.read(path), path)
        events = await in_time(files.open("events"), "events")
        try:
            watching = reading(events)
            await asyncio.wait([watching], timeout=self._rng.uniform(0, 0.5))
            watching.cancel()
            worker = await self._some_worker(files)
            for path in (f"nodes/{worker}", f"{worker}/status"):
                await in_time(files.read(path), path)
        finally:
            events.forget()

    async def _some_worker(self, files: Files) -> str | None:
        names = await in_time(files.ls("nodes"), "nodes")
        return self._rng.choice(names) if names else None

    async def _clone(self, files: Files, place: str) -> tuple[RemoteOpen, str]:
        """A new conversation with our settings: its `ctl`, and its number."""
        clone = await in_time(files.open(f"{place}clone", c.ORDWR), f"{place}clone")
        try:
            number = (await in_time(clone.read(0), "clone's number")).decode().strip()
            settings = self._settings + ("strategy best-of-n\n" if place == "fusion/" else "")
            await in_time(clone.write(settings.encode()), "settings")
        except BaseException:
            clone.forget()
            raise
        return clone, number

    async def _read(
        self, file: RemoteOpen, offset: int = 0, stop_after: int | None = None
    ) -> bytes:
        """To the end, or until there are so many bytes; some readers are slow."""
        slow = self._rng.random() < 0.1
        said = b""
        while stop_after is None or len(said) < stop_after:
            size = self._rng.randint(1, 40) if slow else 8192
            reply = await in_time(
                reading(file, offset + len(said), size), f"an answer after {said!r}"
            )
            if not reply.data:
                break
            said += reply.data
            if slow:
                await asyncio.sleep(self._rng.uniform(0, 0.02))
        return said


def _kind(error: Error) -> str:
    """An error's text without what differs each time."""
    words = str(error).split()
    return " ".join("#" if any(map(str.isdigit, word)) else word for word in words)
