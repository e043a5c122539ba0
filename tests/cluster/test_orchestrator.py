"""The orchestrator's own conversation: balancing, retries, what follows a worker."""

from __future__ import annotations

import asyncio
import json

import pytest

from llambo9p.cluster.config import Cluster
from llambo9p.engine.base import Listener, Request
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Error, NotFound, NotSupported
from llambo9p.p9 import constants as c
from llambo9p.worker.worker import Worker
from tests.engine.harness import Recorder
from tests.files import until

from .harness import cluster, simulated_host

ROUND_ROBIN = Cluster.model_validate({"load_balancer": {"strategy": "round-robin"}})


def test_requests_go_to_every_worker_in_turn() -> None:
    async def run() -> None:
        async with cluster(ROUND_ROBIN) as running, simulated_host(4) as host:
            files = running.files
            await files.write("ctl", f"mount {host.address}")
            for i in range(8):
                async with await files.open("data", c.ORDWR) as data:
                    await data.write(f"question {i}".encode())
                    assert f"question {i}" in (await data.read_all()).decode()
            assert [w.requests for w in host.host.workers.values()] == [2, 2, 2, 2]

    asyncio.run(run())


def test_conversation_stays_with_its_worker_and_its_cache() -> None:
    async def run() -> None:
        async with cluster(ROUND_ROBIN) as running, simulated_host(3) as host:
            files = running.files
            await files.write("ctl", f"mount {host.address}")
            await files.write("system", "You are short.\n")
            cached = []
            for turn in ("first", "second", "third"):
                await files.write("prompt", turn)
                await files.read("out")
                cached.append(int((await files.attrs("usage"))["cached_tokens"]))
            assert cached[0] == 0 < cached[1] < cached[2]
            assert sorted(w.requests for w in host.host.workers.values()) == [0, 0, 3]
            history = [json.loads(line) for line in (await files.read("history")).splitlines()]
            assert [h["content"] for h in history if h["role"] == "user"] == [
                "first",
                "second",
                "third",
            ]

    asyncio.run(run())


def test_changed_history_is_told_to_the_worker() -> None:
    """`reset`, and history written by a client, reach the worker with the next turn."""

    async def run() -> None:
        async with (
            cluster() as running,
            simulated_host(1, answer=lambda prompt: prompt.encode()) as host,
        ):
            files = running.files
            await files.write("ctl", f"mount {host.address}\nmax_tokens 1000")
            await files.write("prompt", "alpha")
            await files.read("out")
            await files.write("ctl", "reset")
            await files.write("history", '{"role":"user","content":"beta"}\n')
            await files.write("history", '{"role":"assistant","content":"gamma"}\n')
            await files.write("prompt", "delta")
            seen = await files.read("out")
            assert "alpha" not in seen
            assert seen.index("beta") < seen.index("gamma") < seen.index("delta")

    asyncio.run(run())


def test_request_of_a_worker_lost_before_its_first_token_goes_to_another() -> None:
    async def run() -> None:
        gate = Gate()
        async with (
            cluster(ROUND_ROBIN) as running,
            simulated_host(1, 0, gate=gate) as dies,
            simulated_host(1, 1) as lives,
        ):
            files = running.files
            await files.write("ctl", f"mount {dies.address}")
            await files.write("prompt", "whoever is there")
            await until(lambda: dies.host.workers["worker-0000"].active)
            await files.write("ctl", f"mount {lives.address}")
            out = await files.open("out")
            dies.kill()
            assert "whoever is there" in (await out.read_all()).decode()
            assert lives.host.workers["worker-0001"].requests == 1

    asyncio.run(run())


def test_17_an_answer_whose_last_worker_is_lost_fails_and_says_so() -> None:
    """When none came back in time."""
    config = Cluster.model_validate({"load_balancer": {"timeout": 200}})

    async def run() -> None:
        gate = Gate()
        async with (
            cluster(config) as running,
            simulated_host(1, gate=gate, answer=lambda prompt: b"0123456789" * 9) as host,
        ):
            files = running.files
            await files.write("ctl", f"mount {host.address}")
            await files.write("prompt", "go")
            out = await files.open("out")
            first = asyncio.ensure_future(out.read(0))
            await until(lambda: gate.allow() or first.done())
            host.kill()
            with pytest.raises(Error, match="worker-0000 was lost in the middle of the answer"):
                await out.read_all()
            assert "lost in the middle" in await files.read("status")

    asyncio.run(run())


def test_a_prompt_reaches_the_worker_as_it_was_written() -> None:
    async def run() -> None:
        seen: list[str] = []

        def answer(prompt: str) -> bytes:
            seen.append(prompt)
            return b"yes"

        async with cluster() as running, simulated_host(answer=answer) as host:
            await running.files.write("ctl", f"mount {host.address}")
            for written in ("plain", "line\n", "two\n\n", "\n"):
                assert await running.files.ask(written) == "yes"
        # messages are joined by an empty line; of each prompt one newline was dropped
        assert seen[-1].rstrip() == "plain\n\nyes\n\nline\n\nyes\n\ntwo\n\n\nyes"
        assert len(seen) == 4

    asyncio.run(run())


