"""`LoadBalancer`: nodes of one's own, without an orchestrator, and which of them answers.

The choice is the orchestrator's (`llambo9p.cluster.balancer`); this is its table behind a lock,
and the sending.
"""

from __future__ import annotations

import threading

from llambo9p.api import checks
from llambo9p.api.cluster import ClusterNode, strategy_name
from llambo9p.api.request import InferenceRequest, InferenceResponse
from llambo9p.cluster import balancer_file
from llambo9p.cluster.balancer import Balancer
from llambo9p.cluster.candidates import Work
from llambo9p.engine.base import Request
from llambo9p.errors import Exists, NotFound, WorkerLost


class LoadBalancer:
    """Threads may share it.  The nodes are their makers' to shut down.

    A subclass may say `balance` itself, by `nodes` and their `submit`.
    """

    def __init__(self, strategy: int | str = "least-loaded") -> None:
        """By name or number: 0 round-robin, 1 least-loaded, 2 random.  Raises
        InvalidArgument."""
        self._lock = threading.Lock()
        self._balancer = Balancer(strategy_name(strategy))
        self._nodes: dict[str, ClusterNode] = {}

    @property
    def nodes(self) -> list[ClusterNode]:
        """Those that are registered, in that order."""
        with self._lock:
            return list(self._nodes.values())

    def register(self, node: ClusterNode) -> None:
        """The node may be chosen from now on.  Raises Exists if it is registered."""
        checks.kind("node", node, ClusterNode)
        with self._lock:
            if node.id in self._nodes:
                raise Exists(f"{Exists.ename}: node {node.id} is registered")
            self._nodes[node.id] = node
            self._balancer.add(
                node.id,
                node.id,
                node_type=node.type,
                model=node.model,
                context=node.n_ctx,
                slots=node.capacity,
            )

    def unregister(self, node_id: str) -> None:
        """The node is not chosen any more; what it was sent goes on.  Raises NotFound."""
        checks.text("node_id", node_id)
        with self._lock:
            if node_id not in self._nodes:
                raise NotFound(f"{NotFound.ename}: no node {node_id!r} is registered")
            del self._nodes[node_id]
            self._balancer.remove(node_id)

    def balance(self, request: InferenceRequest) -> InferenceResponse:
        """The answer of the node that the strategy chooses.  One that is lost is not chosen
        again until it is registered anew, and others get what it was sent.

        Raises what `ClusterNode.submit` does; `WorkerLost` when no node is left.
        """
        asked = checks.kind("request", request, InferenceRequest).for_engine()
        while True:
            work, node = self._chosen(asked)
            usage = None
            try:
                response = node.submit(request)
                usage = response.usage
                return response
            except WorkerLost:
                self._lost(node)
            finally:
                with self._lock:
                    self._balancer.finished(work, usage)

    def getstats(self) -> str:
        """What was chosen by `balance`, of which nodes, and what they have to do: lines as in an
        orchestrator's file `balancer`, where each node is a host and its worker."""
        with self._lock:
            return balancer_file.text(self._balancer)

    def _chosen(self, asked: Request) -> tuple[Work, ClusterNode]:
        with self._lock:
            if not len(self._balancer):
                raise WorkerLost(f"{WorkerLost.ename}: no node that answers is registered")
            work = self._balancer.choose(asked)
            assert work is not None  # hosts without a limit have room
            return work, self._nodes[work.name]

    def _lost(self, node: ClusterNode) -> None:
        with self._lock:
            if self._nodes.get(node.id) is node:  # and not another that has its address now
                self._balancer.hold(node.id)
