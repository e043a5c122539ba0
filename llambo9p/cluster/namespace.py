"""The orchestrator: `/n/llambo` as files, and the verbs of its `ctl`.

Its root is a conversation like any other, answered by the `ClusterEngine`; beside
its files stand the mounted `worker-XXXX/` trees, `nodes/`, `status` and `clone`.
Each user has a root of his own, and the workers' trees as those show them to him.
This module joins the parts of the cluster and owns none of their rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..conversation.clone import CloneFile
from ..conversation.conversation import Conversation
from ..conversation.files import add_conversation_files, ctl_commands
from ..conversation.limits import Limits
from ..conversation.llm_files import LlmDirectory
from ..conversation.worker_names import MAX_WORKERS
from ..errors import AuthenticationFailed, InvalidArgument, NotFound, NotSupported, WorkerLost
from ..fs import user as users
from ..fs.ctl import Action, Command, Commands, for_admins
from ..fs.tree import Directory, TextFile, Tree
from ..fs.user import User
from ..net import address
from ..net.security import NOBODY_ELSE, Trust
from ..p9.node import Maybe, Node, Walk
from ..p9.words import whole_number
from . import names, strategies, views
from .balancer import Balancer
from .balancer_file import BalancerFile
from .config import ENGINES, Cluster, is_path
from .dispatch import ClusterEngine
from .events import Events
from .fleet import Fleet
from .fusion_engine import FusionEngine
from .fusion_files import FusionConversation, fusion_directory
from .health import Health, Rules
from .launchers.base import Launcher, Log
from .launchers.local import LocalLauncher
from .launchers.on_ray.launcher import RayLauncher
from .logs import LogsDirectory, OwnLog
from .members import Members
from .metrics import Tally
from .models import Models, ModelsDirectory
from .monitor import Monitor
from .offer import Offer, together
from .recovery import Recovery
from .registry import UNIX_REFUSED, Registry
from .requests import Requests, Watched
from .scaling import Scaling

_VERSION = importlib.metadata.version("llambo9p")
_MANY = 10_000
"""names that one verb may have"""
_AT_ONCE = 64
"""of them, those that are worked on at a time"""


class Orchestrator:
    """`attach` gives the tree to serve; `stop` is called by the verb `shutdown`.

    Hosts that are mounted are those that we `trust`; `first_path` is the tree's; with
    `insecure`, hosts elsewhere may listen on plain TCP.  `log` has what this process logs.
    `owner` is the server's, by default by the name of this process's account.
    """

    def __init__(
        self,
        config: Cluster,
        stop: Callable[[], None],
        limits: Limits | None = None,
        trust: Trust = NOBODY_ELSE,
        first_path: int = 1,
        insecure: bool = False,
        log: OwnLog | None = None,
        owner: User | None = None,
    ) -> None:
        self.config = config
        self._stop = stop
        self._owner = owner or users.owner()
        self._log = log or OwnLog()
        self._insecure = insecure
        self._tree = Tree(self._owner.name, first_path)
        self._limits = limits or Limits()
        lb = config.load_balancer
        self._balancer = Balancer(lb.strategy, queue=config.limits.queue_per_host)
        self._events = Events()
        rules = Rules(
            lb.health_check_interval / 1000, lb.healthy_threshold, lb.unhealthy_threshold
        )
        self._members = Members(self._tree, self._balancer, rules, self._events, trust)
        tally = Tally(time.monotonic)
        requests = Requests(tally, self._events, time.monotonic)
        self._dispatch = ClusterEngine(
            self._members,
            self._balancer,
            requests,
            max_retries=lb.max_retries,
            timeout=lb.timeout / 1000,
            queue=config.limits.queue,
            want=lambda node_type: self._scaling.want(node_type),
        )
        self._engine = Watched(self._dispatch, requests)
        self.monitor = Monitor(
            config, self._members, self._balancer, self._dispatch, tally, self._events
        )
        self._registry = Registry(self._tree, self._members)
        self._models = Models(config.models.path)
        self._fleet = Fleet(
            config, self._members, self._models, self._launcher, self._events
        )
        self._scaling = Scaling(
            config,
            self._members,
            self._balancer,
            self._fleet,
            self._events,
            tally,
            lambda: self._dispatch.waiting,
        )
        self.recovery = Recovery(
            config.state.path, self._members, self._fleet, self._registry, self._events, self._use
        )
        self._roots: dict[str, Directory] = {}
        """each user's tree"""
        self._showing: dict[str, asyncio.Task[None]] = {}
        """by user: his tree does not show all workers yet"""
        self._conversations: list[Conversation] = []
        self._root_of(self._owner)
        for at in config.network.discovery:
            self._members.discovery.expect(address.parse(at))

    def _commands(self, user: User) -> list[Command]:
        """Administrators' verbs, as the user has them."""
        changing = [
            Command(
                "spawn", "--count N --type T --model M --engine E", 0, 8, partial(self._spawn, user)
            ),
            Command("scale", "N [TYPE]", 1, 2, self._scale),
            Command("load", "NAME MODEL", 2, 2, partial(self._load, user)),
            Command(
                "mount", "ADDR [NAME [--user U] [--aname TREE]]", 1, 6, partial(self._mount, user)
            ),
            Command("unmount", "NAME", 1, 1, self._unmount),
            Command("strategy", "NAME", 1, 1, self._use_strategy),
            self._for_each("drain", self._members.living, self._members.drain),
            self._for_each("resume", self._members.living, self._members.resume),
            self._for_each("kill", self._members.of_host, self._members.kill),
        ]
        commands = [
            *map(self.recovery.saving, changing),
            *self.recovery.commands(user),
            Command("shutdown", "", 0, 0, lambda words: self._stop),
        ]
        return [for_admins(user, command) for command in commands]

    def attach(self, user: User, aname: str) -> Maybe[Node]:
        """The root, or by aname the tree of one worker, as `user` sees it."""
        root = self._root_of(user)
        showing = self._showing.get(user.name)
        if showing is not None:
            return self._attach_later(showing, root, aname)
        return self._attach_to(root, aname)

    async def _attach_later(
        self, showing: asyncio.Task[None], root: Directory, aname: str
    ) -> Node:
        await asyncio.shield(showing)
        node = self._attach_to(root, aname)
        return await node if isinstance(node, Awaitable) else node

    def _attach_to(self, root: Directory, aname: str) -> Maybe[Node]:
        name = aname.strip("/")
        if not name:
            return root
        mount = root.find(name) if name in self._members.workers else None
        if mount is None:
            raise NotFound(f"no worker {name}")
        return _attached(mount.walk(()))

    def _root_of(self, user: User) -> Directory:
        if user.owner != (user.name == self._owner.name):
            raise AuthenticationFailed(
                f"{AuthenticationFailed.ename}: {user.name} has the owner's name, and is another"
            )
        root = self._roots.get(user.name)
        if root is None:
            root = self._roots[user.name] = self._make_root(user)
        return root

    def _make_root(self, user: User) -> Directory:
        """A conversation of the user's own, and around it what all users share."""
        root = Directory(self._tree.owned_by(user.name), "/")

        def converse() -> Conversation:
            return Conversation(self._engine, limits=self._limits, user=user.name)

        conversation = converse()
        self._conversations.append(conversation)
        self.recovery.root(user.name, conversation)

        @contextlib.contextmanager
        def noting() -> Iterator[None]:
            with conversation.noting():
                yield
            self.recovery.changed()

        commands = Commands(
            [
                *self._commands(user),
                *ctl_commands(conversation),
            ],
            noting,
        )
        add_conversation_files(
            root, conversation, commands, lambda: self.status_text(user.sees_figures)
        )
        clone = root.add(CloneFile(root, converse))
        root.add(LlmDirectory(clone.clones, lambda: self._offer.context or 0))

        def converse_with_many() -> FusionConversation:
            engine = FusionEngine(self._engine, self._limits)
            return FusionConversation(engine, self._limits, user.name)

        root.add(fusion_directory(root.tree, converse_with_many, self._conversations.append))
        nodes = root.add(Directory(self._tree, "nodes"))
        workers = self._members.workers
        root.add(
            TextFile(
                self._tree, "workers", lambda: views.lines(workers.values(), user.sees_figures)
            )
        )
        root.add(ModelsDirectory(self._tree, root, self._models))
        root.add(BalancerFile(self._tree, user, self._balancer, self._use))
        self.monitor.add_files(self._tree, root, user)
        root.add(LogsDirectory(self._tree, user, self._logs))
        self._registry.show_to(user, root)
        rest = self._members.show_to(user, root, nodes)
        if rest is not None:
            showing = self._showing[user.name] = asyncio.get_running_loop().create_task(rest)
            showing.add_done_callback(lambda _: self._showing.pop(user.name, None))
        return root

    def _logs(self) -> Mapping[str, Log]:
        return {"orchestrator": self._log, **self._fleet.logs}

    async def close(self) -> None:
        """Stop the hosts that were started here and leave the others."""
        for conversation in self._conversations:
            conversation.close(WorkerLost(f"{WorkerLost.ename}: the cluster was shut down"))
        await self.recovery.close()
        await self._scaling.close()
        self._fleet.retire()
        await self._members.close()
        await self._fleet.close()
        await self._dispatch.close()

    # -- verbs ----------------------------------------------------------------------

    def _spawn(self, user: User, words: Sequence[str]) -> Action:
        options = {
            "--count": "",
            "--type": next(iter(self.config.nodes)),
            "--model": "",
            "--engine": self.config.orchestrator.engine,
        }
        if rest := _options("spawn", options, words):
            raise _bad_option("spawn", rest[0], options)
        node = self.config.node_type(options["--type"])
        count = _count(options["--count"]) if options["--count"] else node.count
        engine = options["--engine"]
        if engine not in ENGINES:
            raise InvalidArgument(f"spawn: no engine {engine!r}; engines are {' '.join(ENGINES)}")
        if options["--model"]:
            self._check_model(user, "spawn", options["--model"])
        model = options["--model"] or node.resources.model
        return lambda: self._fleet.spawn(options["--type"], count, model, engine)

    def _scale(self, words: Sequence[str]) -> Action:
        count = whole_number(words[0])
        if count is None or count > MAX_WORKERS:
            raise InvalidArgument(f"scale: N must be 0..{MAX_WORKERS}, not {words[0][:40]!r}")
        type_name = words[1] if len(words) > 1 else next(iter(self.config.nodes))
        self.config.node_type(type_name)
        return lambda: self._scaling.scale(type_name, count)

    def _load(self, user: User, words: Sequence[str]) -> Action:
        name, model = words
        self._check_model(user, "load", model)
        self._fleet.started(name)
        return lambda: self._fleet.load(name, model)

    def _check_model(self, user: User, verb: str, model: str) -> None:
        """A path lets a host, which is the owner's process, read any file as a model: only the
        owner says one that the configuration does not.  Raises PermissionDenied."""
        configured = {node.resources.model for node in self.config.nodes.values()}
        if is_path(model) and model not in configured:
            user.check_owner(f"{verb} with the path of a model", "use a name that is in models/")

    def _launcher(self, engine: str) -> Launcher:
        directory = Path(f"{self.config.state.path}.hosts")
        if engine == "ray":
            if importlib.util.find_spec("ray") is None:
                raise NotSupported(
                    f"{NotSupported.ename}: engine ray needs Ray: pip install 'llambo9p[ray]'"
                )
            return RayLauncher(directory, self.config, self._insecure)
        assert engine == "local"
        return LocalLauncher(directory, self.config)

    def _mount(self, user: User, words: Sequence[str]) -> Action:
        at = address.parse(words[0])
        if at.net == "unix":
            user.check_owner("mount of a unix socket", UNIX_REFUSED)
        options = {"--user": "", "--aname": ""}
        rest = _options("mount", options, words[1:])
        if len(rest) > 1:
            raise _bad_option("mount", rest[1], options)
        if not rest:
            if any(options.values()):
                raise InvalidArgument(
                    "mount: --user and --aname are for a whole tree: give it a NAME after ADDR"
                )
            return lambda: self._members.mount(at, None)
        try:
            names.check_mount(rest[0])
        except ValueError as e:
            raise InvalidArgument(f"mount: {e}") from None
        whole = names.WholeTree(rest[0], options["--user"], options["--aname"])
        return lambda: self._members.mount(at, whole)

    def _unmount(self, words: Sequence[str]) -> Action:
        self._members.mounted(words[0])
        return lambda: self._members.unmount(words[0])

    def _use_strategy(self, words: Sequence[str]) -> Action:
        strategies.load(words[0])
        return lambda: self._use(words[0])

    def _use(self, strategy: str) -> None:
        self._balancer.use(strategy)
        self.recovery.strategy(self._balancer.strategy)
        self._events.emit("strategy.changed", strategy=self._balancer.strategy)

    def _for_each(
        self,
        verb: str,
        check: Callable[[str], object],
        do: Callable[[str], Awaitable[None]],
    ) -> Command:
        """A verb about several workers, of which each must pass the `check` first."""

        def validate(names: Sequence[str]) -> Action:
            each = list(dict.fromkeys(names))
            for name in each:
                check(name)

            async def action() -> None:
                errors: list[BaseException] = []
                for at in range(0, len(each), _AT_ONCE):
                    some = map(do, each[at : at + _AT_ONCE])
                    done = await asyncio.gather(*some, return_exceptions=True)
                    errors += filter(None, done)
                if errors:
                    raise errors[0]

            return action

        return Command(verb, "NAME ...", 1, _MANY, validate)

    # -- texts ----------------------------------------------------------------------

    def status_text(self, figures: bool) -> str:
        """`attr value` lines of the cluster, after those of the root's conversation; with
        `figures` those that tell of all users' requests."""
        workers = self._members.workers.values()
        counts = self._members.counts
        lines = [
            f"version {_VERSION}",
            f"workers {len(workers)}",
            *(f"{health.value} {counts[health]}" for health in Health),
            f"hosts {len(self._members.hosts)}",
            f"strategy {self._balancer.strategy}",
            *self._figures(figures),
            *(f"loading {name} {percent}" for name, percent in self._fleet.loading.items()),
        ]
        trouble = self.recovery.text if figures else ""
        return "\n".join(lines) + "\n" + trouble + self._offer.text(figures)

    def _figures(self, shown: bool) -> list[str]:
        active = sum(worker.active for worker in self._members.workers.values())
        return [f"active {active}", f"events {self._events.count}"] if shown else []

    @property
    def _offer(self) -> Offer:
        """To an orchestrator that mounts this one."""
        below = [offer for host in self._members.hosts if (offer := host.adds) is not None]
        load = self._dispatch.load
        strangers = sum(host.strangers for host in self._balancer.hosts)
        return together(
            self._members.id,
            below,
            requests=load.active + load.queued + strangers,
            waiting=load.queued + sum(offer.waiting for offer in below),
        )


async def _attached(walk: Maybe[Walk]) -> Node:
    walked = walk if isinstance(walk, Walk) else await walk
    if walked.file is None:
        raise walked.error or NotFound()
    return walked.file


def _options(verb: str, options: dict[str, str], words: Sequence[str]) -> list[str]:
    """Put the values that `words` give into `options`; the words that are none of them, or
    their values.  Raises InvalidArgument."""
    rest = []
    each = iter(words)
    for word in each:
        value = next(each, None) if word in options else None
        if value is not None:
            options[word] = value
        elif word.startswith("--"):
            raise _bad_option(verb, word, options)
        else:
            rest.append(word)
    return rest


def _bad_option(verb: str, word: str, options: Iterable[str]) -> InvalidArgument:
    return InvalidArgument(f"{verb}: bad option {word[:80]!r}; use {' '.join(options)}")


def _count(word: str) -> int:
    count = whole_number(word)
    if count is None or not 1 <= count <= 10_000:
        raise InvalidArgument(f"spawn: --count must be 1..10000, not {word[:40]!r}")
    return count
