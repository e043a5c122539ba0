"""The orchestrator: `/n/llambo` as files, and the verbs of its `ctl`.

Its root is a conversation like any other, answered by the `ClusterEngine`; beside
its files stand the mounted `worker-XXXX/` trees, `nodes/`, `status` and `clone`.
This module joins the parts of the cluster and owns none of their rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence

from ..conversation.clone import CloneFile
from ..conversation.conversation import Conversation
from ..conversation.files import add_conversation_files, ctl_commands
from ..errors import Busy, Error, InvalidArgument, NotFound
from ..fs.ctl import Action, Command, Commands, whole_number
from ..fs.tree import Directory, Tree
from ..net import address
from ..p9.node import Maybe, Node, Walk
from .balancer import Balancer
from .config import Cluster
from .dispatch import ClusterEngine
from .launch import LocalHost
from .members import Host, Members

_NAME = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)
"""of a mount: no number, those are conversations'"""


class Orchestrator:
    """`root` is the tree to serve; `stop` is called by the verb `shutdown`."""

    def __init__(self, config: Cluster, stop: Callable[[], None]) -> None:
        self.config = config
        self.tree = Tree()
        self.root = Directory(self.tree, "/")
        nodes = Directory(self.tree, "nodes")
        lb = config.load_balancer
        self._balancer = Balancer(lb.strategy)
        self._members = Members(
            self.tree, self.root, nodes, self._balancer, lb.health_check_interval / 1000
        )
        engine = ClusterEngine(
            self._members, self._balancer, max_retries=lb.max_retries, queue=config.limits.queue
        )
        self.conversation = Conversation(engine)
        self._loading: dict[str, int] = {}
        """what is being started -> percent of its model that is loaded"""
        self._spawning = asyncio.Lock()
        commands = Commands(
            [
                Command("spawn", "--count N --type T", 0, 4, self._spawn),
                Command("mount", "ADDR [NAME]", 1, 2, self._mount),
                Command("unmount", "NAME", 1, 1, self._unmount),
                Command("shutdown", "", 0, 0, lambda words: stop),
                *ctl_commands(self.conversation),
            ],
            self.conversation.noting,
        )
        add_conversation_files(self.root, self.conversation, commands, self.status_text)
        self.root.add(CloneFile(self.root, lambda: Conversation(engine)))
        self.root.add(nodes)

    def attach(self, uname: str, aname: str) -> Maybe[Node]:
        """The root, or by aname the tree of one worker."""
        name = aname.strip("/")
        if not name:
            return self.root
        worker = self._members.workers.get(name)
        if worker is None:
            raise NotFound(f"no worker {name}")
        return _attached(worker.mount.walk(()))

    async def close(self) -> None:
        """Stop the hosts that were started here and leave the others."""
        self.conversation.close()
        await self._members.close()

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
            try:
                process, at = await LocalHost.start(
                    type_name,
                    self.config.node_type(type_name),
                    count,
                    first,
                    self.config.limits.queue,
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
