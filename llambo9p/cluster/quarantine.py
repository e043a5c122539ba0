"""Requests that ran on a host which died, between that host and the next one.

It joins the policy (`suspects`), the finding (`autopsy`) and the balancer's table.  It notes each
death once, says where a suspect goes, keeps a host free for one that must run alone, and refuses
one that is convicted.  Which requests wait, and in which order, is for `dispatch`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from weakref import WeakKeyDictionary

from ..engine.base import Request
from ..errors import Poisonous
from .autopsy import Death, death_of
from .balancer import Balancer
from .candidates import HostLoad, Work
from .host import Host, Worker
from .suspects import MOST, Suspects

log = logging.getLogger(__name__)


class Quarantine:
    """Falsy while there is no suspect.  `tokens_of` gives the length of the answer of a request
    that is not over, and None for any other."""

    def __init__(self, balancer: Balancer, tokens_of: Callable[[Request], int | None]) -> None:
        self._balancer = balancer
        self._tokens_of = tokens_of
        self._suspects: Suspects[Request, HostLoad] = Suspects()
        self._deaths: WeakKeyDictionary[Host, asyncio.Task[Death | None]] = WeakKeyDictionary()
        """of lost hosts"""

    def __bool__(self) -> bool:
        return len(self._suspects) > 0

    def has(self, request: Request) -> bool:
        return self._suspects.is_suspect(request)

    # -- deaths -------------------------------------------------------------------

    def death_of(self, host: Host, strangers: bool) -> asyncio.Task[Death | None] | None:
        """Finds out how the host was lost; None when it is not.  To be called when a request has
        failed there, before the host's `turns` forget it.  `strangers`: others asked it, too."""
        if host.lost and host not in self._deaths:
            turns = host.turns
            running = {
                each: self._tokens_of(each) or 0
                for each in turns.all
                if turns.can_have_begun(each) or self.has(each)
            }
            noting = self._note(host, running, strangers)
            self._deaths[host] = asyncio.get_running_loop().create_task(noting)
        return self._deaths.get(host)

    async def _note(self, host: Host, running: dict[Request, int], strangers: bool) -> Death | None:
        death = await death_of(host)
        if death is not None and running:
            ids = " ".join(request.id for request in running)
            log.warning("host %s died of %s; it worked on %s", host.address, death.reason, ids)
            left = {each: n for each, n in running.items() if self._tokens_of(each) is not None}
            self._suspects.died(
                left,
                by_itself=death.by_itself,
                strangers=strangers or len(left) < len(running),
            )
        return death

    def check(self, request: Request, worker: Worker, death: Death) -> None:
        """Raises Poisonous when hosts die of the request, the worker's host last."""
        if self._suspects.is_convicted(request):
            deaths = self._suspects.deaths(request)
            alone = "" if deaths >= MOST else " while only this request ran on it"
            raise Poisonous(
                f"the host of {worker.name} died{alone} ({death.reason}), and {deaths - 1} before "
                "it while they worked on this request: no other host gets it"
            )

    # -- places -------------------------------------------------------------------

    def work_for(self, request: Request, avoid: Collection[str], model: str) -> Work | None:
        """Send a suspect to a host where it may be tried, none of `avoid` if that can be helped;
        None when it must wait.  One that must run alone keeps a host, and waits until that host's
        other requests are over.  Raises what `Balancer.choose_host` does."""
        suspects = self._suspects
        kept = suspects.kept_for(request)

        def choose(suits: Callable[[HostLoad], bool]) -> HostLoad | None:
            return self._balancer.choose_host(request, avoid, model, suits)

        def may_go(host: HostLoad) -> bool:
            if host is kept:
                return not host.requests
            if host.engines > 1:  # a nested orchestrator, which looks after its own hosts
                return not host.full
            return not host.full and suspects.may_go(request, host, host.requests)

        if kept is not None and choose(lambda host: host is kept) is None:
            self.left(request)  # the host is lost, or drained
        host = choose(may_go)
        alone = suspects.runs_alone(request) and (host is None or host.engines == 1)
        if alone and suspects.kept_for(request) is None:
            keeps = host or choose(lambda host: not host.kept)
            if keeps is not None:
                suspects.keep(request, keeps)
                self._balancer.keep(keeps, True)
        if host is None:
            return None
        suspects.sent(request, host)
        return self._balancer.send(request, host)

    def got(self, request: Request, tokens: int) -> bool:
        """The answer has so many tokens; whether that makes it no suspect any more."""
        self._suspects.got(request, tokens)
        return not self.has(request)

    def left(self, request: Request) -> None:
        """It runs nowhere, and keeps no host."""
        kept = self._suspects.left(request)
        if kept is not None:
            self._balancer.keep(kept, False)

    def over(self, request: Request) -> None:
        """It has ended."""
        self.left(request)
        self._suspects.over(request)
