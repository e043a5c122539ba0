"""`fusion/`: one prompt asked of several workers, on hosts in this process and on real ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from llambo9p.cluster.config import Cluster
from llambo9p.cluster.fusion_engine import FusionEngine
from llambo9p.conversation.limits import Limits, clones, requests
from llambo9p.engine.base import Listener, Request
from llambo9p.engine.simulated import Gate
from llambo9p.errors import Busy, Error, NoConsensus, NotFound
from llambo9p.fs.ctl import split_words
from llambo9p.net.address import Address, parse
from llambo9p.p9 import constants as c
from llambo9p.worker.worker import Worker
from tests.engine.harness import Recorder, user
from tests.files import Files, story, until

from .harness import RunningCluster, SimulatedHost, cluster, simulated_host
from .test_users import shared

NO_RETRIES = Cluster.model_validate({"load_balancer": {"max_retries": 0}})


class Line(NamedTuple):
    """Of `votes`."""

    worker: str
    weight: float
    ms: float
    state: str
    answer: str
    text: str


async def votes(files: Files, path: str = "fusion") -> list[Line]:
    lines = []
    for line in (await files.read(f"{path}/votes")).splitlines():
        worker, weight, ms, state, answer, text = split_words(line)
        lines.append(Line(worker, float(weight), float(ms), state, answer, text))
    return lines


@contextlib.asynccontextmanager
async def hosts_that_say(
    *answers: str, config: Cluster | None = None, gate: Gate | None = None
) -> AsyncIterator[tuple[RunningCluster, list[SimulatedHost]]]:
    """A cluster of hosts, each of one worker that always says the same; `n_nodes` is their
    number."""
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(cluster(config))
        hosts = []
        for number, answer in enumerate(answers):
            said = answer.encode()
            host = simulated_host(first=number, answer=lambda _, said=said: said, gate=gate)
            hosts.append(await stack.enter_async_context(host))
            await running.files.write("ctl", f"mount {hosts[-1].address}")
        await running.files.write("fusion/ctl", f"n_nodes {len(answers)}")
        yield running, hosts


# -- what comes of it ---------------------------------------------------------------


@story
async def test_the_majority_s_answer_is_out_and_votes_tell_who_said_what() -> None:
    async with hosts_that_say("It is 7.", "8", "7", "who can\ntell?") as (running, _):
        files = running.files
        assert await files.ask("3 + 4?", "fusion") == "7"
        lines = await votes(files)
        assert sorted((line.worker, line.state, line.answer, line.text) for line in lines) == [
            ("worker-0000", "voted", "7", "It is 7."),
            ("worker-0001", "voted", "8", "8"),
            ("worker-0002", "voted", "7", "7"),
            ("worker-0003", "abstained", "", "who can tell?"),
        ]
        assert {line.weight for line in lines} == {0.3333, 0.0}
        assert all(line.ms > 0 for line in lines)
        status = await files.attrs("fusion/status")
        assert (status["voters"], status["voted"], status["abstained"]) == ("4", "3", "1")
        assert status["agreement"] == "0.6667"
        assert "7" in await files.read("fusion/history")
        assert await files.read("history") == "", "the root's own conversation is another"


@pytest.mark.parametrize(
    ("strategy", "fused"),
    [
        ("majority-vote", "10"),
        ("confidence-weighted", "10"),
        ("best-of-n", "10"),
        ("weighted-average", "12"),
        ("aggregate", "all of them"),
    ],
)
@story
async def test_each_strategy_makes_one_of_them(strategy: str, fused: str) -> None:
    def says(number: str) -> Callable[[str], bytes]:
        def answer(prompt: str) -> bytes:
            if "Several assistants" not in prompt:
                return number.encode()
            assert all(f":\n{n}\n" in prompt for n in ("10", "16")), prompt
            return b"all of them"

        return answer

    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(cluster())
        files = running.files
        for i, number in enumerate(("10", "16", "10")):
            host = await stack.enter_async_context(simulated_host(first=i, answer=says(number)))
            await files.write("ctl", f"mount {host.address}")
        await files.write("fusion/ctl", f"strategy {strategy}")
        assert await files.ask("how many?", "fusion") == fused
        assert [line.state for line in await votes(files)] == ["voted"] * 3
        usage = await files.attrs("fusion/usage")
        tokens = 3 * 2 + (len(fused) if strategy == "aggregate" else 0)
        assert usage["completion_tokens"] == str(tokens)
        async with await files.open("fusion/data", c.ORDWR) as data:
            await data.write(b"how many?")
            assert (await data.read_all()).decode() == fused


@story
async def test_an_aggregator_is_not_shown_drafts_that_say_nothing() -> None:
    seen: list[str] = []

    def answer(prompt: str) -> bytes:
        seen.append(prompt)
        return b"fused" if "Several assistants" in prompt else b" " if len(seen) == 1 else b"river"

    async with cluster() as running, simulated_host(3, answer=answer) as host:
        await running.files.write("ctl", f"mount {host.address}")
        await running.files.write("fusion/ctl", "strategy aggregate")
        assert await running.files.ask("Name a river.", "fusion") == "fused"
        states = [line.state for line in await votes(running.files)]
        assert sorted(states) == ["abstained", "voted", "voted"]
        assert len(seen) == 4
        assert "Answer 2:\nriver" in seen[3] and "Answer 3:" not in seen[3]


@story
async def test_ctl_shows_what_can_be_written_back_and_refuses_the_rest() -> None:
    async with cluster() as running:
        files = running.files
        shown = await files.attrs("fusion/ctl")
        assert {name: shown[name] for name in ("strategy", "n_nodes", "min_consensus_nodes")} == {
            "strategy": "majority-vote", "n_nodes": "3", "min_consensus_nodes": "1",
        }  # fmt: skip
        assert float(shown["temperature"]) > 0 and shown["seed"] == "random"
        await files.write("fusion/ctl", "strategy best-of-n\nn_nodes 5\ntimeout_ms 1\nseed 3")
        changed = await files.read("fusion/ctl")
        await files.write("fusion/ctl", changed)
        assert await files.read("fusion/ctl") == changed
        for line, reason in {
            "strategy best": "strategy must be majority-vote|confidence-weighted|best-of-n|",
            "n_nodes 65": "n_nodes must be a whole number 1..64, not 65",
            "timeout_ms 0": "timeout_ms must be a whole number 1..86400000, not 0",
            "min_consensus_nodes": "usage: min_consensus_nodes 1..64",
            "spawn": "unknown verb spawn; verbs are strategy n_nodes",
        }.items():
            with pytest.raises(Error) as e:
                await files.write("fusion/ctl", f"temperature 0\n{line}")
            assert reason in str(e.value)
        assert await files.read("fusion/ctl") == changed
        assert "strategy best" not in await files.read("ctl")


@story
async def test_voters_have_seeds_of_their_own_that_one_seed_decides() -> None:
    async with hosts_that_say("1", "1", "1") as (running, _):
        seen: list[int | None] = []
        engine = running.orchestrator._dispatch
        submit = engine.submit

        def watched(request, listener):
            seen.append(request.params.seed)
            submit(request, listener)

        engine.submit = watched  # type: ignore[method-assign]
        await running.files.ask("?", "fusion")
        assert len(set(seen)) == 3 and None not in seen
        seen.clear()
        await running.files.write("fusion/ctl", "seed 4294967294")
        await running.files.ask("?", "fusion")
        assert seen == [4294967294, 0, 1]


@story
async def test_tokens_and_logprobs_are_those_of_the_answer_that_won() -> None:
    async with hosts_that_say("no", "yes", "yes") as (running, _):
        files = running.files
        await files.ask("?", "fusion")
        assert await files.read("fusion/tokens") == "121 1\n101 2\n115 3\n"
        assert await files.read("fusion/logprobs") == ""
        await files.write("fusion/ctl", "logprobs 1")
        await files.ask("?", "fusion")
        lines = (await files.read("fusion/logprobs")).splitlines()
        assert bytes(json.loads(line)["id"] for line in lines) == b"yes"


@story
async def test_a_chat_goes_on_with_the_fused_answers() -> None:
    async with cluster() as running, simulated_host(3, answer=lambda p: p.encode()) as host:
        files = running.files
        await files.write("ctl", f"mount {host.address}")
        await files.write("fusion/ctl", "strategy best-of-n\nmax_tokens 1000")
        await files.write("fusion/system", "Be brief.")
        await files.ask("alpha", "fusion")
        said = await files.ask("beta", "fusion")
        assert said.index("Be brief.") < said.index("alpha") < said.index("beta")
        await files.write("fusion/ctl", "reset")
        assert await votes(files) == []
        assert "alpha" not in await files.ask("gamma", "fusion")


@story
async def test_a_cloned_fusion_has_settings_and_votes_of_its_own() -> None:
    async with hosts_that_say("1", "2") as (running, _):
        files = running.files
        await files.ask("?", "fusion")
        async with await files.open("fusion/clone", c.ORDWR) as ctl:
            number = (await ctl.read(0)).decode().strip()
            await ctl.write(b"n_nodes 5\nstrategy weighted-average\n")
            assert await votes(files, f"fusion/{number}") == []
            assert await files.ask("?", f"fusion/{number}") in ("1.4", "1.6")
            assert len(await votes(files, f"fusion/{number}")) == 5
            assert len(await votes(files)) == 2
            assert "n_nodes 2\n" in await files.read("fusion/ctl")
        with pytest.raises(NotFound):
            await files.read(f"fusion/{number}/votes")


# -- which workers ------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["round-robin", "least-loaded"])
@pytest.mark.parametrize(("count", "of_each"), [(2, 1), (4, 2), (6, 3)])
@story
async def test_voters_go_to_different_hosts_first(strategy: str, count: int, of_each: int) -> None:
    config = Cluster.model_validate({"load_balancer": {"strategy": strategy}})
    async with cluster(config) as running, simulated_host(3) as one, simulated_host(3, 3) as two:
        files = running.files
        for host in (one, two):
            await files.write("ctl", f"mount {host.address}")
        await files.write("fusion/ctl", f"n_nodes {count}")
        await files.ask("yes", "fusion")
        workers = [line.worker for line in await votes(files)]
        assert len(set(workers)) == count
        if count == 2:
            for host in (one, two):
                assert sum(w in host.host.workers for w in workers) == of_each


@story
async def test_fewer_workers_than_voters_are_asked_again() -> None:
    async with cluster() as running, simulated_host(2) as host:
        await running.files.write("ctl", f"mount {host.address}")
        await running.files.write("fusion/ctl", "n_nodes 6")
        await running.files.ask("yes", "fusion")
        workers = [line.worker for line in await votes(running.files)]
        assert sorted(workers) == ["worker-0000"] * 3 + ["worker-0001"] * 3
        assert "0" not in await running.files.ls("worker-0000"), "no clone is left"


# -- trouble ------------------------------------------------------------------------


class RealHost(NamedTuple):
    address: Address
    process: asyncio.subprocess.Process

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@contextlib.asynccontextmanager
async def real_host(first: int, *options: str) -> AsyncIterator[RealHost]:
    """A process of its own with one worker of the simulated model, unless options say more."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llambo9p_nodes.worker", "--listen", "tcp!127.0.0.1!0"),
        *("--exit-with-stdin", "--model", "simulated", "--count", "1", "--first", str(first)),
        *options,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            if line.startswith(b"listening "):
                yield RealHost(parse(line.split()[1].decode()), process)
                break
        else:
            pytest.fail("the host did not start")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def real_hosts(
    config: Cluster | None = None,
) -> AsyncIterator[tuple[Files, RealHost, RealHost]]:
    """A cluster of worker-0000 and worker-0001, each a process."""
    async with real_host(0) as one, real_host(1) as two, cluster(config) as running:
        for host in (one, two):
            await running.files.write("ctl", f"mount {host.address}")
        await running.files.write("fusion/ctl", "n_nodes 2")
        yield running.files, one, two


