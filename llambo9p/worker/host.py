"""A host: the workers of one process, over one engine and one model.

Its tree: `worker-XXXX/` directories, `ctl` (`grow N`, `shutdown`), `status`, and
`workers`, a line for each worker that an orchestrator reads as a heartbeat.  A
client may attach the whole tree or, by aname, one worker of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..engine.base import Engine, ModelInfo
from ..errors import InvalidArgument, NotFound
from ..fs.ctl import Action, Command, Commands, CtlFile, whole_number
from ..fs.file import File
from ..fs.tree import Directory, TextFile, Tree
from .worker import Worker

MAX_WORKERS = 10_000
"""names have four digits"""


def worker_name(number: int) -> str:
    return f"worker-{number:04d}"


class Host:
    """`shutdown` is called when somebody writes that verb."""

    def __init__(
        self,
        engine: Engine,
        model: ModelInfo,
        *,
        node_type: str,
        context_size: int,
        shutdown: Callable[[], None],
    ) -> None:
        self.tree = Tree()
        self.root = Directory(self.tree, "/")
        self.workers: dict[str, Worker] = {}
        self._engine = engine
        self._model = model
        self._type = node_type
        self._context_size = context_size
        self._next = 0
        commands = Commands(
            [
                Command("grow", "N [FIRST]", 1, 2, self._grow),
                Command("shutdown", "", 0, 0, lambda words: shutdown),
            ]
        )
        self.root.add(CtlFile(self.tree, "ctl", lambda: "", commands))
        self.root.add(TextFile(self.tree, "status", self.status_text))
        self.root.add(TextFile(self.tree, "workers", self.workers_text))

    def attach(self, uname: str, aname: str) -> File:
        """The host's root, or the worker that `aname` names."""
        name = aname.strip("/")
        if not name:
            return self.root
        worker = self.workers.get(name)
        if worker is None:
            raise NotFound(f"no worker {name} on this host")
        return worker.directory

    def grow(self, count: int, first: int | None = None) -> None:
        """Add `count` workers, numbered from `first` (default: after the last).

        Raises InvalidArgument when a name is taken or the numbers end.
        """
        numbers = self._free_numbers(count, first)
        for number in numbers:
            name = worker_name(number)
            worker = Worker(self.tree, name, self._engine, self._info_text, self._remove)
            self.workers[name] = worker
            self.root.add(worker.directory)
        self._next = max(self._next, numbers.stop)

    def _free_numbers(self, count: int, first: int | None) -> range:
        """The numbers that `grow` gives.  Raises what it raises."""
        first = self._next if first is None else first
        numbers = range(first, first + count)
        if numbers and numbers[-1] >= MAX_WORKERS:
            raise InvalidArgument(f"worker numbers end at {MAX_WORKERS - 1}")
        taken = [n for n in numbers if worker_name(n) in self.workers]
        if taken:
            raise InvalidArgument(f"{worker_name(taken[0])} exists already")
        return numbers

    def _grow(self, words: Sequence[str]) -> Action:
        numbers = []
        for word in words:
            number = whole_number(word)
            if number is None or number > MAX_WORKERS:
                raise InvalidArgument(f"grow: {word!r} is not a number 0..{MAX_WORKERS}")
            numbers.append(number)
        if numbers[0] < 1:
            raise InvalidArgument("grow: N must be at least 1")
        count, first = numbers[0], numbers[1] if len(numbers) > 1 else None
        self._free_numbers(count, first)
        return lambda: self.grow(count, first)

    def _remove(self, worker: Worker) -> None:
        if self.workers.get(worker.name) is worker:  # not another that has its name now
            del self.workers[worker.name]
            self.root.discard(worker.name)

    # -- texts --------------------------------------------------------------------

    def _info_text(self) -> str:
        return f"type {self._type}\nmodel {self._model.name}\ncontext {self._context_size}\n"

    def status_text(self) -> str:
        """`attr value` lines about the host and its engine."""
        load = self._engine.load
        return (
            f"{self._info_text()}"
            f"description {self._model.description}\n"
            f"workers {len(self.workers)}\n"
            f"slots {load.slots}\n"
            f"active {load.active}\n"
            f"queued {load.queued}\n"
            f"pending_prefill {load.pending_prefill}\n"
            f"pending_decode {load.pending_decode}\n"
            f"steps {load.steps}\n"
        )

    def workers_text(self) -> str:
        """One line a worker: name state active queued requests tokens errors."""
        return "".join(
            f"{w.name} {w.state} {w.active} {w.queued} {w.requests} {w.tokens} {w.errors}\n"
            for w in self.workers.values()
        )
