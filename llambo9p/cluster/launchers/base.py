"""What every launcher offers, and what every host is told whoever starts it.

A launcher starts hosts, each from a `HostSpec`, says where they listen and when they have
ended, and stops them.  It adopts those that outlived the orchestrator which started them.
It keeps no promise that a host lives: whether one that ended is started again is for the
`fleet` to say.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ...errors import InvalidArgument
from ...net.address import Address
from ...p9.node import Maybe
from ..config import Cluster, Engine, Network, Resources

_PATH_BYTES = 107
"""of a unix socket's path, by the kernel"""
PROGRAM = "llambo-worker"
"""what a host calls itself at the start of each line of its log"""

Progress = Callable[[int], None]
"""told percents of a model's loading"""


@dataclass(frozen=True, slots=True)
class HostSpec:
    """A host to start."""

    name: str
    """that no other host of the cluster has"""
    type: str
    """a node type's name"""
    resources: Resources
    """of each worker"""
    model: str
    """as the host knows it: a path, `default` or `simulated`"""
    count: int
    first: int
    """number of its first worker"""
    epoch: int
    """which start of a host of that name this is: it only grows"""

    def words(self) -> list[str]:
        """Options of `llambo-worker`."""
        which = ["--first", str(self.first), "--epoch", str(self.epoch)]
        return [*type_words(self.type, self.resources, self.model, self.count), *which]


def type_words(node_type: str, resources: Resources, model: str, count: int) -> list[str]:
    """Options of `llambo-worker` for so many workers of a node type."""
    options: dict[str, object] = {
        "--model": model,
        "--count": count,
        "--type": node_type,
        "--context": resources.context_size,
        "--slots": resources.slots,
        "--memory": resources.memory,
        "--cache-ram": resources.cache_ram,
        "--step-timeout": f"{resources.step_timeout / 1000:g}",
    }
    if resources.rope_scaling != "none":
        options["--rope-scaling"] = resources.rope_scaling
    if resources.kv_type is not None:
        options["--kv-type"] = resources.kv_type
    if resources.exact != "any":
        options["--exact"] = resources.exact
    if resources.threads is not None:
        options["--threads"] = resources.threads
    return [str(word) for option in options.items() for word in option]


def listen_words(spec: HostSpec, directory: Path, network: Network) -> list[str]:
    """Options of a host that is started on this machine, with its socket in the `directory`.
    Raises InvalidArgument."""
    if network.hosts == "tcp":
        at = Address("tcp", "127.0.0.1", network.base_port)
        return ["--listen", str(at), "--port-range", str(network.port_range)]
    # an orphan may still be at the socket of a host that had this name before
    path = directory / f"{spec.first:04d}-{secrets.token_hex(3)}"
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise InvalidArgument(
            f"{path} is too long for a unix socket: set $LLAMBO_STATE to a shorter "
            "path, or network.hosts to tcp"
        )
    return ["--listen", str(Address("unix", path=str(path)))]


def host_config(config: Cluster) -> dict[str, Any]:
    """A host's cluster-config.yaml: what of the orchestrator's is a host's, too."""
    security = config.security.model_dump(mode="json", exclude={"speaks_for"})
    monitoring = config.monitoring.model_dump(include={"log_format", "log_level"})
    limits = config.limits.model_dump()
    return {"cluster": {"limits": limits, "security": security, "monitoring": monitoring}}


class Log(Protocol):
    """What a program says, the newest of it.  A byte's position stays what it is when older
    ones go."""

    def begin(self) -> Maybe[int]:
        """Of the oldest byte that is kept.  Raises Error."""

    def read(self, position: int, count: int) -> Maybe[bytes]:
        """What there is from there on, b"" at the end.  Raises Stale when there is nothing
        of that position any more, and Error."""


class End(NamedTuple):
    """How a host ended."""

    reason: str
    """in words"""
    crashed: bool | None = None
    """Whether it ended by itself.  None when nobody knows: SIGKILL may come from an operator, or
    from a kernel that has no memory left."""


class Launched(ABC):
    """A host that was started and listened."""

    engine: Engine
    """what started it"""

    def __init__(self, spec: HostSpec, address: Address, ended: asyncio.Future[End]) -> None:
        self.spec = spec
        self.address = address
        self.ended = ended
        """done when it ended"""

    @property
    @abstractmethod
    def handle(self) -> str:
        """By which `Launcher.adopt` finds it."""

    @property
    @abstractmethod
    def log(self) -> str:
        """Where what it says can be read."""

    @abstractmethod
    async def stop(self) -> None:
        """Let it end by itself, and end it when it does not.  Nobody wants it any more."""

    @abstractmethod
    async def kill(self) -> None:
        """End it at once: it is lost to us.  Another of its name may be started then."""


class Remembered(Launched):
    """One of before us, which nobody has adopted: it is as if it had ended."""

    def __init__(self, spec: HostSpec, address: Address, engine: Engine, handle: str) -> None:
        ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        ended.set_result(End("it did not outlive its orchestrator"))
        super().__init__(spec, address, ended)
        self.engine = engine
        self._handle = handle

    @property
    def handle(self) -> str:
        return self._handle

    @property
    def log(self) -> str:
        return "that of before"

    async def stop(self) -> None:
        """There is nothing to stop."""

    async def kill(self) -> None:
        """Nor to kill."""


class Launcher(ABC):
    """`at_once` hosts may be started at a time."""

    def __init__(self, at_once: int) -> None:
        self.hosts: dict[str, Launched] = {}
        """those that were started and have not ended, by name"""
        self.starting = asyncio.Semaphore(at_once)
        """whoever starts a host holds it"""

    @abstractmethod
    async def start(self, spec: HostSpec, progress: Progress) -> Launched:
        """Start a host and wait until it listens.

        Raises Error with its own words when it ends before.  Whoever is cancelled here
        leaves no host behind.
        """

    @abstractmethod
    async def adopt(self, spec: HostSpec, address: Address, handle: str) -> Launched | None:
        """The host that was started from `spec` by a launcher before us and listens at
        `address`; None when it has ended.  Raises Error."""

    @property
    @abstractmethod
    def logs(self) -> Mapping[str, Log]:
        """By host; where they are kept, those of hosts that ended or did not start, too."""

    async def close(self) -> None:
        """Stop all hosts."""
        await asyncio.gather(*(host.stop() for host in list(self.hosts.values())))

    def _started(self, host: Launched) -> Launched:
        """Keep it in `hosts` until it ends."""
        self.hosts[host.spec.name] = host
        host.ended.add_done_callback(lambda _: self._forget(host))
        return host

    def _forget(self, host: Launched) -> None:
        if self.hosts.get(host.spec.name) is host:  # and not another that has its name now
            del self.hosts[host.spec.name]
