"""What the orchestrator counts, against requests that are known: on simulated hosts, as files."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from llambo9p.cluster import config as configuration
from llambo9p.cluster.config import Cluster
from llambo9p.cluster.metrics import Recent
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error
from llambo9p.p9 import constants as c
from tests.files import Files, story, until

from .harness import cluster, simulated_host
from .test_events import kinds, parsed
from .test_orchestrator import ROUND_ROBIN

LEGACY = {
    "llambo_inference_latency_ms": "gauge",
    "llambo_token_throughput": "gauge",
    "llambo_node_utilization_percent": "gauge",
    "llambo_active_nodes": "gauge",
    "llambo_total_requests": "counter",
    "llambo_failed_requests": "counter",
}
GEN_AI = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "llambo",
    "gen_ai_response_model": "simulated",
}


class Values:
    """The samples of a `metrics` text."""

    def __init__(self, text: str) -> None:
        self.types = {}
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            self.types[family.name] = family.type
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.samples
                self.samples[key] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]


async def values(files: Files) -> Values:
    return Values(await files.read("metrics"))


async def legacy(files: Files) -> dict[str, float]:
    """By the very names: the parser would have a counter end in _total."""
    lines = (await files.read("metrics.legacy")).splitlines()
    words = [line.split() for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in words}


async def query(files: Files, text: str) -> str:
    async with await files.open("data", c.ORDWR) as data:
        await data.write(text.encode())
        return (await data.read_all()).decode()


@story
async def test_answers_are_counted_with_their_tokens_and_times() -> None:
    async with cluster() as running, simulated_host(2) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        for prompt in ("one", "two", "three"):
            await files.ask(prompt)
        tokens = len("simulated: ") * 3 + len("onetwothree")
        await files.write("ctl", "max_tokens 1\nmode complete")
        await files.ask("four")
        usage = await files.attrs("usage")
        value = await values(files)
        assert value("llambo_requests_total", outcome="stop") == 3
        assert value("llambo_requests_total", outcome="length") == 1
        for outcome in ("failed", "rejected", "cancelled"):
            assert value("llambo_requests_total", outcome=outcome) == 0
        assert value("llambo_generated_tokens_total") == tokens + 1
        prompts = value("llambo_prompt_tokens_total")
        assert prompts > int(usage["prompt_tokens"]) > 0
        cached = value("llambo_cached_tokens_total")
        assert 0 < cached < prompts
        assert value("llambo_cache_hit_ratio") == cached / prompts
        assert value("llambo_request_duration_seconds_count") == 4
        assert value("llambo_request_duration_seconds_bucket", le="+Inf") == 4
        total = value("llambo_request_duration_seconds_sum")
        assert total > value("llambo_time_to_first_token_seconds_sum") > 0
        assert value("llambo_active_requests") == 0
        # and in OpenTelemetry's words
        seconds = "gen_ai_server_request_duration_seconds"
        assert value(f"{seconds}_count", **GEN_AI, error_type="") == 3
        complete = GEN_AI | {"gen_ai_operation_name": "text_completion"}
        assert value(f"{seconds}_count", **complete, error_type="") == 1
        assert value(f"{seconds}_bucket", **GEN_AI, error_type="", le="81.92") == 3
        assert value("gen_ai_server_time_to_first_token_seconds_count", **GEN_AI) == 3
        each = "gen_ai_server_time_per_output_token_seconds"
        assert value(f"{each}_count", **GEN_AI) == 3
        assert value(f"{each}_bucket", **GEN_AI, le="0.025") <= 3
        used = "gen_ai_client_token_usage"
        assert value(f"{used}_sum", **GEN_AI, gen_ai_token_type="output") == tokens
        assert value(f"{used}_count", **GEN_AI, gen_ai_token_type="input") == 3
        assert not [name for name in value.types if name.endswith("_created")]
        assert value.types["llambo_requests"] == "counter"
        assert value.types["gen_ai_client_token_usage"] == "histogram"
        assert value("process_open_fds") > 0


@story
async def test_what_fails_is_refused_or_cancelled_is_counted_as_that() -> None:
    gate = Gate()
    config = Cluster.model_validate({"limits": {"queue": 1, "queue_per_host": 0}})
    async with (
        cluster(config) as running,
        simulated_host(gate=gate, slots=1, poison=b"bad") as host,
    ):
        files = running.files
        with pytest.raises(Error, match="no healthy worker"):
            await query(files, "nobody is there")
        await files.write("ctl", f"mount {host.address}")
        await files.write("prompt", "never ends")
        assert (await values(files))("llambo_active_requests") == 1
        waiting = asyncio.create_task(query(files, "waits"))
        while (await values(files))("llambo_active_requests") != 2:
            pass
        with pytest.raises(Error, match="busy"):
            await query(files, "too much")
        await files.write("ctl", "cancel")
        await files.read("out")
        gate.open()
        assert await waiting == "simulated: waits"
        with pytest.raises(Error):
            await query(files, "bad")
        value = await values(files)
        counted = {
            outcome: value("llambo_requests_total", outcome=outcome)
            for outcome in ("stop", "length", "cancelled", "failed", "rejected")
        }
        assert counted == {"stop": 1, "length": 0, "cancelled": 1, "failed": 1, "rejected": 2}
        assert value("llambo_request_duration_seconds_count") == 1, "of answers only"
        failed = [
            (dict(labels)["error_type"], number)
            for (name, labels), number in value.samples.items()
            if name == "gen_ai_server_request_duration_seconds_count"
        ]
        assert len(failed) == 2 and ("", 2.0) in failed
        told = parsed(await (await files.open("events")).read(0))
        [event] = [event for event in told if event["kind"] == "request.failed"]
        assert event["error"] and event["user"] and event["request_id"]
        six = await legacy(files)
        assert six["llambo_total_requests"] == 5
        assert six["llambo_failed_requests"] == 3


@story
async def test_a_request_that_went_to_another_worker_is_a_retry() -> None:
    gate = Gate()
    async with (
        cluster(ROUND_ROBIN) as running,
        simulated_host(1, 0, gate=gate) as dies,
        simulated_host(1, 1) as lives,
    ):
        files = running.files
        await files.write("ctl", f"mount {dies.address}\nrequest_id mine")
        await files.write("prompt", "whoever is there")
        await until(lambda: dies.host.workers["worker-0000"].active)
        await files.write("ctl", f"mount {lives.address}")
        dies.kill()
        assert await files.read("out")
        value = await values(files)
        assert value("llambo_retries_total", kind="retry") == 1
        assert value("llambo_requests_total", outcome="stop") == 1
        assert value("llambo_nodes", state="lost") == 1
        assert value("llambo_nodes", state="healthy") == 1
        told = await (await files.open("events")).read(0)
        [event] = [event for event in parsed(told) if event["kind"] == "request.retry"]
        assert (event["worker"], event["request_id"]) == ("worker-0000", "mine")
        assert "worker.lost" in kinds(told)


@story
async def test_gauges_are_of_workers_as_they_are() -> None:
    gate = Gate()
    config = Cluster.model_validate({"load_balancer": {"health_check_interval": 20}})
    async with cluster(config) as running, simulated_host(3, gate=gate) as host:
        files = running.files
        value = await values(files)
        assert value("llambo_node_utilization_ratio") == 0, "without a worker, too"
        await files.write("ctl", f"mount {host.address}")
        await files.write("worker-0002/ctl", "drain")
        slots = host.engine.slots
        await files.write("worker-0000/prompt", "in the worker's own tree")
        table = running.orchestrator._members.workers
        await until(lambda: table["worker-0000"].active and table["worker-0002"].state != "idle")
        value = await values(files)
        assert value("llambo_hosts") == 1
        assert value("llambo_slots") == slots, "the three share them"
        assert value("llambo_node_utilization_ratio") == 1 / slots
        states = {s: value("llambo_nodes", state=s) for s in ("healthy", "draining", "lost")}
        assert states == {"healthy": 2, "draining": 1, "lost": 0}
        assert await files.attrs("health") == {
            "orchestrator": "healthy", "load_balancer": "healthy", "nodes": "3",
            "healthy": "2", "degraded": "0", "draining": "1", "lost": "0",
        }  # fmt: skip
        six = await legacy(files)
        assert six["llambo_active_nodes"] == 2
        assert six["llambo_node_utilization_percent"] == pytest.approx(100 / slots)


@story
async def test_health_without_workers_says_that_nothing_can_answer() -> None:
    async with cluster() as running:
        assert (await running.files.attrs("health"))["load_balancer"] == "unhealthy"


@story
async def test_no_series_has_a_workers_name() -> None:
    async with cluster() as running, simulated_host(40) as host:
        files = running.files
        series = len((await values(files)).samples)
        await files.write("ctl", f"mount {host.address}")
        text = await files.read("metrics")
        assert "worker-00" not in text
        assert len(Values(text).samples) == series


@story
async def test_the_seeds_six_are_there_by_name_and_kind() -> None:
    async with cluster() as running, simulated_host() as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        await files.ask("hello")
        assert Values(await files.read("metrics.legacy")).types == LEGACY
        six = await legacy(files)
        assert list(six) == list(LEGACY)
        assert six["llambo_total_requests"] == 1
        assert six["llambo_inference_latency_ms"] > 0
        assert six["llambo_token_throughput"] == pytest.approx(len("simulated: hello") / 60)


@story
async def test_json_says_the_same_as_prometheus_text() -> None:
    async with cluster() as running, simulated_host() as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        await files.ask("hello")
        families: dict[str, dict[str, Any]] = json.loads(await files.read("metrics.json"))
        text = await values(files)
        of_process = {name for name in text.types if name.startswith("process_")}
        told = {
            (sample["name"], frozenset(sample["labels"].items())): sample["value"]
            for name, family in families.items()
            if name not in of_process
            for sample in family["samples"]
        }
        shown = {k: v for k, v in text.samples.items() if not k[0].startswith("process_")}
        assert told == shown
        assert {name: family["type"] for name, family in families.items()} == text.types
        assert all(set(family) == {"type", "help", "samples"} for family in families.values())


@story
async def test_the_configuration_in_force_can_be_loaded_back(tmp_path: Path) -> None:
    written = """
