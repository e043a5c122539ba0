"""`tokens` and `logprobs` of answers that workers give through the orchestrator."""

from __future__ import annotations

import asyncio
import json

from llambo9p.conversation.limits import Limits, kept
from llambo9p.engine.simulated import Gate
from tests.files import story, until

from .harness import cluster, simulated_host


@story
async def test_tokens_and_logprobs_of_a_worker_are_those_of_the_orchestrator() -> None:
    """And an answer goes on from tokens, which reach the worker with the prompt."""

    async with cluster() as running, simulated_host(2) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}\nlogprobs 1")
        answer = await files.ask("hello")
        lines = "".join(f"{byte} {end}\n" for end, byte in enumerate(answer.encode(), 1))
        assert await files.read("tokens") == lines
        logprobs = (await files.read("logprobs")).splitlines()
        assert bytes(json.loads(line)["id"] for line in logprobs).decode() == answer
        await files.write("ctl", "reset")
        await files.write("tokens", lines[: len(lines) // 2].rpartition("\n")[0])
        given = lines[: len(lines) // 2].count("\n")
        assert await files.ask("hello") == answer
        assert await files.read("tokens") == lines
        logprobs = (await files.read("logprobs")).splitlines()
        assert bytes(json.loads(line)["id"] for line in logprobs).decode() == answer[given:]



@story
async def test_tokens_come_while_the_answer_does_and_cancel_ends_them_at_once() -> None:
    """The worker has not yet said all that it would."""
    gate = Gate()
    async with cluster() as running, simulated_host(1, gate=gate) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        await files.write("prompt", "hello")
        for _ in range(3):
            gate.allow()
        tokens = await files.open("tokens")
        seen = b""
        while seen.count(b"\n") < 3:
            seen += await tokens.read(len(seen))
        assert seen == b"115 1\n105 2\n109 3\n"
        await files.write("ctl", "cancel")
        assert await asyncio.wait_for(tokens.read_all(), 5) == seen
        gate.allow()  # the step in which the worker is
        await until(lambda: not host.engine.load.active)


@story
async def test_logprobs_are_of_their_tokens_also_after_a_step_that_failed_for_another() -> None:
    gate = Gate()
    async with cluster() as running, simulated_host(2, gate=gate, poison=b"bad") as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}\nlogprobs 1")
        await files.write("prompt", "hello")
        await asyncio.to_thread(gate.entered, 5)
        await files.write("worker-0001/prompt", "bad")
        gate.open()
        answer = await files.read("out")
        logprobs = (await files.read("logprobs")).splitlines()
        assert bytes(json.loads(line)["id"] for line in logprobs).decode() == answer


@story
async def test_tokens_are_of_the_worker_whose_answer_it_is() -> None:
    """The first dies when it has said a token and no whole character."""
    gate = Gate()
    answer = "\u20ac!"
    async with (
        cluster() as running,
        simulated_host(1, gate=gate, answer=lambda _: answer.encode()) as dies,
        simulated_host(1, 1, answer=lambda _: answer.encode()) as lives,
    ):
        files = running.files
        await files.write("ctl", f"mount {dies.address}")
        await files.write("prompt", "hello")
        gate.allow()
        await until(lambda: dies.host.workers["worker-0000"].tokens)
        await files.write("ctl", f"mount {lives.address}")
        dies.kill()
        assert await files.read("out") == answer
        tokens = [line.split()[0] for line in (await files.read("tokens")).splitlines()]
        assert tokens == [str(byte) for byte in answer.encode()]


@story
async def test_an_answer_does_not_fail_when_its_worker_has_no_room_for_logprobs() -> None:
    limits = Limits(kept=kept(1500))
    async with cluster() as running, simulated_host(1, limits=limits) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}\nlogprobs 1")
        assert await files.ask("hello") == "simulated: hello"
        assert len((await files.read("logprobs")).splitlines()) < len("simulated: hello")
        assert len((await files.read("tokens")).splitlines()) == len("simulated: hello")
