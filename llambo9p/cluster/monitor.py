"""What operators look at: `health`, `metrics` in three forms, `events` and `config`.

It joins the cluster's tables with `metrics`, `requests` and `events`, and shows them as files
of a root and as pages of the exporter: all figures to administrators, to others those that do
not change with what is asked.  It owns no numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from ..engine.base import Engine
from ..fs import exposition
from ..fs.file import OpenFile
from ..fs.tree import Directory, TextFile, Tree
from ..fs.user import User
from ..p9.node import Maybe
from .balancer import Balancer
from .config import Cluster, dump
from .events import Events, EventsFile
from .exporter import Page
from .members import Members
from .metrics import STATES, Metrics, Now, PublicMetrics, Tally


class Monitor:
    """See the module.  `config` is what was loaded."""

    def __init__(
        self,
        config: Cluster,
        members: Members,
        balancer: Balancer,
        engine: Engine,
        tally: Tally,
        events: Events,
    ) -> None:
        self._config = config
        self._members = members
        self._balancer = balancer
        self._engine = engine
        self._events = events
        self._own = Metrics(tally, self.now)
        self.metrics = CollectorRegistry()
        self.metrics.register(self._own)
        ProcessCollector(registry=self.metrics)
        self._public = CollectorRegistry()
        self._public.register(PublicMetrics(self._own))

    def now(self) -> Now:
        workers = [w for w in self._members.workers.values() if w.answers]
        hosts = [host for host in self._members.hosts if not host.lost]
        load = self._engine.load
        return Now(
            nodes=Counter(worker.health.value for worker in workers),
            hosts=len(hosts),
            slots=sum(host.slots for host in hosts),
            busy=load.queued + sum(w.active for w in workers),
            waiting=load.queued + sum(w.queued for w in workers),
            requests=load.queued + load.active,
        )

    # -- texts ----------------------------------------------------------------------

    def health(self) -> str:
        """`attr value` lines: what can answer, and how many workers are in each state."""
        nodes = self.now().nodes
        lines = [
            "orchestrator healthy",
            f"load_balancer {'healthy' if self._can_answer else 'unhealthy'}",
            f"nodes {sum(nodes.values())}",
            *(f"{state} {nodes.get(state, 0)}" for state in STATES),
        ]
        return "\n".join(lines) + "\n"

    @property
    def _can_answer(self) -> bool:
        return len(self._balancer) > 0

    def config(self) -> str:
        """The configuration in force, as `config.load` takes it.  It names files that hold
        secrets, and holds none."""
        strategy = {"strategy": self._balancer.strategy}
        config = self._config.model_copy(
            update={"load_balancer": self._config.load_balancer.model_copy(update=strategy)}
        )
        return dump(config)

    # -- files and pages --------------------------------------------------------------

    def add_files(self, tree: Tree, root: Directory, user: User) -> None:
        """Put them into one user's root."""
        figures = user.sees_figures
        metrics = self._metrics(figures)
        for name, text in (
            ("health", self.health),
            ("metrics", lambda: exposition.prometheus(metrics)),
            ("metrics.legacy", lambda: self._own.legacy(figures)),
            ("metrics.json", lambda: exposition.as_json(metrics)),
        ):
            root.add(TextFile(tree, name, text))
        root.add(EventsFile(tree, user, self._events))
        root.add(_ConfigFile(tree, user, self.config))

    def _metrics(self, figures: bool) -> CollectorRegistry:
        return self.metrics if figures else self._public

    def page(self, figures: bool, path: str, accept: str) -> Page | None:
        """What the exporter serves at `path`, to whoever reaches it; `accept` is the client's
        header."""
        if path == "/metrics":
            encode, content_type = choose_encoder(accept)
            return Page(content_type, encode(self._metrics(figures)))
        if path == "/metrics.json":
            return Page("application/json", exposition.as_json(self._metrics(figures)).encode())
        if path == "/health":
            status = 200 if self._can_answer else 503
            return Page("text/plain; charset=utf-8", self.health().encode(), status)
        return None


class _ConfigFile(TextFile):
    """For administrators: it names files of the machine."""

    __slots__ = ("_user",)

    def __init__(self, tree: Tree, user: User, text: Callable[[], str]) -> None:
        super().__init__(tree, "config", text)
        self._user = user

    def open(self, mode: int) -> Maybe[OpenFile]:
        if self.allows(mode):
            self._user.check_admin(self.name)
        return super().open(mode)