async def placed(files: Files) -> None:
    """Until both voters have a worker, and the one that can has answered."""
    while True:
        lines = await votes(files)
        if {line.worker for line in lines} == {"worker-0000", "worker-0001"} and [
            line.state for line in lines
        ].count("waiting") == 1:
            return
        await asyncio.sleep(0.01)


@story
async def test_who_is_late_is_left_out_and_cancelled() -> None:
    async with real_hosts() as (files, _, two):
        two.send(signal.SIGSTOP)
        await files.write("fusion/ctl", "timeout_ms 1500")
        assert await files.ask("yes", "fusion") == "simulated: yes"
        states = {line.worker: (line.state, line.weight) for line in await votes(files)}
        assert states == {"worker-0000": ("voted", 1.0), "worker-0001": ("late", 0.0)}
        await files.write("fusion/ctl", "min_consensus_nodes 2")
        with pytest.raises(NoConsensus, match="1 of 1 answers .*2 must be.*; 2 asked, 1 late$"):
            await files.ask("yes", "fusion")
        assert {line.state for line in await votes(files)} == {"voted", "late"}
        two.send(signal.SIGCONT)
        assert await files.ask("yes", "fusion") == "simulated: yes"
        assert {line.state for line in await votes(files)} == {"voted"}
        assert await files.attrs("worker-0001/status") != {}
        assert "0" not in await files.ls("worker-0001"), "no clone is left"


