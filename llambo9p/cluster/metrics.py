"""The orchestrator's metrics: their names, and what is counted of its requests.

Three vocabularies say the same: our own names with base units, OpenTelemetry's for generative
AI (its model-server metrics, with the boundaries of buckets that it asks for), and the seed's
six (`metrics.legacy`).  Requests are those that the orchestrator balanced; what a client asks
in a worker's own tree its host counts.

No series has a worker's name: ten thousand workers are as many series as ten.  The labels are
outcomes, states, classes of `errors`, and models.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ..engine.base import Usage

PROVIDER = "llambo"
OUTCOMES = ("stop", "length", "cancelled", "failed", "rejected")
"""how a request ends: as `finish_reason` says, with an error, or without having begun"""
STATES = ("healthy", "degraded", "draining", "lost")

# open-telemetry/semantic-conventions, gen-ai/gen-ai-metrics.md
_DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(4**n for n in range(14))
_GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_response_model")

_RECENT_S = 60


@dataclass(frozen=True, slots=True)
class Now:
    """What a cluster is at one moment."""

    nodes: Mapping[str, int] = field(default_factory=dict)
    """how many workers are in each of `STATES`"""
    hosts: int = 0
    slots: int = 0
    """that hosts decode in at once"""
    busy: int = 0
    """requests that are not over, of the orchestrator and in workers' own trees"""
    waiting: int = 0
    """of them, those that wait, in the orchestrator or for a slot"""
    requests: int = 0
    """of them, those of the orchestrator"""

    @property
    def utilization(self) -> float:
        """Requests per slot; more than 1 where some wait."""
        return self.busy / self.slots if self.slots else 0.0


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that is over, well or not, as the orchestrator saw it."""

    outcome: str
    """one of `OUTCOMES`"""
    operation: str
    """`chat` or `text_completion`"""
    model: str = ""
    """of the worker that was asked last"""
    seconds: float = 0.0
    first_token: float | None = None
    """seconds until it, if one came"""
    usage: Usage | None = None
    error: str = ""
    """the class of its error"""


@dataclass(slots=True)
class _Second:
    number: int
    answers: int = 0
    seconds: float = 0.0
    tokens: int = 0


@dataclass(slots=True)
class Recent:
    """What was answered in the last minute, by whole seconds."""

    _seconds: deque[_Second] = field(default_factory=deque)

    def add(self, now: float, seconds: float, tokens: int) -> None:
        """An answer that took so long and has so many tokens."""
        self._forget(now)
        if not self._seconds or self._seconds[-1].number != int(now):
            self._seconds.append(_Second(int(now)))
        last = self._seconds[-1]
        last.answers += 1
        last.seconds += seconds
        last.tokens += tokens

    def means(self, now: float) -> tuple[float, float]:
        """Seconds an answer, and tokens a second."""
        self._forget(now)
        answers = sum(s.answers for s in self._seconds)
        seconds = sum(s.seconds for s in self._seconds)
        tokens = sum(s.tokens for s in self._seconds)
        return (seconds / answers if answers else 0.0), tokens / _RECENT_S

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0].number <= int(now) - _RECENT_S:
            self._seconds.popleft()


class Tally:
    """What was counted of requests since the start.  `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.requests: Counter[str] = Counter()
        """that are over, by outcome"""
        self.retries: Counter[str] = Counter()
        self.scalings: Counter[str] = Counter()
        self.prompt_tokens = self.cached_tokens = self.generated_tokens = 0
        self._recent = Recent()
        self._histograms = CollectorRegistry()

        def histogram(
            name: str, text: str, buckets: Sequence[float], labels: Iterable[str] = ()
        ) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=self._histograms)

        self._duration = histogram(
            "llambo_request_duration_seconds", "From submit to the end of the answer.", _DURATION
        )
        self._first_token = histogram(
            "llambo_time_to_first_token_seconds", "From submit to the first token.", _FIRST_TOKEN
        )
        self._gen_ai_duration = histogram(
            "gen_ai_server_request_duration_seconds",
            "Generative AI server request duration.",
            _DURATION,
            (*_GEN_AI, "error_type"),
        )
        self._gen_ai_first_token = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time to generate first token for successful responses.",
            _FIRST_TOKEN,
            _GEN_AI,
        )
        self._gen_ai_per_token = histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time per output token generated after the first token for successful responses.",
            _PER_TOKEN,
            _GEN_AI,
        )
        self._gen_ai_tokens = histogram(
            "gen_ai_client_token_usage",
            "Number of input and output tokens used.",
            _TOKENS,
            (*_GEN_AI, "gen_ai_token_type"),
        )

    def retried(self, kind: str) -> None:
        """A request was sent to another worker: `retry` before its first token, `failover`
        after it."""
        self.retries[kind] += 1

    def scaled(self, up: bool) -> None:
        """There are more workers of a type now, or fewer, by the load or by `scale`."""
        self.scalings["up" if up else "down"] += 1

    def over(self, answered: Answered) -> None:
        """A request ended."""
        self.requests[answered.outcome] += 1
        if answered.outcome == "rejected":
            return
        labels = answered.operation, PROVIDER, answered.model
        self._gen_ai_duration.labels(*labels, answered.error).observe(answered.seconds)
        usage = answered.usage
        if usage is None:
            return
        decoded = usage.completion_tokens - usage.given_tokens
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.generated_tokens += decoded
        if answered.outcome == "cancelled":
            return
        self._recent.add(self._clock(), answered.seconds, decoded)
        self._duration.observe(answered.seconds)
        self._gen_ai_tokens.labels(*labels, "input").observe(usage.prompt_tokens)
        self._gen_ai_tokens.labels(*labels, "output").observe(decoded)
        if answered.first_token is not None:
            self._first_token.observe(answered.first_token)
            self._gen_ai_first_token.labels(*labels).observe(answered.first_token)
            if decoded > 1:
                each = (answered.seconds - answered.first_token) / (decoded - 1)
                self._gen_ai_per_token.labels(*labels).observe(each)

    def recent(self) -> tuple[float, float]:
        """The means of the last minute: seconds an answer, and tokens a second."""
        return self._recent.means(self._clock())

    def histograms(self) -> Iterator[Metric]:
        for family in self._histograms.collect():
            # when a series began is nothing that anybody asked for
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family


_PUBLIC = ("llambo_nodes", "llambo_hosts", "llambo_slots", "llambo_active_nodes")
"""what does not change with what is asked"""


class PublicMetrics(Collector):
    """Of the `whole`, what everybody may see."""

    def __init__(self, whole: Metrics) -> None:
        self._whole = whole

    def collect(self) -> Iterator[Metric]:
        return (family for family in self._whole.collect() if family.name in _PUBLIC)


class Metrics(Collector):
    """What there is to tell; `now` is asked when somebody reads."""

    def __init__(self, tally: Tally, now: Callable[[], Now]) -> None:
        self._tally = tally
        self._now = now

    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        yield from self._gauges(self._now())
        yield from self._tally.histograms()

    def _counters(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "llambo_requests", "Requests that are over.", labels=["outcome"]
        )
        for outcome in OUTCOMES:
            requests.add_metric([outcome], self._tally.requests[outcome])
        yield requests
        retries = CounterMetricFamily(
            "llambo_retries", "Requests that were sent to another worker.", labels=["kind"]
        )
        for kind in ("retry", "failover"):
            retries.add_metric([kind], self._tally.retries[kind])
        yield retries
        scalings = CounterMetricFamily(
            "llambo_scalings", "Times that workers of a type became more or fewer.",
            labels=["direction"],
        )  # fmt: skip
        for direction in ("up", "down"):
            scalings.add_metric([direction], self._tally.scalings[direction])
        yield scalings
        for name, text, value in (
            ("llambo_prompt_tokens", "Tokens of prompts.", self._tally.prompt_tokens),
            ("llambo_cached_tokens", "Of those, found in a KV cache.", self._tally.cached_tokens),
            ("llambo_generated_tokens", "Tokens of answers.", self._tally.generated_tokens),
        ):
            yield CounterMetricFamily(name, text, value)

    def _gauges(self, now: Now) -> Iterator[Metric]:
        nodes = GaugeMetricFamily("llambo_nodes", "Workers.", labels=["state"])
        for state in STATES:
            nodes.add_metric([state], now.nodes.get(state, 0))
        yield nodes
        prompts, cached = self._tally.prompt_tokens, self._tally.cached_tokens
        for name, text, value in (
            ("llambo_hosts", "Processes and trees that are mounted.", now.hosts),
            ("llambo_slots", "Sequences that hosts can decode at once.", now.slots),
            ("llambo_node_utilization_ratio", "Requests not over per slot.", now.utilization),
            ("llambo_queue_depth", "Requests that wait.", now.waiting),
            ("llambo_active_requests", "Requests of the orchestrator that are not over.",
             now.requests),
            ("llambo_cache_hit_ratio", "Of the prompts' tokens, the part that was in a KV cache.",
             cached / prompts if prompts else 0.0),
        ):  # fmt: skip
            yield GaugeMetricFamily(name, text, value)

    def legacy(self, figures: bool) -> str:
        """The seed's six, in Prometheus's format, or without `figures` the one of them that does
        not tell of requests.  Latency and throughput are of the last minute's answers."""
        now = self._now()
        latency, throughput = self._tally.recent()
        failed = self._tally.requests["failed"] + self._tally.requests["rejected"]
        return "".join(
            f"# HELP {name} {text}\n# TYPE {name} {kind}\n{name} {value:.10g}\n"
            for name, kind, text, value in (
                ("llambo_inference_latency_ms", "gauge",
                 "Mean time of the last minute's answers.", latency * 1000),
                ("llambo_token_throughput", "gauge",
                 "Tokens a second of the last minute's answers.", throughput),
                ("llambo_node_utilization_percent", "gauge",
                 "Requests not over per slot.", now.utilization * 100),
                ("llambo_active_nodes", "gauge",
                 "Healthy workers.", now.nodes.get("healthy", 0)),
                ("llambo_total_requests", "counter",
                 "Requests that are over.", self._tally.requests.total()),
                ("llambo_failed_requests", "counter",
                 "Of those, failed or refused.", failed),
            )
            if figures or name in _PUBLIC
        )  # fmt: skip
