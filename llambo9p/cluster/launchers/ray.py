"""Starts hosts on Ray: one detached actor a host, which runs it as a process of its own.

The actor only places and holds the host: Ray counts the resources of all its workers, puts
it on some node, and on another when that one dies.  Prompts and tokens go over 9P, straight
to where the host listens.  The host dies with its actor, whose end of a pipe it reads; an
actor that starts no host for `state.orphan_timeout` ends.

On loopback hosts listen on plain TCP, elsewhere at `tls!` addresses with `security.cert` and
`.ca`, which have the same paths on every node; without these only if the orchestrator
is `insecure`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.util
import yaml

from ...errors import Busy, Error, TimedOut
from ...net.address import Address, parse
from ..config import Cluster
from .base import End, HostSpec, Launched, Launcher, Log, Progress, host_config
from .log import FileLog, end, start_error

_NAMESPACE = "llambo"
_PLACE_S = 60.0
"""for Ray to find a place for a host"""
_ANSWER_S = 5.0
"""for an actor that may be lost to say whether its host runs, or what its log has"""
_AGAIN_S = 0.2
"""to wait for Ray to forget an actor of the same name that has ended"""
_STOP_S = 5.0
"""how long a host may take to stop by itself"""
_STEPS = 10
"""in which the time without a host is counted"""
_CALLS = 4
"""of an actor at once"""


class HostActor:
    """What runs on Ray's node: a host of its own at a time."""

    def __init__(self, orphan_s: float) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._epoch = 0
        self._address = ""
        self._directory = tempfile.TemporaryDirectory(prefix="llambo-")
        self._log = FileLog(Path(self._directory.name) / "log")
        threading.Thread(target=self._end_when_orphaned, args=(orphan_s,), daemon=True).start()

    def placed(self) -> None:
        """The reply says that there is a place for us."""

    def start(
        self, words: list[str], config: str, epoch: int, network: tuple[int, int, bool, bool]
    ) -> tuple[str, Error | None]:
        """Start the host of that epoch, in the place of another, and say where it listens, or
        why it does not.  Asked again, as Ray does, it is still that one.  `network` are the first
        port, how many to try, and whether there are certificates and insecurity is meant."""
        with self._lock:
            if epoch == self._epoch and self._runs():
                return self._address, None
            self._end()
            try:
                listen = _listen(ray.util.get_node_ip_address(), *network)
            except Error as e:
                return "", e
            path = Path(self._directory.name) / "host.yaml"
            path.write_text(config)
            with self._log.open() as stderr:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "llambo9p_nodes.worker", "--exit-with-stdin"),
                        *(*words, "--config", str(path), *listen),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                )
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if line.startswith("listening "):
                    self._epoch, self._address = epoch, line.partition(" ")[2].strip()
                    return self._address, None
            model = words[words.index("--model") + 1]
            return "", start_error(self._process.wait(), self._log, model)

    def listens(self, epoch: int) -> str:
        """Where the host of that epoch listens, "" when it is not here any more."""
        return self._address if epoch == self._epoch and self._runs() else ""

    def ended(self, epoch: int) -> End:
        """Wait until the host of that epoch ends; how it did."""
        process = self._process
        if process is None or epoch != self._epoch:
            return End("another was started in its place")
        return end(process.wait(), self._log)

    def log_begin(self) -> int:
        return self._log.begin()

    def log_read(self, position: int, count: int) -> bytes | Error:
        try:
            return self._log.read(position, count)
        except Error as e:
            return e

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _end(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _end_when_orphaned(self, seconds: float) -> None:
        alone = 0
        while alone < _STEPS:
            time.sleep(seconds / _STEPS)
            alone = 0 if self._runs() else alone + 1
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def _listen(ip: str, base_port: int, ports: int, certified: bool, insecure: bool) -> list[str]:
    """Options for a host on a node of that address.  Raises Error."""
    address = Address("tcp", ip, base_port)
    options = []
    if not address.is_loopback:
        if certified:
            address = Address("tls", ip, base_port)
        elif insecure:
            options = ["--insecure"]
        else:
            raise Error(
                f"Ray's node {ip} is reached over a network: set security.cert and .ca, or "
                "start the orchestrator with --insecure if that is meant"
            )
    return ["--listen", str(address), "--port-range", str(ports), *options]


class RayHost(Launched):
    engine = "ray"

    def __init__(
        self, launcher: RayLauncher, spec: HostSpec, address: Address, actor: Any
    ) -> None:
        self._launcher = launcher
        self._actor = actor
        self.said = RayLog(spec.name, actor)
        self._lost: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        super().__init__(spec, address, asyncio.create_task(self._wait()))

    async def _wait(self) -> End:
        # an actor that is started anew has no host to wait for
        ended = self._actor.ended.options(max_task_retries=0)
        said = asyncio.ensure_future(_reply(ended.remote(self.spec.epoch)))
        await asyncio.wait((said, self._lost), return_when=asyncio.FIRST_COMPLETED)
        if self._lost.done():
            said.cancel()
            return self._lost.result()
        try:
            return End(*said.result())
        except Error as e:
            return End(str(e))

    @property
    def handle(self) -> str:
        return self.spec.name

    @property
    def log(self) -> str:
        return f"on Ray's node, of the actor {self.spec.name}"

    async def stop(self) -> None:
        if self._launcher.newest.get(self.spec.name) is self:
            del self._launcher.newest[self.spec.name]
            ray.kill(self._actor, no_restart=True)
        self._end("it was stopped")
        await asyncio.wait((self.ended,))

    async def kill(self) -> None:
        # its actor lives, or Ray starts it again; it ends this host before it starts another
        self._end("it does not answer")
        await asyncio.wait((self.ended,))

    def _end(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(End(reason))


class RayLog:
    """Of whatever host an actor has: it goes with the actor, and begins anew where Ray starts
    that one again."""

    def __init__(self, name: str, actor: Any) -> None:
        self._name = name
        self._actor = actor

    async def begin(self) -> int:
        return int(await self._asked(self._actor.log_begin))

    async def read(self, position: int, count: int) -> bytes:
        said = await self._asked(self._actor.log_read, position, count)
        if isinstance(said, Error):
            raise said
        return bytes(said)

    async def _asked(self, method: Any, *args: int) -> Any:
        # an actor that Ray is starting again has nothing to read
        call = method.options(max_task_retries=0).remote(*args)
        try:
            return await asyncio.wait_for(_reply(call), _ANSWER_S)
        except TimeoutError:
            raise TimedOut(f"{TimedOut.ename}: Ray's actor {self._name} does not answer") from None


class RayLauncher(Launcher):
    """For the Ray cluster of `$RAY_ADDRESS`, or of this machine."""

    def __init__(self, config: Cluster, insecure: bool) -> None:
        super().__init__()
        self.newest: dict[str, RayHost] = {}
        """by name; it may have ended, and its actor is there still"""
        self._config = config
        self._network = (
            config.network.base_port,
            config.network.port_range,
            config.security.certificates is not None,
            insecure,
        )
        self._connecting = asyncio.Lock()

    @property
    def logs(self) -> Mapping[str, Log]:
        return {name: host.said for name, host in self.newest.items()}

    async def start(self, spec: HostSpec, progress: Progress) -> Launched:
        await self._connect()
        actor = await self._placed(spec)
        try:
            timeout = self._config.state.orphan_timeout / 1000
            words = [*spec.words(), "--orphan-timeout", f"{timeout:g}"]
            config = yaml.safe_dump(host_config(self._config))
            address, error = await _reply(
                actor.start.remote(words, config, spec.epoch, self._network)
            )
            if error is not None:
                raise error
        except BaseException:
            ray.kill(actor, no_restart=True)
            raise
        return self._has(RayHost(self, spec, parse(address), actor))

    async def adopt(self, spec: HostSpec, address: Address, handle: str) -> Launched | None:
        await self._connect()
        name = self._name(handle)
        try:
            actor = await asyncio.to_thread(ray.get_actor, name, _NAMESPACE)
            where = await asyncio.wait_for(_reply(actor.listens.remote(spec.epoch)), _ANSWER_S)
        except (ValueError, TimeoutError):
            return None
        if not where:
            return None
        return self._has(RayHost(self, spec, parse(where), actor))

    def _has(self, host: RayHost) -> Launched:
        self.newest[host.spec.name] = host
        return self._started(host)

    async def close(self) -> None:
        await asyncio.gather(*(host.stop() for host in list(self.newest.values())))
        if ray.is_initialized():
            await asyncio.to_thread(ray.shutdown)

    async def _placed(self, spec: HostSpec) -> Any:
        """The actor of that name, which Ray found a place for.  Raises Error."""
        need = self._resources(spec)
        try:
            async with asyncio.timeout(_PLACE_S):
                while True:
                    actor = await asyncio.to_thread(self._actor, spec.name, need)
                    try:
                        await asyncio.wrap_future(actor.placed.remote().future())
                        return actor
                    except ray.exceptions.ActorDiedError:  # it was killed a moment ago
                        await asyncio.sleep(_AGAIN_S)
        except TimeoutError:
            with contextlib.suppress(ValueError):
                ray.kill(actor, no_restart=True)
            raise Busy(
                f"{Busy.ename}: Ray found no place for {spec.name} in {_PLACE_S:g} s, which needs "
                f"{need['num_cpus']:g} cores and {need['memory'] >> 20} MiB"
            ) from None
        except ray.exceptions.RayError as e:
            raise _error(e) from e

    def _actor(self, name: str, need: dict[str, Any]) -> Any:
        options = {
            "name": self._name(name),
            "namespace": _NAMESPACE,
            "get_if_exists": True,
            "lifetime": "detached",
            "max_restarts": -1,
            "max_task_retries": -1,
            "max_concurrency": _CALLS,
            "scheduling_strategy": "SPREAD",
        }
        actor = ray.remote(HostActor).options(**options, **need)
        return actor.remote(self._config.state.orphan_timeout / 1000)

    def _name(self, host: str) -> str:
        """Of its actor."""
        return f"{self._config.network.cluster_id}/{host}"

    async def _connect(self) -> None:
        """Raises Error."""
        async with self._connecting:
            await asyncio.to_thread(_connect)

    def _resources(self, spec: HostSpec) -> dict[str, Any]:
        """Of all its workers; beyond one core Ray counts whole ones."""
        cores = spec.count * spec.resources.cpu
        return {
            "num_cpus": math.ceil(cores) if cores > 1 else cores,
            "memory": spec.count * spec.resources.memory,
        }


def _connect() -> None:
    """Raises Error when there is no Ray."""
    if ray.is_initialized():
        return
    try:
        ray.init(address="auto", namespace=_NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as e:
        raise Error(
            f"no Ray cluster ({str(e).splitlines()[0]}): start one with `ray start --head`, or set "
            "$RAY_ADDRESS"
        ) from e


async def _reply(reference: Any) -> Any:
    """What an actor's method returned.  Raises Error."""
    try:
        return await asyncio.wrap_future(reference.future())
    except ray.exceptions.RayError as e:
        raise _error(e) from e


def _error(error: ray.exceptions.RayError) -> Error:
    return Error(f"Ray: {str(error).strip().splitlines()[0]}")