@story
async def test_a_voter_whose_host_is_killed_is_listed_as_failed() -> None:
    async with real_hosts(NO_RETRIES) as (files, _, two):
        two.send(signal.SIGSTOP)
        await files.write("fusion/prompt", "yes")
        out = asyncio.ensure_future(files.read("fusion/out"))
        await placed(files)
        two.send(signal.SIGKILL)
        assert await out == "simulated: yes"
        [failed] = [line for line in await votes(files) if line.state == "failed"]
        assert (failed.worker, failed.weight) == ("worker-0001", 0.0)
        assert "connection" in failed.text
        status = await files.attrs("fusion/status")
        assert (status["voted"], status["failed"]) == ("1", "1")


@story
async def test_a_voter_whose_host_is_killed_is_asked_elsewhere_if_that_is_allowed() -> None:
    async with real_hosts() as (files, _, two):
        two.send(signal.SIGSTOP)
        await files.write("fusion/ctl", "min_consensus_nodes 2")
        await files.write("fusion/prompt", "yes")
        out = asyncio.ensure_future(files.read("fusion/out"))
        await placed(files)
        two.send(signal.SIGKILL)
        assert await out == "simulated: yes"
        lines = await votes(files)
        assert [(line.worker, line.state) for line in lines] == [("worker-0000", "voted")] * 2


