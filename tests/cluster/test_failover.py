"""Answers whose worker fails in the middle go on elsewhere, and requests wait for room.

Simulated hosts in this process, so that each failure comes at a chosen token; the same with
real processes and the real model is in `test_failover_real.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from llambo9p.cluster.config import Cluster
from llambo9p.cluster.health import FAILURES, Circuit, Health
from llambo9p.cluster.requests import Requests
from llambo9p.conversation.limits import Limits
from llambo9p.engine.base import Listener, Request
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Busy, Error, HostLost, NoSpace, TimedOut
from llambo9p.fs.user import User
from llambo9p.p9 import constants as c
from llambo9p.p9.node import Node
from llambo9p.worker.worker import Worker
from tests.files import Files, files_of, reading, story, turns_of_the_loop, until

from .harness import RunningCluster, SimulatedHost, cluster, simulated_host

ANSWER = "0123456789 €uro, abcdefghijklmnopqrstuvwxyz"


def answer(prompt: str) -> bytes:
    return ANSWER.encode()


def config(**load_balancer: object) -> Cluster:
    return Cluster.model_validate({"load_balancer": load_balancer})


async def begin(running: RunningCluster, host: SimulatedHost, gate: Gate, tokens: int) -> None:
    """Ask `host`, the only one, and let it say so many tokens that are passed on."""
    await running.files.write("ctl", f"mount {host.address}\nlogprobs 1")
    await running.files.write("prompt", "go")
    out = await running.files.open("tokens")
    seen = b""
    while seen.count(b"\n") < tokens:
        more = reading(out, len(seen))
        # one step at a time, or it would run ahead
        await until(lambda more=more: more.done() or (gate.entered(0) and gate.allow()))
        seen += (await more).data
    await out.clunk()


async def check_whole(files: Files) -> None:
    """The answer, its tokens and logprobs are as if nothing had happened."""
    assert await files.read("out") == ANSWER
    tokens = [tuple(map(int, line.split())) for line in (await files.read("tokens")).splitlines()]
    assert bytes(token for token, _ in tokens) == ANSWER.encode()
    assert [end for _, end in tokens] == sorted(end for _, end in tokens)
    logprobs = [json.loads(line)["id"] for line in (await files.read("logprobs")).splitlines()]
    assert bytes(logprobs) == ANSWER.encode()
    usage = await files.attrs("usage")
    assert int(usage["completion_tokens"]) == len(ANSWER.encode())
    assert usage["given_tokens"] == "0"
    assert usage["finish_reason"] == "stop"


async def kill(running: RunningCluster, host: SimulatedHost) -> None:
    host.kill()


async def cancel(running: RunningCluster, host: SimulatedHost) -> None:
    await running.files.write("worker-0000/0/ctl", "cancel")


async def reset(running: RunningCluster, host: SimulatedHost) -> None:
    await running.files.write("worker-0000/0/ctl", "reset")


async def shutdown(running: RunningCluster, host: SimulatedHost) -> None:
    await running.files.write("worker-0000/ctl", "shutdown")


Trouble = Callable[[RunningCluster, SimulatedHost], Awaitable[None]]


@pytest.mark.parametrize("tokens", [1, 11, 13, 30])
@pytest.mark.parametrize("trouble", [kill, cancel, reset, shutdown])
@story
async def test_an_answer_goes_on_where_it_was(trouble: Trouble, tokens: int) -> None:
    """Also between the bytes of a character."""
    gate = Gate()
    async with (
        cluster() as running,
        simulated_host(1, gate=gate, answer=answer) as fails,
        simulated_host(1, 1, answer=answer) as goes_on,
    ):
        await begin(running, fails, gate, tokens)
        await running.files.write("ctl", f"mount {goes_on.address}")
        await trouble(running, fails)
        gate.open()
        await check_whole(running.files)
        await until(
            lambda: "worker-0000" not in fails.host.workers or not fails.engine.load.active
        )
        usage = await running.files.attrs("worker-0001/0/usage")
        assert int(usage["given_tokens"]) >= tokens, "it was continued, not answered again"
        assert goes_on.host.workers["worker-0001"].requests == 1
        assert await running.files.ask("and the next turn") == ANSWER
        assert goes_on.host.workers["worker-0001"].requests == 2


@story
async def test_a_step_that_cannot_be_decoded_is_another_workers() -> None:
    gate = Gate()
    async with (
        cluster() as running,
        simulated_host(1, gate=gate, answer=answer, poison=b"abc") as fails,
        simulated_host(1, 1, answer=answer) as goes_on,
    ):
        await begin(running, fails, gate, 5)
        await running.files.write("ctl", f"mount {goes_on.address}")
        gate.open()
        await check_whole(running.files)
        assert fails.host.workers["worker-0000"].errors == 1


@story
async def test_one_shots_go_on_too_and_leave_nothing() -> None:
    gate = Gate()
    async with (
        cluster() as running,
        simulated_host(1, gate=gate, answer=answer) as fails,
        simulated_host(1, 1, answer=answer) as goes_on,
    ):
        files = running.files
        await files.write("ctl", f"mount {fails.address}")
        data = await files.open("data", c.ORDWR)
        await data.write(b"go")
        first = reading(data)
        await until(lambda: gate.allow() or first.done())
        await files.write("ctl", f"mount {goes_on.address}")
        fails.kill()
        said = (await first).data
        while more := (await reading(data)).data:
            said += more
        assert said.decode() == ANSWER
        await files.read("worker-0001/status")  # behind the Tclunk of the clone
        assert "0" not in await files.ls("worker-0001")
        engine = running.orchestrator._dispatch
        assert not engine._tasks and not engine._remotes
        assert not any(host.requests for host in engine._balancer.hosts)


@story
async def test_the_requests_own_fault_is_not_asked_twice() -> None:
    async with cluster() as running, simulated_host(2, answer=answer) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        await files.write("tokens", "3000")
        with pytest.raises(Error, match="no such token: 3000"):
            await files.ask("go")
        assert sum(worker.requests for worker in host.host.workers.values()) == 1


@story
async def test_a_prompt_that_is_too_long_opens_no_circuit() -> None:
    """The host says so in words of its own, with the errno of what is no fault of a worker."""
    async with cluster() as running, simulated_host(1, answer=answer, n_ctx=64) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        for _ in range(FAILURES):
            with pytest.raises(Error, match="the prompt has .* tokens, the context holds 64"):
                await files.ask("too long " * 10)
        [worker] = running.orchestrator._members.workers.values()
        assert (worker.circuit, worker.health) == (Circuit.CLOSED, Health.HEALTHY)


@story
async def test_what_a_host_has_no_room_for_is_asked_of_one_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    sent = Requests.sent

    def noted(self: Requests, request: Request, worker: str, model: str) -> None:
        asked.append(worker)
        sent(self, request, worker, model)

    monkeypatch.setattr(Requests, "sent", noted)
    small = Limits(prompt_bytes=8)
    async with (
        cluster() as running,
        simulated_host(2, answer=answer, limits=small) as one,
        simulated_host(2, 2, answer=answer, limits=small) as two,
        simulated_host(1, 4, answer=answer) as roomy,
    ):
        files, workers = running.files, running.orchestrator._members.workers
        await files.write("ctl", f"mount {one.address}\nmount {two.address}")
        with pytest.raises(NoSpace, match="prompt: more than 8 bytes"):
            await files.ask("more than that")
        assert len({workers[name].host for name in asked}) == len(asked) == 2
        await files.write("ctl", f"unmount worker-0002\nunmount worker-0003\nmount {roomy.address}")
        for _ in range(FAILURES):
            assert await files.ask("more than that") == ANSWER
            await files.write("ctl", "reset")  # so that any worker may be the next
        assert {worker.circuit for worker in workers.values()} == {Circuit.CLOSED}


@story
async def test_a_cancel_is_not_a_failure() -> None:
    gate = Gate()
    async with cluster() as running, simulated_host(2, gate=gate, answer=answer) as host:
        await begin(running, host, gate, 3)
        await running.files.write("ctl", "cancel")
        assert ANSWER.startswith(await running.files.read("out"))
        await running.files.read("status")
        gate.open()
        await until(lambda: not host.engine.load.active)
        assert sum(worker.requests for worker in host.host.workers.values()) == 1


@story
async def test_another_model_does_not_go_on_with_an_answer() -> None:
    gate = Gate()
    async with (
        cluster(config(timeout=200)) as running,
        simulated_host(1, gate=gate, answer=answer) as fails,
        simulated_host(1, 1, answer=answer) as other,
    ):
        await begin(running, fails, gate, 3)
        await running.files.write("ctl", f"mount {other.address}")
        [mounted] = [h for h in running.orchestrator._members.hosts if h.address == other.address]
        mounted.model = "another"
        running.orchestrator._balancer.remove("worker-0001")
        running.orchestrator._balancer.add("worker-0001", "there", model="another")
        fails.kill()
        with pytest.raises(Error, match="worker-0000 was lost in the middle of the answer"):
            await running.files.read("out")
        assert other.host.workers["worker-0001"].requests == 0


@story
async def test_retries_end_and_leave_nothing() -> None:
    """Every worker fails each request after a token or before."""
    gate = Gate()
    gate.open()
    async with (
        cluster(config(max_retries=2)) as running,
        simulated_host(5, gate=gate, answer=answer, poison=b"go") as host,
    ):
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        with pytest.raises(Error, match="the step is poisoned"):
            await files.ask("go")
        asked = [worker.requests for worker in host.host.workers.values()]
        assert sorted(asked) == [0, 0, 1, 1, 1], "and no worker twice"
        assert "the step is poisoned" in (await files.attrs("status"))["error"]
        engine = running.orchestrator._dispatch
        assert not engine._tasks and not engine._remotes
        assert not any(host.requests for host in engine._balancer.hosts)
        for worker in host.host.workers:
            assert "0" not in await files.ls(worker)


@story
async def test_a_worker_that_says_nothing_is_given_up_for_another() -> None:
    """Its engine hangs in the middle of a step; its files answer."""
    gate = Gate()
    async with (
        cluster(config(timeout=400)) as running,
        simulated_host(1, gate=gate, answer=answer) as hangs,
        simulated_host(1, 1, answer=answer) as goes_on,
    ):
        await begin(running, hangs, gate, 4)
        await running.files.write("ctl", f"mount {goes_on.address}")
        await check_whole(running.files)
        assert not any(host.lost for host in running.orchestrator._members.hosts)


@story
async def test_a_host_that_takes_nothing_new_is_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its heart beats, on a connection that it has taken before."""
    tried: list[str] = []

    def never(user: User, aname: str) -> asyncio.Future[Node]:
        tried.append(aname)
        return asyncio.get_running_loop().create_future()

    async with (
        cluster(config(timeout=50, max_retries=2)) as running,
        simulated_host(2, answer=answer) as host,
    ):
        await running.files.write("ctl", f"mount {host.address}")
        monkeypatch.setattr(host.server, "attach", never)
        with pytest.raises(TimedOut, match=f"at {host.address} made no progress for 0.05 s"):
            await running.files.ask("go")
        assert len(tried) == 3
        assert not any(each.lost for each in running.orchestrator._members.hosts)


