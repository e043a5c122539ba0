"""Starts hosts on Ray, by a `driver` in a process of its own.

The actor only places and holds the host: Ray counts the resources of all its workers, puts
it on some node, and on another when that one dies.  Prompts and tokens go over 9P, straight
to where the host listens (`places`).

When Ray goes away, so does the driver.  Hosts that it had are not ended by that: whether they
have, their connections say, or Ray when it is back.  What is asked meanwhile fails at once, or
within `_CONNECT_S` where nobody answers.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ....errors import Error, NotFound, TimedOut
from ....net.address import Address, parse
from ....net.backoff import Backoff
from ...config import Cluster
from ...state_file import make_private
from ..base import (
    End,
    HostSpec,
    Launched,
    Launcher,
    Log,
    Progress,
    host_config,
    listen_words,
)
from ..log import FileLog
from .places import Door, Places
from .process import DriverProcess, RayGone

log = logging.getLogger(__name__)

_AT_ONCE = 64
"""hosts that are started; where and when is Ray's to say"""
_PLACE_S = 60.0
"""for Ray to find a place for a host"""
_CONNECT_S = 10.0
"""that somebody waits for Ray to be connected to"""
_GIVE_UP_S = 60.0
"""that connecting goes on: Ray tries the address that it began with for ten minutes"""
_SILENT = (
    "Ray does not answer: `ray status` says whether it runs, and `ray start --head` starts it on "
    "this machine"
)
_FRESH_S = 1.0
"""how long a failure to connect is what others are told, who would only try the same"""
_ANSWER_S = 5.0
"""for an actor that may be lost to say whether its host runs, or what its log has"""
_FIRST_S, _LONGEST_S = 1.0, 60.0
"""pauses before Ray, which is gone, is asked again whether a host that it had has ended"""


