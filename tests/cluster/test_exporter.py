"""Metrics over HTTP, as a scraper, a probe and a client that is neither see them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from llambo9p.cluster import exporter
from llambo9p.cluster.exporter import Exporter, Page
from llambo9p.errors import Error
from tests.files import story, until

from .harness import RunningCluster, cluster, simulated_host


@contextlib.asynccontextmanager
async def exporting(running: RunningCluster) -> AsyncIterator[int]:
    """The port."""
    made = Exporter(functools.partial(running.orchestrator.monitor.page, True))
    try:
        url = await made.listen("127.0.0.1", 0)
        yield int(url.removeprefix("http://127.0.0.1:"))
    finally:
        await made.close()


async def get(
    port: int, path: str, method: str = "GET", **headers: str
) -> tuple[int, str, str]:
    """Status, Content-Type and body."""

    def fetch() -> tuple[int, str, str]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(request) as reply:
                return reply.status, reply.headers["Content-Type"], reply.read().decode()
        except urllib.error.HTTPError as e:
            with e:
                return e.code, e.headers["Content-Type"], e.read().decode()

    return await asyncio.to_thread(fetch)


async def say(port: int, data: bytes) -> bytes:
    """The whole reply to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    reply = await reader.read()
    writer.close()
    await writer.wait_closed()
    return reply


@story
async def test_a_scraper_gets_what_the_file_has() -> None:
    async with cluster() as running, simulated_host() as host, exporting(running) as port:
        await running.files.write("ctl", f"mount {host.address}")
        await running.files.ask("hello")
        status, kind, text = await get(port, "/metrics")
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert "version=0.0.4" in kind
        assert 'llambo_requests_total{outcome="stop"} 1.0\n' in text
        families = {family.name for family in text_string_to_metric_families(text)}
        assert "gen_ai_server_request_duration_seconds" in families
        status, kind, text = await get(
            port, "/metrics?x=1", Accept="application/openmetrics-text; version=1.0.0"
        )
        assert (status, kind.split(";")[0]) == (200, "application/openmetrics-text")
        assert {family.name for family in parse_openmetrics(text)} == families
        status, kind, text = await get(port, "/metrics.json")
        assert (status, kind) == (200, "application/json")
        assert set(json.loads(text)) == families


@story
async def test_a_probe_learns_whether_anything_can_answer() -> None:
    async with cluster() as running, simulated_host() as host, exporting(running) as port:
        status, _, text = await get(port, "/health")
        assert (status, "load_balancer unhealthy\n" in text) == (503, True)
        await running.files.write("ctl", f"mount {host.address}")
        status, _, text = await get(port, "/health")
        assert (status, text) == (200, await running.files.read("health"))


@story
async def test_what_is_no_page_is_refused() -> None:
    async with cluster() as running, exporting(running) as port:
        assert (await get(port, "/"))[0] == 404
        assert (await get(port, "/metrics", "POST"))[0] == 405
        assert (await get(port, "/health", "HEAD"))[2] == ""
        for said, status in (
            (b"nonsense\r\n\r\n", b"400"),
            (b"GET /metrics HTTP/2\r\n\r\n", b"400"),
            (b"\x16\x03\x01\xff\r\n\r\n", b"400"),
            (b"GET /metrics HTTP/1.1\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", b"431"),
        ):
            assert (await say(port, said)).split()[1] == status


@story
async def test_clients_that_say_nothing_keep_nobody_out_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporter, "_EXCHANGE_S", 0.1)
    async with cluster() as running, exporting(running) as port:
        silent = [
            await asyncio.open_connection("127.0.0.1", port)
            for _ in range(exporter._CONNECTIONS + 5)
        ]
        for reader, writer in silent:
            assert await reader.read() == b"", "it is closed"
            writer.close()
        assert (await get(port, "/metrics"))[0] == 200


@story
async def test_an_exporter_that_is_closed_leaves_no_client_waiting() -> None:
    async with cluster() as running:
        async with exporting(running) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /met")
            await get(port, "/health")
        assert await reader.read() == b""
        writer.close()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)


@story
async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        made = Exporter(lambda path, accept: None)
        with pytest.raises(Error) as refused:
            await made.listen("127.0.0.1", port)
        assert str(refused.value) == (
            f"cannot export metrics at 127.0.0.1:{port}: Address already in use"
        )
        await made.close()


@story
async def test_ipv6_is_written_as_in_a_url() -> None:
    made = Exporter(lambda path, accept: exporter.Page("text/plain", path.encode()))
    try:
        url = await made.listen("::1", 0)
    except Error as e:  # this machine has no IPv6
        assert str(e).startswith("cannot export metrics at [::1]:0: ")
        return
    with await asyncio.to_thread(urllib.request.urlopen, f"{url}/some/page") as reply:
        assert reply.read() == b"/some/page"
    await made.close()


@story
async def test_clients_that_do_not_read_hold_no_more_than_a_few_sockets_and_not_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each asks for a page that no socket's buffer takes, and reads nothing."""
    monkeypatch.setattr(exporter, "_EXCHANGE_S", 0.3)
    made = Exporter(lambda path, accept: Page("text/plain", bytes(16 << 20)))
    url = await made.listen("127.0.0.1", 0)
    port = int(url.rpartition(":")[2])
    before = len(os.listdir("/proc/self/fd"))
    clients = []
    for _ in range(300):
        client = socket.create_connection(("127.0.0.1", port))
        clients.append(client)
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0)
        ours = len(os.listdir("/proc/self/fd")) - before - len(clients)
        # those that are one too many are closed in the turn after that in which they came
        assert ours <= exporter._CONNECTIONS + 5
    await until(lambda: len(os.listdir("/proc/self/fd")) - before == len(clients))
    await until(lambda: not made._tasks)
    for client in clients:
        client.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert len(await reader.read()) > 16 << 20, "who reads gets all of it"
    writer.close()
    await made.close()