async def for_seconds(seconds: float, do: Callable[[], object] = lambda: None) -> None:
    """Let the loop turn, and `do` something at each turn."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    await until(lambda: do() or loop.time() > end)


@pytest.mark.parametrize("prompt", ["in line behind an answer that grows", "long " * 800])
@story
async def test_a_queue_and_a_prefill_that_move_are_progress(prompt: str) -> None:
    """However slowly: here a step takes half of the timeout."""
    gate = Gate()
    queued = len(prompt) < 100
    async with (
        cluster(config(timeout=1000)) as running,
        simulated_host(1, gate=gate, answer=answer, slots=1 if queued else 2) as slow,
        simulated_host(1, 1, answer=answer) as other,
    ):
        files = running.files
        await files.write("ctl", f"mount {slow.address}")
        data = await files.open("data", c.ORDWR)
        await data.write(b"before")
        before = reading(data)
        await until(lambda: slow.engine.load.active)
        await files.write("prompt", prompt)
        await until(lambda: held(slow) == 2)
        await files.write("ctl", f"mount {other.address}")
        for _ in range(5):
            gate.allow()
            await for_seconds(0.5)
        status = await files.attrs("status")
        assert status["state"] == ("queued" if queued else "prefill")
        gate.open()
        assert await files.read("out") == ANSWER
        assert (await before).data
        assert other.host.workers["worker-0001"].requests == 0


@story
async def test_a_queue_and_a_prefill_that_stand_still_are_given_up() -> None:
    """The host's files answer, and its decode thread hangs: what is prefilled there, and what is
    in line behind it, is answered elsewhere."""
    gate = Gate()
    async with (
        cluster(config(timeout=400)) as running,
        simulated_host(1, gate=gate, answer=answer, slots=1) as hangs,
        simulated_host(1, 1, answer=answer) as other,
    ):
        files = running.files
        await files.write("ctl", f"mount {hangs.address}")
        asked = []
        for number in range(3):
            data = await files.open("data", c.ORDWR)
            await data.write(b"go")
            asked.append(asyncio.ensure_future(data.read_all()))
            await until(lambda number=number: held(hangs) == number + 1)
        await files.write("ctl", f"mount {other.address}")
        assert await asyncio.gather(*asked) == [ANSWER.encode()] * 3
        assert other.host.workers["worker-0001"].requests == 3


@story
async def test_a_host_that_says_that_it_is_lost_is_lost_at_once() -> None:
    """Its heart beats, and a step hangs.  It says so to the request, which goes elsewhere, and by
    its heartbeat to those who ask it nothing."""
    gate = Gate()
    async with (
        cluster(config(health_check_interval=100)) as running,
        cluster(config(health_check_interval=100)) as idle,
        simulated_host(2, gate=gate, answer=answer, step_timeout=0.1) as hangs,
        simulated_host(1, 2, answer=answer) as other,
    ):
        files = running.files
        await files.write("ctl", f"mount {hangs.address}")
        await idle.files.write("ctl", f"mount {hangs.address}")
        hangs.engine.lost.add_done_callback(lambda _: hangs.host.lose())
        await files.write("prompt", "go")
        await until(lambda: held(hangs) == 1)
        await files.write("ctl", f"mount {other.address}")
        assert await files.read("out") == ANSWER
        assert other.host.workers["worker-0002"].requests == 1
        for each in (running, idle):
            await until(lambda each=each: "lost 2\n" in each.orchestrator.status_text(True))
            node = await each.files.attrs("nodes/worker-0000")
            assert (node["state"], node["health"]) == ("lost", "lost")
            assert "lost 2\n" in await each.files.read("health")
        with pytest.raises(HostLost, match=r"a step of \d+ rows has not ended after"):
            async with files_of(hangs.address) as direct:
                await direct.ask("go", "worker-0001")


@story
async def test_requests_wait_for_a_worker_that_comes_back() -> None:
    async with cluster() as running, simulated_host(1, answer=answer) as first:
        files = running.files
        await files.write("ctl", f"mount {first.address}")
        first.kill()
        await until(lambda: "lost 1\n" in running.orchestrator.status_text(True))
        await files.write("prompt", "go")
        await until(lambda: running.orchestrator._dispatch.load.queued)
        async with simulated_host(1, answer=answer) as again:
            await files.write("ctl", f"mount {again.address}")
            assert await files.read("out") == ANSWER


SMALL = {"queue": 3, "queue_per_host": 2}


def held(host: SimulatedHost) -> int:
    """Requests that a host has."""
    return host.engine.load.active + host.engine.load.queued


@story
async def test_requests_beyond_a_hosts_room_wait_in_order_and_then_are_refused() -> None:
    gate = Gate()
    asked: list[str] = []

    def noted(prompt: str) -> bytes:
        asked.append(prompt)
        return b"yes"

    limits = Cluster.model_validate({"limits": SMALL})
    async with cluster(limits) as running, simulated_host(2, gate=gate, answer=noted) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        reads = []

        async def ask(text: str, priority: int = 0) -> None:
            await files.write("ctl", f"priority {priority}")
            data = await files.open("data", c.ORDWR)
            await data.write(text.encode())
            reads.append(reading(data))
            await turns_of_the_loop()

        engine = running.orchestrator._dispatch
        room = host.engine.slots + SMALL["queue_per_host"]
        for i in range(room):
            await ask(f"at the host {i}")
        await until(lambda: held(host) == room)
        await ask("patient", -1)
        await ask("next")
        clone = await files.open("clone", c.ORDWR)
        await files.write("0/prompt", "last")
        status: dict[str, str] = {}
        while status.get("position") != "2":
            status = await files.attrs("0/status")
        assert status["state"] == "queued"
        assert (engine.load.queued, held(host)) == (3, room)
        await ask("too many")
        with pytest.raises(Busy, match="3 requests wait for a worker"):
            await reads.pop()
        gate.open()
        await asyncio.gather(*reads)
        assert await files.read("0/out") == "yes"
        assert asked[-3:] == ["next", "last", "patient"]
        await clone.clunk()


@story
async def test_who_gets_a_worker_has_no_position_here_any_more() -> None:
    one, two = Gate(), Gate()
    limits = Cluster.model_validate({"limits": {"queue_per_host": 0}})
    async with (
        cluster(limits) as running,
        simulated_host(1, gate=one, slots=1) as first,
        simulated_host(1, 1, gate=two, slots=1) as second,
    ):
        files = running.files
        await files.write("ctl", f"mount {first.address}")
        data = await files.open("data", c.ORDWR)
        await data.write(b"before")
        before = reading(data)
        await until(lambda: held(first))
        await files.write("prompt", "behind it")
        status = {"position": "0"}
        while status["position"] == "0":
            status = await files.attrs("status")
        assert (status["state"], status["position"]) == ("queued", "1")
        await files.write("ctl", f"mount {second.address}")
        await until(lambda: held(second))
        status = await files.attrs("status")
        assert (status["state"], status["position"]) == ("queued", "0")
        one.open()
        two.open()
        await before
        assert await files.read("out") == "simulated: behind it"


@story
async def test_what_waits_at_a_lost_host_or_here_is_answered_by_another() -> None:
    gate = Gate()
    limits = Cluster.model_validate({"limits": {"queue_per_host": 2}})
    async with (
        cluster(limits) as running,
        simulated_host(1, gate=gate, answer=answer) as dies,
        simulated_host(1, 1, answer=answer) as lives,
    ):
        files = running.files
        await files.write("ctl", f"mount {dies.address}")
        opened = []
        for i in range(dies.engine.slots + 6):
            data = await files.open("data", c.ORDWR)
            await data.write(f"question {i}".encode())
            opened.append((data, reading(data)))
        engine = running.orchestrator._dispatch
        await until(lambda: engine.load.queued == 4 and held(dies) == dies.engine.slots + 2)
        await files.write("ctl", f"mount {lives.address}")
        dies.kill()
        for data, first in opened:
            said = (await first).data
            while more := (await reading(data)).data:
                said += more
            assert said.decode() == ANSWER


@pytest.mark.parametrize("unmounted", [False, True])
@story
async def test_only_what_a_host_that_goes_had_begun_with_has_failed(unmounted: bool) -> None:
    there, gate = Gate(), Gate()
    async with (
        cluster() as running,
        simulated_host(1, gate=there, answer=answer, slots=2) as goes,
        simulated_host(1, 1, gate=gate, answer=answer) as stays,
    ):
        files, engine = running.files, running.orchestrator._dispatch
        await files.write("ctl", f"mount {goes.address}")
        reads = []
        for number in range(5):
            data = await files.open("data", c.ORDWR)
            await data.write(b"go")
            reads.append(asyncio.ensure_future(data.read_all()))
            await until(lambda number=number: held(goes) == number + 1)
        [lost] = running.orchestrator._members.hosts
        await files.write("ctl", f"mount {stays.address}")
        if unmounted:
            await files.write("ctl", "unmount worker-0000")
        else:
            goes.kill()
        # two of three are suspects of a death, and no two of these run on one host
        await until(lambda: held(stays) == (5 if unmounted else 4))
        failures = [asked.failures._in_a_row for asked, _ in engine._tasks.values()]
        assert failures == [1, 1, 0, 0, 0]
        assert not any(map(lost.turns.can_have_begun, engine._tasks))
        assert bool(running.orchestrator._members.discovery._trying) == (not unmounted)
        gate.open()
        assert await asyncio.gather(*reads) == [ANSWER.encode()] * 5


@story
async def test_settings_and_constraints_go_on_with_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()
    asked: list[Request] = []
    submit = Worker.submit

    def watched(self: Worker, request: Request, listener: Listener) -> None:
        asked.append(request)
        submit(self, request, listener)

    monkeypatch.setattr(Worker, "submit", watched)
    async with (
        cluster() as running,
        simulated_host(1, gate=gate, answer=answer) as fails,
        simulated_host(1, 1, answer=answer) as goes_on,
    ):
        await running.files.write("ctl", "stop 'jk' nothing\nmax_tokens 99\nseed 5")
        await running.files.write("schema", '{"type": "string"}')
        await running.files.write("system", "Be short.")
        await begin(running, fails, gate, 20)
        await running.files.write("ctl", f"mount {goes_on.address}")
        fails.kill()
        assert await running.files.read("out") == ANSWER.partition("jk")[0]
        first, second = asked
        assert first.params == second.params and first.prompt == second.prompt
        assert bytes(second.answer) == ANSWER.encode()[: len(second.answer)]
        assert len(second.answer) >= 20