class RayHost(Launched):
    engine = "ray"

    def __init__(self, launcher: RayLauncher, spec: HostSpec, address: Address) -> None:
        self.said = RayLog(launcher, spec.name)
        self._launcher = launcher
        self._lost: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        super().__init__(spec, address, asyncio.create_task(self._wait()))

    async def _wait(self) -> End:
        said = asyncio.ensure_future(self._launcher.end_of(self.spec))
        await asyncio.wait((said, self._lost), return_when=asyncio.FIRST_COMPLETED)
        if self.address.net == "unix":  # it is of this machine
            with contextlib.suppress(OSError):
                os.unlink(self.address.path)
        if not self._lost.done():
            return said.result()
        said.cancel()
        return self._lost.result()

    @property
    def handle(self) -> str:
        return self.spec.name

    @property
    def log(self) -> str:
        return f"on Ray's node, of the actor {self.spec.name}"

    async def stop(self) -> None:
        if self._launcher.newest.get(self.spec.name) is self:
            del self._launcher.newest[self.spec.name]
            await self._launcher.kill(self.spec.name)
        await self._end("it was stopped")

    async def kill(self) -> None:
        # its actor lives, or Ray starts it again; it ends this host before it starts another
        await self._end("it does not answer")

    async def _end(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(End(reason))
        await asyncio.wait((self.ended,))


class RayLog:
    """Of whatever host an actor has: it goes with the actor, and begins anew where Ray starts
    that one again."""

    def __init__(self, launcher: RayLauncher, host: str) -> None:
        self._launcher = launcher
        self._host = host

    async def begin(self) -> int:
        return int(await self._asked("log_begin"))

    async def read(self, position: int, count: int) -> bytes:
        return base64.b64decode(await self._asked("log_read", position=position, count=count))

    async def _asked(self, verb: str, **arguments: int) -> Any:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await self._launcher.ask(verb, self._host, **arguments)
        except TimeoutError:
            raise TimedOut(f"{TimedOut.ename}: Ray's actor {self._host} does not answer") from None


class RayLauncher(Launcher):
    """For the Ray cluster of `$RAY_ADDRESS`, or of this machine.  `directory`, in which hosts of
    this machine have their sockets, is made when the first host is started."""

    def __init__(self, directory: Path, config: Cluster, insecure: bool) -> None:
        super().__init__(_AT_ONCE)
        self.newest: dict[str, RayHost] = {}
        """by name; it may have ended, and its actor is there still"""
        self._directory = directory
        self._config = config
        self._insecure = insecure
        self._door = Door(directory)
        self._log = FileLog(directory / "ray.log")
        self._driver: DriverProcess | None = None
        """the newest; it may have ended, or not be connected"""
        self._connecting: asyncio.Task[DriverProcess] | None = None
        """the newest attempt"""
        self._tried = -math.inf
        """when an attempt ended, by the monotonic clock"""
        self._closing = False

    @property
    def logs(self) -> Mapping[str, Log]:
        return {name: host.said for name, host in self.newest.items()}

    async def start(self, spec: HostSpec, progress: Progress) -> Launched:
        places = self._places(spec)
        await self._door.open()
        timeout = self._config.state.orphan_timeout / 1000
        address = await self.ask(
            "start",
            spec.name,
            need=_resources(spec),
            orphan_s=timeout,
            place_s=_PLACE_S,
            words=[*spec.words(), "--orphan-timeout", f"{timeout:g}"],
            config=yaml.safe_dump(host_config(self._config)),
            epoch=spec.epoch,
            places=asdict(places),
        )
        return self._has(RayHost(self, spec, parse(address)))

    async def adopt(self, spec: HostSpec, address: Address, handle: str) -> Launched | None:
        try:
            async with asyncio.timeout(_ANSWER_S + _CONNECT_S):
                where = await self.ask("listens", handle, epoch=spec.epoch)
        except (NotFound, TimeoutError):
            return None
        return self._has(RayHost(self, spec, parse(where))) if where else None

    async def close(self) -> None:
        self._closing = True
        await asyncio.gather(*(host.stop() for host in list(self.newest.values())))
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._driver is not None:
            await self._driver.close()
        self._door.close()

    async def ask(self, verb: str, host: str, **arguments: Any) -> Any:
        """The driver, of the actor of that host.  Raises Error, RayGone where there is no Ray."""
        driver = await self._connected()
        name = f"{self._config.network.cluster_id}/{host}"
        return await driver.ask(verb, name=name, **arguments)

    async def kill(self, host: str) -> None:
        """Its actor, as well as that is possible: one that cannot be reached ends with its host,
        to which nobody is connected any more."""
        with contextlib.suppress(Error, TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                await self.ask("kill", host)

    async def end_of(self, spec: HostSpec) -> End:
        """Wait until the host has ended, as Ray says, however often Ray is gone meanwhile."""
        backoff = Backoff(_FIRST_S, _LONGEST_S)
        while True:
            try:
                return End(*await self.ask("ended", spec.name, epoch=spec.epoch))
            except RayGone:
                await asyncio.sleep(backoff.next())
            except Error as e:
                return End(str(e))

    def _has(self, host: RayHost) -> Launched:
        self.newest[host.spec.name] = host
        return self._started(host)

    def _places(self, spec: HostSpec) -> Places:
        network, security = self._config.network, self._config.security
        return Places(
            door=str(self._door.path),
            here=listen_words(spec, self._directory, network),
            base_port=network.base_port,
            ports=network.port_range,
            certified=security.certificates is not None,
            insecure=self._insecure,
        )

    async def _connected(self) -> DriverProcess:
        """Raises RayGone."""
        driver, connecting = self._driver, self._connecting
        if connecting is None or connecting.done():
            works = connecting is not None and connecting.exception() is None
            if works and driver is not None and not driver.gone.done():
                return driver
            if connecting is None or works or time.monotonic() - self._tried > _FRESH_S:
                connecting = self._connecting = asyncio.create_task(self._connect())
                connecting.add_done_callback(lambda it: it.cancelled() or it.exception())
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await asyncio.shield(connecting)
        except TimeoutError:
            raise RayGone(_SILENT) from None

    async def _connect(self) -> DriverProcess:
        """Raises RayGone."""
        try:
            make_private(self._directory)
            if self._driver is None or self._driver.gone.done():
                self._driver = await DriverProcess.start(self._log)
            driver = self._driver
            async with asyncio.timeout(_GIVE_UP_S):
                await driver.ask("connect")
        except TimeoutError:
            await driver.close()
            raise RayGone(_SILENT) from None
        except Error as e:
            raise RayGone(str(e)) from None
        finally:
            self._tried = time.monotonic()
        log.info("connected to Ray")
        driver.gone.add_done_callback(self._gone)
        return driver

    def _gone(self, why: asyncio.Future[str]) -> None:
        if not self._closing:
            log.warning("%s", why.result())


def _resources(spec: HostSpec) -> dict[str, float]:
    """Of all its workers; beyond one core Ray counts whole ones."""
    cores = spec.count * spec.resources.cpu
    return {
        "num_cpus": math.ceil(cores) if cores > 1 else cores,
        "memory": spec.count * spec.resources.memory,
    }
