"""The `limits` of a configuration as a running orchestrator and its host keep them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import py9p
import pytest

from llambo9p.conversation.history import MESSAGE_BYTES
from tests.clients.cluster import Namespace, listening

CONFIG = """
cluster:
  nodes: {sim: {count: 1, resources: {model: simulated}}}
  limits:
    connections: 3
    fids: 20
    min_msize: 1000B
    max_msize: 4096B
    prompt: 100B
    buffered: 150B
    history: 60B
    conversations: 2
    version_timeout: 300
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory = tmp_path_factory.mktemp("limits")
    config = directory / "config.yaml"
    config.write_text(CONFIG)
    with listening(directory, config, "tcp!127.0.0.1!0") as (address,):
        with Namespace(address.port) as ns:
            ns.write("ctl", b"spawn")
        yield address.port


def test_connections(port: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Namespace(port))
        with pytest.raises(py9p.RemoteError, match="busy: more than 3 connections"):
            Namespace(port)


def test_fids_of_a_connection(port: int) -> None:
    with Namespace(port) as ns:
        with pytest.raises(py9p.RemoteError, match="more than 20 fids on one connection"):
            for _ in range(30):
                ns.open("status")
        assert ns.client.stat(0).name == "/"


def test_msize(port: int) -> None:
    client = py9p.Client.connect_tcp("127.0.0.1", port, msize=65536)
    assert client.negotiate().msize == 4096
    client.close()
    client = py9p.Client.connect_tcp("127.0.0.1", port, msize=999)
    with pytest.raises(py9p.RemoteError, match="msize 999 is below 1000"):
        client.negotiate()
    client.close()


@pytest.mark.parametrize("where", ["", "worker-0000/"], ids=["orchestrator", "host"])
def test_bytes_of_a_prompt_and_of_all(port: int, where: str) -> None:
    with Namespace(port) as ns:
        with pytest.raises(py9p.RemoteError, match="prompt: more than 100 bytes in one write"):
            ns.write(f"{where}prompt", b"x" * 101)
        held = [ns.open(f"{where}prompt", int(py9p.OWRITE)) for _ in range(2)]
        ns.client.write(held[0], b"x" * 100)
        with pytest.raises(py9p.RemoteError, match="more than 150 bytes of prompts not yet"):
            ns.client.write(held[1], b"x" * 51)
        ns.client.clunk(held[0])
        assert ns.read(f"{where}out")


def test_a_prompt_at_the_limit_goes_on_to_a_host_with_the_same_limit(port: int) -> None:
    with Namespace(port) as ns:
        for prompt in (b"y" * 100, b"y" * 98 + b"\n\n"):
            ns.write("system", prompt)
            ns.write("prompt", prompt)
            assert ns.read("out").strip() == b"simulated: " + prompt.strip()
        ns.write("ctl", b"reset")


def test_history(port: int) -> None:
    with Namespace(port) as ns:
        line = b'{"role": "user", "content": "%s"}\n' % (b"x" * 61)
        size = 61 + MESSAGE_BYTES
        with pytest.raises(py9p.RemoteError, match=f"history: {size} bytes would be more than 60"):
            ns.write("history", line)


@pytest.mark.parametrize("where", ["", "worker-0000/"], ids=["orchestrator", "host"])
def test_cloned_conversations_of_a_user(port: int, where: str) -> None:
    with Namespace(port) as ns:
        held = [ns.open(f"{where}clone", int(py9p.ORDWR)) for _ in range(2)]
        with pytest.raises(py9p.RemoteError, match="more than 2 cloned conversations of"):
            ns.open(f"{where}clone", int(py9p.ORDWR))
        ns.client.write(held[0], b"close")
        ns.client.clunk(held[1])
        ns.client.clunk(held[0])
        for _ in range(2):
            ns.open(f"{where}clone", int(py9p.ORDWR))


def test_the_time_to_a_version(port: int) -> None:
    client = py9p.Client.connect_tcp("127.0.0.1", port)
    assert client.transport.recv(1) == b"", "hung up"  # type: ignore[union-attr]
    client.close()
