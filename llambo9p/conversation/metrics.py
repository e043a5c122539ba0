"""What clients hold in a process (connections and what is open on them, conversations, bytes),
and how its event loop goes.

When its clients are gone all that they held is 0 again, but for what the process itself does; a
number that only grows is a leak.  Owns the names, and counts nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ..net.guard import LONG_S, Guard
from ..net.server import Server
from .limits import Limits


class Held(Collector):
    """Of the clients of `server`, whose conversations share `limits`.  Asked on its loop."""

    def __init__(self, server: Server, limits: Limits) -> None:
        self._server = server
        self._limits = limits

    def collect(self) -> Iterator[Metric]:
        connections = self._server.connections
        for name, text, value in (
            ("llambo_connections", "Connections of clients.", len(connections)),
            ("llambo_fids", "Fids on them.", sum(each.fids for each in connections)),
            ("llambo_tags", "9P messages on them that have no reply yet.",
             sum(each.tags for each in connections)),
            ("llambo_conversations", "Cloned conversations.", self._limits.clones.used),
            ("llambo_buffered_bytes", "Of prompts that are not asked yet.",
             self._limits.buffer.used),
            ("llambo_kept_bytes", "Of histories, prompts that were asked, and texts that are open.",
             self._limits.kept.used),
            ("llambo_tasks", "Tasks of the event loop.", len(asyncio.all_tasks())),
        ):  # fmt: skip
            yield GaugeMetricFamily(name, text, value)


class LongTurns(Collector):
    """Turns of the event loop in which nobody else was served for long."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def collect(self) -> Iterator[Metric]:
        for name, text, value in (
            ("llambo_event_loop_stalls", f"Turns of the event loop of more than {LONG_S:g} s.",
             self._guard.count),
            ("llambo_event_loop_stalled_seconds", "Seconds that they took.", self._guard.seconds),
        ):  # fmt: skip
            yield CounterMetricFamily(name, text, value)
