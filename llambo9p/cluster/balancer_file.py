"""`balancer` in the orchestrator's root: reading shows what is done, writing changes how.

An administrator who reads it sees `attr value` lines whose number does not grow with the cluster's
size: totals, a line a node type, and the busiest hosts and workers.  Other users see no line that
changes with what is asked.  Only administrators write.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from ..errors import PermissionDenied
from ..fs.ctl import decode
from ..fs.file import OpenFile
from ..fs.tree import OpenSnapshot, SyntheticFile, Tree
from ..fs.user import User
from ..p9.node import Maybe
from . import strategies
from .balancer import Balancer
from .candidates import Candidate, HostLoad

SHOWN = 16
"""of hosts and of workers, those with the most requests"""


class BalancerFile(SyntheticFile):
    """As `user` sees it.  `use` is told the name that was written."""

    __slots__ = ("_balancer", "_use", "_user")

    def __init__(
        self, tree: Tree, user: User, balancer: Balancer, use: Callable[[str], None]
    ) -> None:
        super().__init__(tree, "balancer", 0o644)
        self._user = user
        self._balancer = balancer
        self._use = use

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        shown = text(self._balancer, self._user.sees_figures)
        return OpenBalancer(shown.encode(), self._write)

    def _write(self, data: bytes) -> None:
        self._user.check_admin(self.name)
        self._use(decode(data).strip())


class OpenBalancer(OpenSnapshot):
    __slots__ = ("_written",)

    def __init__(self, data: bytes, written: Callable[[bytes], None]) -> None:
        super().__init__(data)
        self._written = written

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        self._written(data)
        return len(data)


def text(balancer: Balancer, figures: bool = True) -> str:
    """What is read: lines of a name and its value, or of a name, whose it is, and pairs."""
    hosts = list(balancer.hosts)
    lines = [
        f"strategy {balancer.strategy}",
        f"strategies {' '.join(strategies.names())}",
        f"workers {len(balancer.workers)}",
        f"eligible {len(balancer)}",
        f"hosts {len(hosts)}",
        *(_figures(balancer, hosts) if figures else ()),
    ]
    return "\n".join(lines) + "\n"


def _figures(balancer: Balancer, hosts: list[HostLoad]) -> list[str]:
    return [
        f"requests {sum(host.requests for host in hosts)}",
        f"strangers {sum(host.strangers for host in hosts)}",
        f"pending_prefill {sum(host.prefill for host in hosts):.0f}",
        f"pending_decode {sum(host.decode for host in hosts):.0f}",
        f"avoided {balancer.avoided}",
        *(f"decisions {name} {count}" for name, count in balancer.decisions.items()),
        *(f"{balancer.strategy} {name} {value}" for name, value in balancer.statistics),
        *_types(balancer),
        *map(_host, heapq.nlargest(SHOWN, hosts, key=_activity)),
        *map(_worker, heapq.nlargest(SHOWN, balancer.workers.values(), key=_dispatched)),
    ]


def _types(balancer: Balancer) -> Iterator[str]:
    counts: dict[str, list[int]] = {}
    for worker in balancer.workers.values():
        count = counts.setdefault(worker.node_type, [0, 0, 0])
        for i, n in enumerate((1, worker.open, worker.dispatched)):
            count[i] += n
    for node_type, (workers, eligible, dispatched) in sorted(counts.items()):
        yield f"type {node_type} workers {workers} eligible {eligible} dispatched {dispatched}"


def _activity(host: HostLoad) -> tuple[int, int]:
    return host.requests, host.dispatched


def _dispatched(worker: Candidate) -> int:
    return worker.dispatched


def _host(host: HostLoad) -> str:
    return (
        f"host {host.address} workers {host.workers} dispatched {host.dispatched} "
        f"requests {host.requests} strangers {host.strangers} "
        f"pending_prefill {host.prefill:.0f} pending_decode {host.decode:.0f} "
        f"prefill_rate {host.rates.prefill:.1f} decode_rate {host.rates.decode:.1f}"
    )


def _worker(worker: Candidate) -> str:
    state = "no" if not worker.open else "degraded" if worker.degraded else "yes"
    return (
        f"worker {worker.name} type {worker.node_type} eligible {state} "
        f"dispatched {worker.dispatched}"
    )
