"""A host's `metrics`: what Prometheus scrapes, in its text format.

Owns the names, which are Prometheus's way of saying what `engine.base.Load` and the workers
count; it counts nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ..engine.base import Load


class Metrics(Collector):
    """`load` is asked, and so is the number of `workers`, when somebody reads."""

    def __init__(self, load: Callable[[], Load], workers: Callable[[], int]) -> None:
        self._load = load
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        load = self._load()
        held = load.cached_tokens / load.prompt_tokens if load.prompt_tokens else 0.0
        for name, text, value in (
            ("llambo_workers", "Workers of this host.", self._workers()),
            ("llambo_slots", "Sequences that can be decoded at once.", load.slots),
            ("llambo_active_requests", "Requests that have a slot.", load.active),
            ("llambo_queue_depth", "Requests that wait for a slot.", load.queued),
            ("llambo_pending_prefill_tokens", "Tokens of prompts to be decoded.",
             load.pending_prefill),
            ("llambo_pending_decode_tokens", "The most tokens that answers may still have.",
             load.pending_decode),
            ("llambo_cache_hit_ratio", "Of the prompts' tokens, the part that was in the KV cache.",
             held),
        ):  # fmt: skip
            yield GaugeMetricFamily(name, text, value)
        for name, text, value in (
            ("llambo_prompt_tokens", "Tokens of prompts.", load.prompt_tokens),
            ("llambo_cached_tokens", "Of those, found in the KV cache.", load.cached_tokens),
            ("llambo_generated_tokens", "Tokens of answers.", load.generated_tokens),
            ("llambo_decode_steps", "Calls of llama_decode.", load.steps),
        ):
            yield CounterMetricFamily(name, text, value)
