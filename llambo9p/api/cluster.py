"""Hosts and orchestrators from Python: `ClusterNode` and `Orchestrator`.

Both are processes, started here, that serve their files to whoever may see them; what is done
to them from here is done to those files.  Threads may share them: answers that are asked for
at once are decoded at once.

They end by `shutdown` or `shutdown_cluster`, by the end of a `with`, when nobody refers to them
any more, and with this process however that ends.  What is asked of them then raises WorkerLost.
"""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import Self

import yaml

from llambo9p.api import checks
from llambo9p.api.asking import ask
from llambo9p.api.connection import Connection
from llambo9p.api.process import Process
from llambo9p.api.request import InferenceRequest, InferenceResponse
from llambo9p.cluster import config as configuration
from llambo9p.cluster import environment, strategies
from llambo9p.conversation.worker_names import MAX_WORKERS
from llambo9p.errors import InvalidArgument, WorkerLost
from llambo9p.fs.ctl import quote
from llambo9p.net.address import Address, parse

_WORKER = "worker-0000"
"""that a node has"""


class _Served:
    """A process that serves a tree, in which `_directory` is a conversation's."""

    _directory: str

    def __init__(
        self, process: Process, directory: tempfile.TemporaryDirectory[str] | None = None
    ) -> None:
        """`directory` is removed at the end."""
        self._process = process
        self._end = weakref.finalize(self, _end, process, directory)

    @property
    def address(self) -> Address:
        """Where others reach its files, too."""
        return self._process.addresses[-1]

    def submit(self, request: InferenceRequest) -> InferenceResponse:
        """The answer.  Raises `InvalidArgument` for a request that makes no sense, `WorkerLost`
        when the process has ended, and `RemoteError`, or a class of its own for an error that
        9P knows, with the words and the errno of whoever refused it: a prompt that does not
        fit, for instance, or a cluster without workers."""
        checked = checks.kind("request", request, InferenceRequest)
        with self._connection() as connection:
            return ask(connection, self._directory, checked)

    def _connection(self) -> Connection:
        if not self._end.alive:
            raise WorkerLost(f"{WorkerLost.ename}: {self.address} was shut down")
        return Connection(self._process.addresses[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    def __repr__(self) -> str:
        ended = "" if self._end.alive else ", shut down"
        return f"<{type(self).__name__} {self.address}{ended}>"


class ClusterNode(_Served):
    """A host with one worker, and a model of its own in memory; `spawn` makes it."""

    _directory = _WORKER

    def __init__(self, process: Process) -> None:
        """Of a host that listens, and is now this object's to end."""
        super().__init__(process)
        with self._connection() as connection:
            said = dict(line.split(" ", 1) for line in connection.read("status").splitlines())
        self.type = said["type"]
        """its node type"""
        self.model = said["model"]
        """the model's name"""
        self.capacity = int(said["slots"])
        """requests that it decodes at once; others wait"""
        self.n_ctx = int(said["context"])
        """tokens of prompt and answer together"""

    @classmethod
    def spawn(
        cls,
        addr: str,
        capacity: int = 16,
        model: Path | str = "default",
        *,
        node_type: str = "tiny",
        n_ctx: int = 512,
        n_threads: int | None = None,
    ) -> ClusterNode:
        """A node that serves its files at `addr`, `tcp!HOST!PORT` of this machine or
        `unix!PATH`, and decodes `capacity` requests at once, each of `n_ctx` tokens.

        `model` is the path of a GGUF file, `default` for the bundled one, or `simulated`.
        Raises `InvalidArgument` for a bad address, and `RemoteError` with what the host said
        when it cannot start: be it for its address, its model or its numbers.
        """
        options: dict[str, object] = {
            "--slots": checks.whole("capacity", capacity),
            "--model": _model(checks.path("model", model)),
            "--type": checks.word("node_type", node_type),
            "--context": checks.whole("n_ctx", n_ctx),
            "--count": 1,
        }
        if n_threads is not None:
            options["--threads"] = checks.whole("n_threads", n_threads)
        words = [str(word) for option in options.items() for word in option]
        process = Process("worker", [parse(checks.word("addr", addr))], words)
        try:
            return cls(process)
        except BaseException:
            process.end()
            raise

    @property
    def id(self) -> str:
        """Its address, which no other node has."""
        return str(self.address)

    def shutdown(self) -> None:
        """End it; what it was answering fails.  May be called again."""
        self._end()


class Orchestrator(_Served):
    """A cluster, without any worker at first.

    Its files are at `listen`, an address, and without one at a unix socket that goes with it:
    `address` is for `llamboctl --addr` and for `mount`.  `config` is the path of a
    cluster-config.yaml, by default that which `llambo-orchestrator` would take; `max_nodes`
    workers and the strategy, by name or number (0 round-robin, 1 least-loaded, 2 random),
    replace what it says.
    """

    _directory = ""

    def __init__(
        self,
        max_nodes: int = MAX_WORKERS,
        strategy: int | str = "least-loaded",
        *,
        listen: str | None = None,
        config: Path | str | None = None,
    ) -> None:
        """Raises `InvalidArgument` for what cannot be, and `RemoteError` with what the
        orchestrator said when it cannot start."""
        checks.whole("max_nodes", max_nodes)
        given = None if config is None else Path(checks.path("config", config))
        path = given or environment.config_path()
        settings = configuration.load(path) if path is not None else configuration.Cluster()
        settings = _limited(settings, max_nodes, strategy_name(strategy))
        addresses = [parse(checks.word("listen", listen))] if listen is not None else []
        directory = tempfile.TemporaryDirectory(prefix="llambo-")
        try:
            here = Path(directory.name)
            file = here / environment.CONFIG_NAME
            said = {"cluster": settings.model_dump(mode="json")}
            file.write_text(yaml.safe_dump(said, sort_keys=False))  # the first type is the default
            process = Process(
                "orchestrator",
                [Address("unix", path=str(here / "socket")), *addresses],
                ["--config", str(file), "--state", str(here / "state")],
            )
        except BaseException:
            directory.cleanup()
            raise
        super().__init__(process, directory)

    def spawn_cluster(
        self, count: int, model_path: Path | str | None = None, *, node_type: str | None = None
    ) -> int:
        """Start `count` workers, of a type of the configuration (by default its first) and with
        a model: a path, or a name that `models/` has; by default the type's.  Returns, when
        they all answer, how many were started.

        Raises `RemoteError` with the reason, such as more than `max_nodes` in all, a type that
        there is not, or what a host said that could not start; none is left then.
        """
        words = ["spawn", "--count", str(checks.whole("count", count))]
        if node_type is not None:
            words += ["--type", checks.word("node_type", node_type)]
        if model_path is not None:
            words += ["--model", _model(checks.path("model_path", model_path))]
        with self._connection() as connection:
            connection.write("ctl", " ".join(map(quote, words)))
        return count

    def process(self, prompt: str, max_tokens: int = 128) -> InferenceResponse:
        """`submit` of a prompt alone."""
        return self.submit(InferenceRequest(prompt, max_tokens))

    def status(self) -> str:
        """The cluster's state, as lines of a name and its value."""
        with self._connection() as connection:
            return connection.read("status")

    def shutdown_cluster(self) -> None:
        """End the cluster and its workers; what they were answering fails.  May be called
        again."""
        self._end()


def strategy_name(strategy: int | str) -> str:
    """The strategy that is meant by a name or a number.  Raises InvalidArgument."""
    if isinstance(strategy, int) and not isinstance(strategy, bool):
        name = strategies.numbered(strategy)
    else:
        name = checks.word("strategy", strategy)
    strategies.load(name)
    return name


def _limited(
    config: configuration.Cluster, max_nodes: int, strategy: str
) -> configuration.Cluster:
    if not 1 <= max_nodes <= MAX_WORKERS:
        raise InvalidArgument(f"max_nodes must be 1..{MAX_WORKERS}, not {max_nodes}")
    orchestrator = config.orchestrator.model_copy(update={"max_nodes": max_nodes})
    balancer = config.load_balancer.model_copy(update={"strategy": strategy})
    return config.model_copy(update={"orchestrator": orchestrator, "load_balancer": balancer})


def _model(model: Path | str) -> str:
    """As a program of any working directory takes it."""
    here = Path.cwd()
    return str(here / model) if isinstance(model, Path) else configuration.absolute(model, here)


def _end(process: Process, directory: tempfile.TemporaryDirectory[str] | None) -> None:
    try:
        process.end()
    finally:
        if directory is not None:
            directory.cleanup()
