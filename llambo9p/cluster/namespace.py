"""The orchestrator: `/n/llambo` as files, and the verbs of its `ctl`.

Its root is a conversation like any other, answered by the `ClusterEngine`; beside
its files stand the mounted `worker-XXXX/` trees, `nodes/`, `status` and `clone`.
Each user has a root of his own, and the workers' trees as those show them to him.
This module joins the parts of the cluster and owns none of their rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import ssl
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ..conversation.clone import CloneFile
from ..conversation.conversation import Conversation
from ..conversation.files import add_conversation_files, ctl_commands
from ..conversation.limits import Limits
from ..errors import Busy, Error, InvalidArgument, NotFound
from ..fs.ctl import Action, Command, Commands, for_admins, whole_number
from ..fs.tree import Directory, Tree
from ..fs.user import User, owner
from ..net import address
from ..p9.node import Maybe, Node, Walk
from .balancer import Balancer
from .config import Cluster
from .dispatch import ClusterEngine
from .fusion_engine import FusionEngine
from .fusion_files import FusionConversation, fusion_directory
from .launch import LocalHost
from .members import Host, Members
from .models import Models, ModelsDirectory

_NAME = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)
"""of a mount: no number, those are conversations'"""


class Orchestrator:
    """`attach` gives the tree to serve; `stop` is called by the verb `shutdown`.

    `tls` is for mounting hosts at `tls!` addresses; `first_path` is the tree's; `models` is
    where models are looked for.
    """

    def __init__(
        self,
        config: Cluster,
        stop: Callable[[], None],
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        first_path: int = 1,
        models: Sequence[Path] = (),
    ) -> None:
        self.config = config
        self._tree = Tree(first=first_path)
        self._limits = limits or Limits()
        lb = config.load_balancer
        self._balancer = Balancer(lb.strategy)
        self._members = Members(
            self._tree, self._balancer, lb.health_check_interval / 1000, tls
        )
        self._engine = ClusterEngine(
            self._members, self._balancer, max_retries=lb.max_retries, queue=config.limits.queue
        )
        self._models = Models(models)
        self._loading: dict[str, int] = {}
        """what is being started -> percent of its model that is loaded"""
        self._spawning = asyncio.Lock()
        self._hosts_directory: Path | None = None
        """for the sockets of the hosts that are started here"""
        self._commands = [
            Command("spawn", "--count N --type T", 0, 4, self._spawn),
            Command("mount", "ADDR [NAME]", 1, 2, self._mount),
            Command("unmount", "NAME", 1, 1, self._unmount),
            Command("shutdown", "", 0, 0, lambda words: stop),
        ]
        self._roots: dict[str, Directory] = {}
        """each user's tree"""
        self._conversations: list[Conversation] = []
        self._root_of(owner())

    def attach(self, user: User, aname: str) -> Maybe[Node]:
        """The root, or by aname the tree of one worker, as `user` sees it."""
        root = self._root_of(user)
        name = aname.strip("/")
        if not name:
            return root
        mount = root.find(name) if name in self._members.workers else None
        if mount is None:
            raise NotFound(f"no worker {name}")
        return _attached(mount.walk(()))

    def _root_of(self, user: User) -> Directory:
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
        commands = Commands(
            [
                *(for_admins(user, command) for command in self._commands),
                *ctl_commands(conversation),
            ],
            conversation.noting,
        )
        add_conversation_files(root, conversation, commands, self.status_text)
        root.add(CloneFile(root, converse))

        def converse_with_many() -> FusionConversation:
            engine = FusionEngine(self._engine, self._members.neighbours, self._limits)
            return FusionConversation(engine, self._limits, user.name)

        root.add(fusion_directory(root.tree, converse_with_many, self._conversations.append))
        nodes = root.add(Directory(self._tree, "nodes"))
        root.add(ModelsDirectory(self._tree, root, self._models))
        self._members.show_to(user.name, root, nodes)
        return root

    async def close(self) -> None:
        """Stop the hosts that were started here and leave the others."""
        for conversation in self._conversations:
            conversation.close()
        await self._members.close()
        if self._hosts_directory is not None:
            shutil.rmtree(self._hosts_directory, ignore_errors=True)

    # -- verbs ----------------------------------------------------------------------

    def _spawn(self, words: Sequence[str]) -> Action:
        options = {"--count": "", "--type": next(iter(self.config.nodes))}
        rest = list(words)
        while rest:
            option = rest.pop(0)
            if option not in options or not rest:
                raise InvalidArgument(f"spawn: bad option {option!r}; use --count N --type T")
            options[option] = rest.pop(0)
        node = self.config.node_type(options["--type"])
        count = _count(options["--count"]) if options["--count"] else node.count
        return lambda: self._spawn_workers(options["--type"], count)

    async def _spawn_workers(self, type_name: str, count: int) -> None:
        """Grow a host of that type, or start one; return when the workers answer."""
        async with self._spawning:
            limit = self.config.orchestrator.max_nodes
            alive = sum(w.state != "lost" for w in self._members.workers.values())
            if alive + count > limit:
                raise Busy(f"{count} more workers would be more than max_nodes {limit}")
            first = self._first_free(count)
            names = [_worker_name(number) for number in range(first, first + count)]
            host = self._host_to_grow(type_name)
            if host is not None:
                await self._grow(host, first, names)
                return
            node = self.config.node_type(type_name)
            model = await self._models.path(node.resources.model)
            try:
                if self._hosts_directory is None:
                    self._hosts_directory = Path(tempfile.mkdtemp(prefix="llambo-"))
                process, at = await LocalHost.start(
                    self._hosts_directory,
                    type_name,
                    node,
                    model,
                    count,
                    first,
                    self.config.limits,
                    self.config.security.admins,
                    lambda percent: self._loading.__setitem__(names[0], percent),
                )
            finally:
                self._loading.pop(names[0], None)
            await self._members.add_host(at, process)

    async def _grow(self, host: Host, first: int, names: list[str]) -> None:
        """More workers on a host, or when that fails or is flushed none of them."""
        try:
            await self._members.write(host, "ctl", f"grow {len(names)} {first}")
            await self._members.mount_workers(host, names)
        except BaseException:
            with contextlib.suppress(Error):  # the host may be lost
                for name in set(names) & set(await self._members.names_on(host)):
                    if name in host.workers:
                        await self._members.unmount(name)
                    else:
                        await self._members.write(host, f"{name}/ctl", "shutdown")
            raise

    def _host_to_grow(self, type_name: str) -> Host | None:
        for host in self._members.hosts:
            if host.type == type_name and host.process is not None and not host.lost:
                return host
        return None

    def _first_free(self, count: int) -> int:
        """The first of `count` numbers in a row whose names are free, or a lost worker's."""
        taken = {name for name, worker in self._members.workers.items() if worker.state != "lost"}
        first = number = 0
        while number < first + count:
            if _worker_name(number) in taken:
                first = number + 1
            number += 1
        return first

    def _mount(self, words: Sequence[str]) -> Action:
        at = address.parse(words[0])
        name = words[1] if len(words) > 1 else None
        if name is not None and not _NAME.fullmatch(name):
            raise InvalidArgument(
                f"mount: bad name {name[:40]!r}: use a letter, then letters, digits, '.', '_' "
                "and '-', at most 64 in all"
            )
        return lambda: self._members.mount(at, name)

    def _unmount(self, words: Sequence[str]) -> Action:
        self._members.mounted(words[0])
        return lambda: self._members.unmount(words[0])

    # -- texts ----------------------------------------------------------------------

    def status_text(self) -> str:
        """`attr value` lines of the cluster, after those of the root's conversation."""
        workers = self._members.workers.values()
        lost = sum(w.state == "lost" for w in workers)
        draining = sum(w.state == "draining" for w in workers)
        lines = [
            f"workers {len(workers)}",
            f"healthy {len(workers) - lost - draining}",
            f"draining {draining}",
            f"lost {lost}",
            f"hosts {len(self._members.hosts)}",
            f"strategy {self._balancer.strategy}",
            f"active {sum(w.active for w in workers)}",
            *(f"loading {name} {percent}" for name, percent in self._loading.items()),
        ]
        return "\n".join(lines) + "\n"


async def _attached(walk: Maybe[Walk]) -> Node:
    walked = walk if isinstance(walk, Walk) else await walk
    if walked.file is None:
        raise walked.error or NotFound()
    return walked.file


def _worker_name(number: int) -> str:
    """What a host calls the worker of that number."""
    return f"worker-{number:04d}"


def _count(word: str) -> int:
    count = whole_number(word)
    if count is None or not 1 <= count <= 10_000:
        raise InvalidArgument(f"spawn: --count must be 1..10000, not {word[:40]!r}")
    return count
