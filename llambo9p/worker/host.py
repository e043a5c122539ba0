"""A host: the workers of one process, over one engine and one model.

Its tree: `worker-XXXX/` directories, `ctl` (`grow N`, `shutdown`), `status`, `metrics`, and
`workers`, a line for each worker that an orchestrator reads as a heartbeat.  A
client may attach the whole tree or, by aname, one worker of it; `@EPOCH` at the end of the
aname (`worker-0000@7`, `@7`) is refused by a host of another epoch, so that who knew the
process that was here before does not take this one for it.

Each user has a tree of his own, with his own conversation in each worker; what belongs
to others is not in it, so it can be neither found nor guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry

from ..conversation import said
from ..conversation.limits import Limits
from ..conversation.worker_names import MAX_WORKERS, worker_name
from ..engine.base import Engine, ModelInfo
from ..errors import AuthenticationFailed, InvalidArgument, NotFound, Stale
from ..fs import exposition
from ..fs import user as users
from ..fs.ctl import Action, Command, Commands, CtlFile, for_admins
from ..fs.file import File
from ..fs.tree import Directory, TextFile, Tree
from ..fs.user import User
from ..p9.words import whole_number
from .metrics import Metrics
from .worker import Worker


class Host:
    """`shutdown` is called when somebody writes that verb; `first_path` is the tree's; `epoch`
    tells this process from others that listened at its address; `owner` is the server's, by
    default by the name of this process's account.  On plain TCP a host does not know its users:
    what several have asked there comes as the owner's."""

    def __init__(
        self,
        engine: Engine,
        model: ModelInfo,
        *,
        node_type: str,
        context_size: int,
        shutdown: Callable[[], None],
        limits: Limits | None = None,
        first_path: int = 1,
        epoch: int = 0,
        owner: User | None = None,
        knows_users: bool = True,
    ) -> None:
        self.workers: dict[str, Worker] = {}
        self.epoch = epoch
        self._engine = engine
        self._model = model
        self._type = node_type
        self._context_size = context_size
        self._next = 0
        self._shutdown = shutdown
        self._limits = limits or Limits()
        self.metrics = CollectorRegistry()
        self.metrics.register(Metrics(lambda: engine.load, lambda: len(self.workers)))
        self._knows_users = knows_users
        self._owner = owner or users.owner()
        self._tree = Tree(self._owner.name, first_path)
        self._roots: dict[str, tuple[User, Directory]] = {}
        """each user's tree, by name"""

    def attach(self, user: User, aname: str) -> File:
        """The host's root, or the worker that `aname` names, as `user` sees it.

        Raises NotFound, and Stale for another epoch than ours."""
        name, at, epoch = aname.strip("/").partition("@")
        if at and epoch != str(self.epoch):
            raise Stale(f"{Stale.ename}: stale epoch {epoch[:40]}, this host's is {self.epoch}")
        root = self._root_of(user)
        if not name:
            return root
        if name not in self.workers:
            raise NotFound(f"no worker {name} on this host")
        worker = root.find(name)
        assert worker is not None
        return worker

    def _root_of(self, user: User) -> Directory:
        if user.owner != (user.name == self._owner.name):
            raise AuthenticationFailed(
                f"{AuthenticationFailed.ename}: {user.name} has the owner's name, and is another"
            )
        if user.name in self._roots:
            return self._roots[user.name][1]
        root = Directory(self._tree, "/")
        commands = Commands(
            [
                for_admins(user, Command("grow", "N [FIRST]", 1, 2, self._grow)),
                for_admins(user, Command("shutdown", "", 0, 0, lambda words: self._shutdown)),
            ]
        )
        root.add(CtlFile(self._tree, "ctl", lambda: "", commands))
        figures = user.sees_figures
        metrics = self.metrics if figures else CollectorRegistry()
        root.add(TextFile(self._tree, "status", lambda: self.status_text(figures)))
        root.add(TextFile(self._tree, "workers", lambda: self.workers_text(figures)))
        root.add(TextFile(self._tree, "metrics", lambda: exposition.prometheus(metrics)))
        for worker in self.workers.values():
            root.add(worker.directory(self._tree, user))
        self._roots[user.name] = user, root
        return root

    def grow(self, count: int, first: int | None = None) -> None:
        """Add `count` workers, numbered from `first` (default: after the last).

        Raises InvalidArgument when a name is taken or the numbers end.
        """
        numbers = self._free_numbers(count, first)
        for number in numbers:
            name = worker_name(number)
            worker = Worker(
                name,
                self._type,
                self._engine,
                self._info_text,
                self._remove,
                self._limits,
                self._knows_users,
            )
            self.workers[name] = worker
            for user, root in self._roots.values():
                root.add(worker.directory(self._tree, user))
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

    def lose(self) -> None:
        """The engine does not work any more: `workers` says so until the process has ended."""
        for worker in self.workers.values():
            worker.lost = True

    def _remove(self, worker: Worker) -> None:
        if self.workers.get(worker.name) is worker:  # not another that has its name now
            del self.workers[worker.name]
            for _, root in self._roots.values():
                root.discard(worker.name)

    # -- texts --------------------------------------------------------------------

    def _info_text(self) -> str:
        return (
            f"type {self._type}\n"
            f"model {self._model.name}\n"
            f"context {self._context_size}\n"
            f"exact {self._model.exact}\n"
        )

    def status_text(self, figures: bool) -> str:
        """`attr value` lines about the host, and with `figures` about what its engine does."""
        load = self._engine.load
        about = (
            f"{self._info_text()}"
            f"description {self._model.description}\n"
            f"epoch {self.epoch}\n"
            f"workers {len(self.workers)}\n"
            f"slots {load.slots}\n"
        )
        if not figures:
            return about
        return (
            f"{about}"
            f"active {load.active}\n"
            f"queued {load.queued}\n"
            f"pending_prefill {load.pending_prefill}\n"
            f"pending_decode {load.pending_decode}\n"
            f"steps {load.steps}\n"
            f"prompt_tokens {load.prompt_tokens}\n"
            f"cached_tokens {load.cached_tokens}\n"
            f"generated_tokens {load.generated_tokens}\n"
        )

    def workers_text(self, figures: bool) -> str:
        """One line a worker: name state active queued requests tokens errors, or without
        `figures` `-` for all but the name."""
        if not figures:
            return "".join(f"{name} {said.HIDDEN}\n" for name in self.workers)
        return "".join(
            f"{w.name} {w.state} {w.active} {w.queued} {w.requests} {w.tokens} {w.errors}\n"
            for w in self.workers.values()
        )