@story
async def test_a_voter_is_not_sent_back_to_a_worker_that_is_full() -> None:
    config = Cluster.model_validate({"load_balancer": {"max_retries": 1}})
    full = Limits(clones=clones(0))
    async with (
        cluster(config) as running,
        simulated_host() as one,
        simulated_host(first=1, limits=full) as two,
    ):
        files = running.files
        for host in (one, two):
            await files.write("ctl", f"mount {host.address}")
        await files.write("fusion/ctl", "n_nodes 4")
        for _ in range(5):
            await files.ask("yes", "fusion")
            lines = await votes(files)
            assert [(line.worker, line.state) for line in lines] == [("worker-0000", "voted")] * 4


@story
async def test_when_nobody_can_be_asked_the_reason_is_told() -> None:
    async with cluster() as running:
        with pytest.raises(Error, match="no healthy worker; start some"):
            await running.files.ask("?", "fusion")
        await running.files.write("fusion/ctl", "n_nodes 2\nmin_consensus_nodes 3")
        with pytest.raises(Error, match="min_consensus_nodes 3 is more than n_nodes 2"):
            await running.files.ask("?", "fusion")
        await running.files.write("fusion/ctl", "n_nodes 3\nstrategy aggregate\nmode complete")
        with pytest.raises(Error, match="aggregate needs mode chat"):
            await running.files.ask("?", "fusion")
        assert "aggregate needs mode chat" in await running.files.read("fusion/status")


@story
async def test_a_worker_that_refuses_a_prompt_fails_its_vote_and_all_of_them_the_answer() -> None:
    async with cluster() as running, simulated_host(3, n_ctx=32) as host:
        await running.files.write("ctl", f"mount {host.address}")
        with pytest.raises(NoConsensus, match="3 asked, 0 late, 3 failed: worker-000.: the prompt"):
            await running.files.ask("x" * 100, "fusion")


@pytest.mark.parametrize("how", ["cancel", "flush", "close"])
@story
async def test_cancelling_frees_the_slots_of_all_voters(how: str) -> None:
    gate = Gate()
    async with hosts_that_say("x" * 500, "x" * 500, "x" * 500, gate=gate) as (running, hosts):
        files = running.files
        workers = [worker for host in hosts for worker in host.host.workers.values()]

        def active() -> int:
            return sum(worker.active for worker in workers)

        clone = await files.open("fusion/clone", c.ORDWR)
        await clone.write(b"n_nodes 3\nmax_tokens 400\n")
        data = await files.open("fusion/data", c.ORDWR)
        if how == "flush":
            await data.write(b"go")
            reading = asyncio.ensure_future(data.read(0))
        else:
            await files.write("fusion/0/prompt", "go")
        await until(lambda: active() == 3)
        if how == "flush":
            reading.cancel()
        elif how == "cancel":
            await clone.write(b"cancel\n")
            assert await files.read("fusion/0/out") == ""
            assert (await files.attrs("fusion/0/usage"))["finish_reason"] == "cancelled"
        else:
            await clone.clunk()
        await until(lambda: gate.allow() or active() == 0)
        if how == "cancel":
            assert {line.state for line in await votes(files, "fusion/0")} == {"cancelled"}
        assert all(host.engine.steps <= 40 for host in hosts)
        for number in range(3):
            assert "0" not in await files.ls(f"worker-000{number}"), "no clone is left"
        assert running.orchestrator._dispatch.load.active == 0


