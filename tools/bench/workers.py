"""A thousand workers of one host with 32 slots, spawned and asked through an orchestrator.

Printed are:

- the time of `spawn --count 1000` written to a new cluster's `ctl`, the loading of the
  model included;
- the memory that a worker costs host and orchestrator: what is resident with 1,000 workers
  less what was with one, before and after the `status` of each was read;
- the CPU time that both use while nobody asks anything, over 5 seconds;
- the time of 1,000 one-line prompts, one for each worker, from 50 clients that ask one
  after the other, in turns with `server` (see `contenders`) with 32 slots and as many
  clients.  A wait is the time to the first token; `overtaken` is how many who asked later
  than a client got their first token earlier, at most;
- the CPU time of a prompt: of the host's event loop, the host's other threads and the
  orchestrator, decoding the model and again with the simulated one, where the host's other
  threads are scheduler and decode thread alone.

    python -m llambo9p_tools.bench.workers [--rounds 3] [--workers 1000] [--clients 50]
        [--tokens 4] [--idle 5]
"""

from __future__ import annotations

import argparse
import statistics
import time

import uvloop

from llambo9p.net.address import Address
from llambo9p.net.client import Client
from llambo9p.p9.constants import OREAD

from . import processes
from .contenders import FilesClient, ask_all, cluster, has_server, server, write_root
from .turns import N_CTX, Answer, Contender, Question, Rates, check, counting, ratio

SLOTS = 32


class Cluster:
    """A running one."""

    def __init__(self, at: Address, pid: int) -> None:
        self.at = at
        self.orchestrator = pid

    @property
    def host(self) -> int:
        """The pid of its only host."""
        [pid] = processes.children(self.orchestrator)
        return pid

    def spawn(self, count: int) -> float:
        """Seconds that it took."""
        began = time.perf_counter()
        uvloop.run(write_root(self.at, "ctl", f"spawn --count {count}"))
        return time.perf_counter() - began

    def look_into(self, count: int) -> None:
        """Read the status of each worker."""

        async def look() -> None:
            client = await Client.connect(self.at)
            root, _ = await client.attach("bench")
            for number in range(count):
                async with await client.open(root, f"worker-{number:04d}/status", OREAD) as file:
                    await file.read_all()
            client.close()

        uvloop.run(look())

    def memory(self) -> tuple[int, int]:
        """Bytes of host and orchestrator."""
        return processes.memory(self.host), processes.memory(self.orchestrator)

    def cpu(self) -> tuple[float, float, float]:
        """Seconds of the host's event loop, its other threads, and the orchestrator."""
        host = processes.cpu(self.host)
        return host.main, host.others, sum(processes.cpu(self.orchestrator))

    def ask(self, questions: list[Question], clients: int) -> list[Answer]:
        answers = uvloop.run(ask_all(questions, lambda: FilesClient(self.at), clients))
        return check(questions, answers)


def overtaken(answers: list[Answer]) -> int:
    """By how many a question was, at most."""
    starts = [(answer.asked, answer.arrivals[0]) for answer in answers]
    return max(
        sum(asked < later and first > earlier for later, earlier in starts)
        for asked, first in starts
    )


def measure_spawn(count: int, rounds: int) -> None:
    times = []
    for _ in range(rounds):
        with cluster(SLOTS, N_CTX) as started:
            times.append(Cluster(*started).spawn(count))
    print(f"{count} workers spawned: {statistics.median(times):.2f} s", flush=True)


def measure_memory(running: Cluster, count: int) -> None:
    """And make the workers."""
    running.spawn(1)
    seen = [running.memory()]
    running.spawn(count - 1)
    seen.append(running.memory())
    running.look_into(count)
    seen.append(running.memory())
    for what, now in zip(("idle", "looked into"), seen[1:], strict=True):
        host, orchestrator = (
            (after - before) / 1024 / (count - 1)
            for before, after in zip(seen[0], now, strict=True)
        )
        print(f"a worker {what}: {host:.1f} KB in the host, {orchestrator:.1f} in the orchestrator")


def measure_idle(running: Cluster, seconds: float) -> None:
    before = running.cpu()
    time.sleep(seconds)
    loop, others, orchestrator = (
        (now - then) / seconds for then, now in zip(before, running.cpu(), strict=True)
    )
    print(
        f"idle: {loop + others:.2%} of a core in the host, {orchestrator:.2%} in the orchestrator",
        flush=True,
    )


class Crowd:
    """So many questions from so many clients, and what became of them."""

    def __init__(self, count: int, clients: int, n_tokens: int) -> None:
        self._count = count
        self._clients = clients
        self._n_tokens = n_tokens

    def questions(self, turn: int) -> list[Question]:
        starts = (1000 + 97 * (turn * self._count + i) for i in range(self._count))
        return [Question(counting(start, 2), self._n_tokens) for start in starts]

    def ask(self, running: Cluster, turn: int) -> tuple[list[Answer], list[float]]:
        """And the ms of CPU time a question."""
        before = running.cpu()
        answers = running.ask(self.questions(turn), self._clients)
        spent = zip(before, running.cpu(), strict=True)
        return answers, [(now - then) * 1000 / self._count for then, now in spent]

    def compare(self, running: Cluster, peer: Contender | None, rounds: int) -> None:
        seconds: Rates = {name: [] for name in ("files", "server")[: 2 if peer else 1]}
        seen: dict[str, list[list[float]]] = {name: [] for name in seconds}
        costs = []
        for turn in range(rounds):
            answered, cost = self.ask(running, turn)
            costs.append(cost)
            answers = {"files": answered}
            if peer:
                answers["server"] = peer(self.questions(turn))
            for name, each in answers.items():
                waits = [answer.first for answer in each]
                seconds[name].append(max(answer.ended for answer in each))
                seen[name].append([statistics.median(waits), max(waits), overtaken(each)])
        print(f"{self._count} prompts of {self._clients} clients, all answered")
        print(f"{'':10} prompts/s   wait p50, max (s)   overtaken")
        for name, times in seconds.items():
            rate = self._count / statistics.median(times)
            p50, most, by = (statistics.median(column) for column in zip(*seen[name], strict=True))
            print(f"{name:10} {rate:9.1f} {p50:11.2f} {most:7.2f} {by:11.0f}")
        if peer:
            print(f"server's time / files' time {1 / ratio(seconds, 'files', 'server'):.2f}")
        print_costs(costs)


def print_costs(costs: list[list[float]]) -> None:
    loop, others, orchestrator = (
        statistics.median(column) for column in zip(*costs, strict=True)
    )
    print(
        f"CPU a prompt: {loop:.2f} ms of the host's event loop, {others:.2f} of its other "
        f"threads, {orchestrator:.2f} of the orchestrator",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--idle", type=float, default=5, help="seconds")
    options = parser.parse_args()
    count = options.workers
    crowd = Crowd(count, options.clients, options.tokens)
    print("medians of", options.rounds, "rounds")
    measure_spawn(count, options.rounds)
    peer = Contender(server, SLOTS, N_CTX, clients=options.clients) if has_server() else None
    with cluster(SLOTS, N_CTX) as started:
        running = Cluster(*started)
        measure_memory(running, count)
        measure_idle(running, options.idle)
        crowd.compare(running, peer, options.rounds)
    if peer:
        peer.end()
    print("simulated model:")
    with cluster(SLOTS, N_CTX, "simulated") as started:
        running = Cluster(*started)
        running.spawn(count)
        crowd.compare(running, None, options.rounds)


if __name__ == "__main__":
    main()
