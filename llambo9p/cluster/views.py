"""What users see of the workers: in each one's root the trees as he may look into them, and in
his `nodes` a file of attributes for each.

Users other than the owner have a mount of their own, over a connection of theirs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable

from ..conversation import said
from ..errors import PermissionDenied
from ..fs.ctl import quote
from ..fs.tree import Directory, TextFile, Tree
from ..fs.user import User
from .host import Host, Worker
from .remote import Mount

_AT_ONCE = 250
"""workers that are shown to a new user in one turn of the event loop"""


class Views:
    """See the module.  The owner of `tree` is the first user."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._roots: dict[str, tuple[Directory, Directory]] = {}
        """root and `nodes` of each user"""
        self._figures: set[str] = set()
        """users who see figures"""

    def add(
        self, user: User, root: Directory, nodes: Directory, workers: Iterable[Worker]
    ) -> Coroutine[None, None, None] | None:
        """One more user, who sees all `workers`.  Where they are many, he does when the result has
        been awaited."""
        self._roots[user.name] = root, nodes
        if user.sees_figures:
            self._figures.add(user.name)
        waiting = deque(workers)
        self._show_some(waiting, user.name)
        return self._show_rest(waiting, user.name) if waiting else None

    async def _show_rest(self, waiting: deque[Worker], user: str) -> None:
        while waiting:
            await asyncio.sleep(0)
            self._show_some(waiting, user)

    def _show_some(self, waiting: deque[Worker], user: str) -> None:
        """Show the first of those that wait, unless they have come or gone meanwhile."""
        owner = self._tree.owner
        root, _ = self._roots[owner]
        for _ in range(min(_AT_ONCE, len(waiting))):
            worker = waiting.popleft()
            there = user == owner or root.find(worker.name) is worker.mounts.get(owner)
            if there and user not in worker.mounts:
                self._show(worker, user)

    def has(self, name: str) -> bool:
        """Whether there is anything of that name."""
        root, _ = self._roots[self._tree.owner]
        return root.find(name) is not None

    def show(self, worker: Worker) -> None:
        for user in self._roots:
            self._show(worker, user)

    def hide(self, worker: Worker) -> None:
        """And unmount it for everybody."""
        for user, (root, nodes) in self._roots.items():
            if user in worker.mounts and root.find(worker.name) is worker.mounts[user]:
                root.discard(worker.name)  # and nothing of that name that is not the worker
                nodes.discard(worker.name)
        for mount in worker.mounts.values():
            mount.unmount()

    def renew(self, host: Host, user: str) -> None:
        """His connection is gone.  What he has open on it has failed; he sees the host's
        trees anew."""
        root, _ = self._roots[user]
        for worker in host.workers.values():
            root.discard(worker.name)
            worker.mounts[user].unmount()
            self._show_mount(worker, user)

    def _show(self, worker: Worker, user: str) -> None:
        _, nodes = self._roots[user]
        figures = user in self._figures
        nodes.add(TextFile(self._tree, worker.name, lambda: text(worker, figures)))
        self._show_mount(worker, user)

    def _show_mount(self, worker: Worker, user: str) -> None:
        root, _ = self._roots[user]
        mount = worker.mount
        if user != self._tree.owner:
            host = worker.host
            refusal = None
            if host.address.net == "tcp":
                refusal = PermissionDenied(
                    f"{PermissionDenied.ename}: {worker.name} is mounted over plain TCP, which "
                    "does not tell one user from another"
                )
            mount = Mount(
                self._tree,
                worker.name,
                lambda: worker.host.client_of(user),
                user,
                host.aname(worker.there),
                refusal,
                of_worker=mount.of_worker,
                ours=mount.ours,
            )
        mount.parent = root
        worker.mounts[user] = mount
        root.add(mount)


_FIGURES = ("state", "load", "queued", "requests", "tokens", "errors")
"""attributes that tell what a worker does for all users"""


def text(worker: Worker, figures: bool) -> str:
    """`attr value` lines, with or without those of `_FIGURES`."""
    host = worker.host
    attrs = {
        "id": worker.name,
        "addr": host.address,
        "type": host.type,
        "state": _state(worker),
        "model": host.model,
        "context": host.context or "-",
        "capacity": worker.capacity,
        "load": worker.active,
        "queued": worker.queued,
        "requests": worker.requests,
        "tokens": worker.tokens,
        "errors": worker.errors,
        "heartbeat": f"{host.heartbeat:.3f}",
        "epoch": host.epoch or 0,
        "health": worker.health.value,
        "circuit": worker.circuit.value,
        "host": host.started_as or "-",
    }
    shown = (item for item in attrs.items() if figures or item[0] not in _FIGURES)
    return "".join(f"{name} {value}\n" for name, value in shown)


def lines(workers: Iterable[Worker], figures: bool) -> str:
    """One line a worker, which begins like that of a host's `workers`: name state load queued
    requests tokens errors health circuit capacity host epoch heartbeat type addr model.  Without
    `figures` the words from `state` to `errors` are `-`."""
    now = asyncio.get_running_loop().time()
    hosts: dict[Host, str] = {}
    return "".join([_line(worker, hosts, now, figures) for worker in workers])


def _line(worker: Worker, hosts: dict[Host, str], now: float, figures: bool) -> str:
    """`hosts` has the last words of the lines of each host's workers, which are the same."""
    host = worker.host
    last = hosts.get(host)
    if last is None:
        last = hosts[host] = (
            f"{host.started_as or '-'} {host.epoch or 0} {host.heartbeat:.3f} {quote(host.type)} "
            f"{quote(str(host.address))} {quote(host.model)}\n"
        )
    does = said.HIDDEN
    if figures:
        does = (
            f"{_state(worker)} {worker.active} {worker.queued} {worker.requests} {worker.tokens} "
            f"{worker.errors}"
        )
    return (
        f"{worker.name} {does} {worker.health.value} "
        f"{worker.breaker.circuit(now).value} {worker.capacity} {last}"
    )


def _state(worker: Worker) -> str:
    return "draining" if worker.drained and not worker.host.lost else worker.state