@story
async def test_cancelled_at_once_nobody_is_left_asked() -> None:
    """Before the engine's task has run a step."""
    async with hosts_that_say("1", "2") as (running, _):
        files = running.files
        prompt = await files.open("fusion/prompt", c.OWRITE)
        ctl = await files.open("fusion/ctl", c.OWRITE)
        await prompt.write(b"never mind")
        await asyncio.gather(prompt.clunk(), ctl.write(b"cancel\n"))
        await files.read("fusion/out")
        await until(lambda: running.orchestrator._dispatch.load.active == 0)


# -- users and limits ---------------------------------------------------------------


@story
async def test_nobody_sees_another_s_votes(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        for files in (place.alice, place.bob):
            await files.write("fusion/ctl", "n_nodes 2")
        await place.alice.write("fusion/ctl", "strategy best-of-n")
        assert await place.alice.ask("from alice", "fusion") == "simulated: from alice"
        assert await place.bob.ask("yes", "fusion") == "simulated: yes"
        assert {line.text for line in await votes(place.alice)} == {"simulated: from alice"}
        assert {line.text for line in await votes(place.bob)} == {"simulated: yes"}
        assert await votes(place.me) == []
        for other in (place.bob, place.me):
            for name in await other.ls("fusion"):
                if name not in ("data", "clone"):
                    assert "alice" not in await other.read(f"fusion/{name}")
        assert {entry.uid for entry in await place.alice.entries("fusion")} == {"alice"}
        assert all(entry.mode & 0o077 == 0 for entry in await place.alice.entries("fusion"))
        for worker in ("worker-0000", "worker-0001"):
            assert "0" not in await place.bob.ls(worker)


def test_on_a_worker_a_voter_is_its_user_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nobody else finds it, or what it asked in the cache."""
    asked: list[str] = []
    submit = Worker.submit

    def watched(self: Worker, request: Request, listener: Listener) -> None:
        asked.append(request.user)
        submit(self, request, listener)

    monkeypatch.setattr(Worker, "submit", watched)

    async def main() -> None:
        async with shared(tmp_path) as place:
            for strategy in ("majority-vote", "aggregate"):
                await place.alice.write("fusion/ctl", f"strategy {strategy}")
                await place.alice.ask("yes", "fusion")
            await place.bob.ask("yes", "fusion")
        assert asked == ["alice"] * (3 + 3 + 1) + ["bob"] * 3

    asyncio.run(main())


@story
async def test_each_voter_counts_among_its_user_s_requests() -> None:
    limits = Limits(requests=requests(per_user=3))
    async with hosts_that_say("1", "1", "1", "1") as (running, _):
        engine = FusionEngine(running.orchestrator._engine, limits)
        engine.change("n_nodes", 4)
        for _ in range(2):  # the second time the first drafts are forgotten
            recorder = Recorder()
            engine.submit(Request(user("?"), user="alice"), recorder)
            await recorder.usage()
        assert engine.election is not None
        states = [(voter.state, type(voter.error)) for voter in engine.election.voters]
        assert states == [("voted", type(None))] * 3 + [("failed", Busy)]
        assert limits.requests.used == 0
        assert not engine.election.request.prompt
        assert not any(voter.request for voter in engine.election.voters)
        assert limits.kept.used == 3
        engine.forget(None)
        assert limits.kept.used == 0


# -- the real model -----------------------------------------------------------------


@pytest.mark.timeout(120)
@story
async def test_the_real_model_votes() -> None:
    options = ("--model", "default", "--context", "256", "--slots", "4", "--threads", "1")
    async with (
        real_host(0, *options) as one,
        real_host(1, *options) as two,
        cluster() as running,
    ):
        files = running.files
        for host in (one, two):
            await files.write("ctl", f"mount {host.address}")
        await files.write("fusion/ctl", "n_nodes 4\nseed 7\nmax_tokens 12\ntemperature 1.5")
        said = []
        for strategy in ("majority-vote", "confidence-weighted", "best-of-n"):
            await files.write("fusion/ctl", f"strategy {strategy}\nreset")
            fused = await files.ask("What is 3 + 4? Answer with a number.", "fusion")
            lines = await votes(files)
            assert fused and " ".join(fused.split()) in [line.text for line in lines]
            assert sum(line.weight for line in lines) == pytest.approx(1, abs=1e-3)
            assert {line.worker for line in lines} == {"worker-0000", "worker-0001"}
            said.append([line.text for line in lines])
            if strategy != "majority-vote":
                assert len({line.weight for line in lines}) > 1
        assert len(set(said[0])) > 1, "the seeds are distinct"
        assert said[0] == said[1] == said[2], "and the same for the same seed"
        await files.write("fusion/ctl", "strategy aggregate\nreset")
        assert await files.ask("Name a river.", "fusion")
        assert int((await files.attrs("fusion/usage"))["completion_tokens"]) > 12