def test_cancel_stops_the_worker() -> None:
    async def run() -> None:
        gate = Gate()
        async with (
            cluster() as running,
            simulated_host(1, gate=gate, answer=lambda prompt: b"x" * 3000) as host,
        ):
            files = running.files
            await files.write("ctl", f"mount {host.address}")
            await files.write("prompt", "go")
            await until(lambda: host.host.workers["worker-0000"].active)
            await files.write("ctl", "cancel")
            await files.read("out")
            assert (await files.attrs("usage"))["finish_reason"] == "cancelled"
            await files.read("worker-0000/status")  # behind the Tclunk of the clone
            await until(lambda: gate.allow() or not host.host.workers["worker-0000"].active)
            assert host.engine.steps <= 2
            assert "0" not in await files.ls("worker-0000"), "no clone is left"

    asyncio.run(run())


def test_reset_at_once_after_a_prompt_ends_its_answer() -> None:
    """The request is cancelled before its task has run a step."""

    async def run() -> None:
        async with cluster() as running, simulated_host() as host:
            files = running.files
            await files.write("ctl", f"mount {host.address}")
            prompt = await files.open("prompt", c.OWRITE)
            ctl = await files.open("ctl", c.OWRITE)
            await prompt.write(b"never mind")
            done = asyncio.gather(prompt.clunk(), ctl.write(b"cancel\n"))
            await done
            await files.read("out")
            await until(lambda: not host.host.workers["worker-0000"].active)

    asyncio.run(run())


def test_draining_worker_gets_no_new_requests() -> None:
    config = Cluster.model_validate({"load_balancer": {"health_check_interval": 20}})

    async def run() -> None:
        async with cluster(config) as running, simulated_host(2) as host:
            files = running.files
            await files.write("ctl", f"mount {host.address}")
            await files.write("worker-0000/ctl", "drain")
            await until(lambda: "draining 1\n" in running.orchestrator.status_text(True))
            for _ in range(4):
                async with await files.open("data", c.ORDWR) as data:
                    await data.write(b"?")
                    await data.read_all()
            assert [w.requests for w in host.host.workers.values()] == [0, 4]
            await files.write("worker-0000/prompt", "?")
            with pytest.raises(Error, match="worker-0000 is draining"):
                await files.read("worker-0000/out")

    asyncio.run(run())


def test_cloned_conversations_of_the_root_are_separate() -> None:
    async def run() -> None:
        async with cluster() as running, simulated_host(2) as host:
            files = running.files
            await files.write("ctl", f"mount {host.address}")
            clones = [await files.open("clone", c.ORDWR) for _ in range(3)]
            numbers = [(await clone.read(0)).decode().strip() for clone in clones]
            assert numbers == ["0", "1", "2"]
            for number in numbers:
                await files.write(f"{number}/prompt", f"I am {number}")
            for number in numbers:
                assert f"I am {number}" in await files.read(f"{number}/out")
            for clone in clones:
                await clone.clunk()
            assert not set(numbers) & set(await files.ls())
            await until(lambda: host.server.connections)
            assert "0" not in await files.ls("worker-0000")
            with pytest.raises(NotFound):
                await files.read("0/out")

    asyncio.run(run())


def test_a_worker_embeds_and_the_cluster_does_not() -> None:
    async def run() -> None:
        async with cluster() as running, simulated_host() as host:
            files = running.files
            await files.write("ctl", f"mount {host.address}")
            assert "embed" not in await files.ls()
            async with await files.open("worker-0000/embed", c.ORDWR) as embed:
                await embed.write(b"a text")
                with pytest.raises(Error, match="simulated: this model cannot embed"):
                    await embed.read_all()
            engine = running.orchestrator._dispatch
            with pytest.raises(NotSupported, match="a cluster cannot embed"):
                engine.submit(Request("a text", embed=True), Recorder())

    asyncio.run(run())


def test_bad_verbs_name_what_is_allowed() -> None:
    async def run() -> None:
        async with cluster() as running:
            for line, words in {
                "spawn --count 0 --type tiny": "--count must be 1..10000, not '0'",
                "spawn --type huge": "no node type 'huge'; types are tiny",
                "spawn --many 3": "bad option '--many'",
                "unmount worker-0042": "nothing is mounted as worker-0042",
                "mount": "usage: mount ADDR [NAME [--user U] [--aname TREE]]",
                "frobnicate": "unknown verb frobnicate; verbs are spawn scale load mount",
            }.items():
                with pytest.raises(Error) as e:
                    await running.files.write("ctl", line)
                assert words in str(e.value)

    asyncio.run(run())


def test_what_answers_must_follow_goes_with_them_to_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str]] = []
    submit = Worker.submit

    def watched(self: Worker, request: Request, listener: Listener) -> None:
        asked.append((request.params.grammar, request.params.schema))
        submit(self, request, listener)

    async def main() -> None:
        async with cluster() as running, simulated_host(1) as host:
            files = running.files
            await files.write("ctl", f"mount {host.address}")
            grammar, schema = 'root ::= "a"', '{"type": "integer"}'
            for name, text in (("grammar", grammar), ("schema", schema), ("schema", "\n")):
                await files.write(name, text)
                await files.ask("x")
                await files.ask("y")
            await files.write("schema", schema)
            async with await files.open("data", c.ORDWR) as data:
                await data.write(b"z")
                await data.read_all()
            assert asked == [
                *[(grammar, "")] * 2, *[("", schema)] * 2, *[("", "")] * 2, ("", schema)
            ]  # fmt: skip

    monkeypatch.setattr(Worker, "submit", watched)
    asyncio.run(main())
