"""The whole system with py9p's client alone, on the real model: first light.

Everything here goes through the orchestrator, over TCP, to a host process that
runs SmolLM2.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator

import py9p
import pytest

from tests.tiers import either

from .cluster import Namespace, orchestrator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with orchestrator(tmp_path_factory.mktemp("cluster")) as port:
        with Namespace(port) as ns:
            ns.write("ctl", b"spawn --count 16 --type tiny")
        yield port


def test_prompt_in_answer_out(port: int) -> None:
    with Namespace(port) as ns:
        ns.write("worker-0001/ctl", b"temperature 0\nmax_tokens 24\n")
        assert "temperature 0\n" in ns.read("worker-0001/ctl").decode()

        # many Twrites, one prompt, far longer than 512 tokens: a clear error
        long = ("The quick brown fox jumps over the lazy dog. " * 500)[:20_000].encode()
        ns.write("worker-0001/prompt", long, piece=1000)
        with pytest.raises(py9p.RemoteError) as refused:
            ns.read("worker-0001/out")
        assert "tokens" in str(refused.value) and "512" in str(refused.value)
        assert ns.attrs("worker-0001/status")["error"] == str(refused.value)

        # a short one, cut in the middle of a character
        ns.write("worker-0001/prompt", "Say hello to Zoë.\n".encode(), piece=16)
        pieces = list(ns.pieces("worker-0001/out"))
        assert len(pieces) > 3, "it streams"
        answer = b"".join(pieces)
        assert answer.decode().strip()
        assert ns.read("worker-0001/out") == answer
        assert b"".join(ns.pieces("worker-0001/out", count=3)) == answer
        usage = ns.attrs("worker-0001/usage")
        assert usage["finish_reason"] in ("stop", "length")
        assert 0 < int(usage["completion_tokens"]) <= 24
        assert float(usage["ttft_ms"]) > 0


def test_second_turn_finds_the_first_in_the_cache(port: int) -> None:
    with Namespace(port) as ns:
        ns.write("worker-0002/ctl", b"temperature 0\nmax_tokens 16\n")
        for prompt in (b"Name a colour.", b"Name another."):
            ns.write("worker-0002/prompt", prompt)
            assert ns.read("worker-0002/out")
        assert int(ns.attrs("worker-0002/usage")["cached_tokens"]) > 20
        assert ns.read("worker-0002/history").count(b'"role": "user"') == 2


def test_root_answers_for_its_workers(port: int) -> None:
    with Namespace(port) as ns:
        ns.write("ctl", b"temperature 0\nmax_tokens 16\n")
        data = ns.open("data", int(py9p.ORDWR))
        ns.client.write(data, "Say hello to Zoë.".encode())
        answer = b""
        while piece := ns.client.read(data):
            answer += piece
        ns.client.clunk(data)
        ns.write("worker-0003/ctl", b"temperature 0\nmax_tokens 16\n")
        ns.write("worker-0003/prompt", "Say hello to Zoë.".encode())
        assert ns.read("worker-0003/out") == answer


def test_sixteen_clients_share_the_batch_and_nothing_else(port: int) -> None:
    """Greedy answers of many tokens equal those from asking alone, and 16 of them
    take at most 1.2 times the llama_decode calls of one."""
    prompts = {
        f"worker-{i:04d}": f"Write a long story about the number {i}.".encode() for i in range(16)
    }
    limits = b"temperature 0\nmax_tokens %d\n" % either(150, 200)

    def steps(ns: Namespace) -> int:
        with Namespace(host_socket(ns, "worker-0000"), uname=None) as host:
            return int(host.attrs("status")["steps"])

    with Namespace(port) as ns:
        alone = {}
        for worker, prompt in prompts.items():
            ns.write(f"{worker}/ctl", b"reset\n" + limits)
            ns.write(f"{worker}/prompt", prompt)
            alone[worker] = ns.read(f"{worker}/out")
            ns.write(f"{worker}/ctl", b"reset\n")

        together: dict[str, bytes] = {}
        tokens: dict[str, int] = {}

        def ask(worker: str) -> None:
            with Namespace(port) as own:
                own.write(f"{worker}/prompt", prompts[worker])
                together[worker] = own.read(f"{worker}/out")
                tokens[worker] = int(own.attrs(f"{worker}/usage")["completion_tokens"])

        before = steps(ns)
        threads = [threading.Thread(target=ask, args=(worker,)) for worker in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = steps(ns) - before
    assert together == alone
    assert taken <= 1.2 * max(tokens.values()), (taken, tokens)


def test_killed_host_is_lost_and_the_others_go_on(port: int) -> None:
    with Namespace(port) as ns, Namespace(port) as reader:
        ns.write("ctl", b"spawn --count 1 --type medium")
        ns.write("worker-0016/ctl", b"max_tokens 1000\ntemperature 0\n")
        ns.write("worker-0016/prompt", b"Count from one to one thousand.")
        out = reader.open("worker-0016/out")
        assert reader.client.read(out, None, 0)
        os.kill(host_pid(ns, "worker-0016"), signal.SIGKILL)
        killed = time.monotonic()
        with pytest.raises(py9p.RemoteError):
            offset = 0
            while True:
                offset += len(reader.client.read(out, None, offset))
        while ns.attrs("nodes/worker-0016")["state"] != "lost":
            assert time.monotonic() < killed + 2
        with pytest.raises(py9p.RemoteError):
            ns.read("worker-0016/status")
        ns.write("worker-0004/prompt", b"Are you there?")
        assert ns.read("worker-0004/out")


def host_socket(ns: Namespace, worker: str) -> str:
    """Where the worker's host listens."""
    return ns.attrs(f"nodes/{worker}")["addr"].removeprefix("unix!")


def host_pid(ns: Namespace, worker: str) -> int:
    """The process that listens there."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(host_socket(ns, worker))
        ucred = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", ucred)[0]
    return pid