cluster:
  nodes:
    odd: {count: 3, resources: {cpu: "0.1 core", memory: "200MB", model: simulated, threads: 2}}
  load_balancer: {strategy: round-robin, max_retries: 5}
  security: {admins: [bob]}
  limits: {queue: 77}
"""
    config = configuration.parse(written, "written")
    async with cluster(config) as running:
        shown = await running.files.read("config")
        (tmp_path / "shown.yaml").write_text(shown)
        loaded = configuration.load(tmp_path / "shown.yaml")
        assert loaded == running.orchestrator.config
        assert (loaded.nodes, loaded.limits) == (config.nodes, config.limits)


@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.floats(0, 9), st.integers(0, 99)), max_size=40
    ),
    st.floats(0, 90),
)
def test_recent_means_are_of_the_last_minute(
    answers: list[tuple[float, float, int]], later: float
) -> None:
    recent, now = Recent(), 1000.0
    kept = []
    for pause, seconds, tokens in answers:
        now += pause
        recent.add(now, seconds, tokens)
        assert recent._seconds[0].number > int(now) - 60, "whether somebody looks or not"
        kept.append((int(now), seconds, tokens))
    now += later
    kept = [answer for answer in kept if answer[0] > int(now) - 60]
    latency, throughput = recent.means(now)
    assert throughput == pytest.approx(sum(tokens for _, _, tokens in kept) / 60)
    mean = sum(seconds for _, seconds, _ in kept) / len(kept) if kept else 0
    assert latency == pytest.approx(mean)
