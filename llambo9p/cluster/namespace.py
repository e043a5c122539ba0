"""The orchestrator: `/n/llambo` as files, and the verbs of its `ctl`.

Its root is a conversation like any other, answered by the `ClusterEngine`; beside
its files stand the mounted `worker-XXXX/` trees, `nodes/`, `status` and `clone`.
This module joins the parts of the cluster and owns none of their rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..conversation.clone import CloneFile
from ..conversation.conversation import Conversation
from ..conversation.files import add_conversation_files, ctl_commands
from ..errors import Busy, InvalidArgument, NotFound
from ..fs.ctl import Action, Command, Commands
from ..fs.tree import Directory, Tree
from ..net import address
from ..p9 import constants as c
from ..p9.node import Maybe, Node, Walk
from .balancer import Balancer
from .config import Cluster
from .dispatch import ClusterEngine
from .launch import LocalHost
from .members import Host, Members


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
            if len(self._members.workers) + count > limit:
                raise Busy(f"{count} more workers would be more than max_nodes {limit}")
            first = self._first_free(count)
            names = [f"worker-{number:04d}" for number in range(first, first + count)]
            host = self._host_to_grow(type_name)
            if host is not None:
                async with await host.client.open(host.root, "ctl", c.OWRITE) as ctl:
                    await ctl.write(f"grow {count} {first}\n".encode())
                await self._members.mount_workers(host, names)
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

    def _host_to_grow(self, type_name: str) -> Host | None:
        for host in self._members.hosts:
            if host.type == type_name and host.process is not None and not host.lost:
                return host
        return None

    def _first_free(self, count: int) -> int:
        """The first of `count` numbers in a row whose names are all free."""
        first = 0
        for name in sorted(self._members.workers):
            digits = name.removeprefix("worker-")
            if not digits.isdigit():
                continue
            if int(digits) >= first + count:
                break
            first = int(digits) + 1
        return first

    def _mount(self, words: Sequence[str]) -> Action:
        at = address.parse(words[0])
        return lambda: self._members.mount(at, words[1] if len(words) > 1 else None)

    def _unmount(self, words: Sequence[str]) -> Action:
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


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit()) or not 1 <= int(word) <= 10_000:
        raise InvalidArgument(f"spawn: --count must be 1..10000, not {word!r}")
    return int(word)
