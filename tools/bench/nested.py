"""Three regions of 1,000 simulated workers each below one orchestrator, against an
orchestrator that has the same three hosts itself.

Conversations are cloned at the root of either, which take turns; all processes are there
all the time.  Prompts of one line are answered with 4 tokens, for prompts/s, and longer ones
with `--tokens`, for tokens/s.  The model takes no time, so what counts is the CPU time of
all processes, the clients' included; it is shown by kind of process, in ms a prompt.  The
first round warms up and does not count.

    python -m llambo9p_tools.bench.nested [--rounds 5] [--regions 3] [--workers 1000]
        [--prompts 1000] [--tokens 200] [--clients 50]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
from dataclasses import dataclass, field

import uvloop

from llambo9p.net.address import Address

from . import processes
from .contenders import CloneClient, ask_all, configure, listening, orchestrator, write_root
from .turns import Question, Rates, check, ratio

SLOTS = 32
N_CTX = 1024
FEW = 4
"""tokens of a short answer"""


@dataclass
class Root:
    """What is asked: where it is, and the processes that are not the other's, by kind."""

    at: Address
    pids: dict[str, list[int]]
    costs: list[dict[str, float]] = field(default_factory=list)
    """ms of CPU time of each kind a prompt, in each round"""

    def ask(self, questions: list[Question], clients: int) -> float:
        """Seconds until all are answered."""
        before = self._cpu()
        answers = uvloop.run(ask_all(questions, lambda: CloneClient(self.at), clients))
        check(questions, answers)
        spent = self._cpu()
        count = len(questions)
        self.costs.append({kind: (spent[kind] - before[kind]) * 1000 / count for kind in spent})
        return max(answer.ended for answer in answers)

    def _cpu(self) -> dict[str, float]:
        return {
            kind: sum(sum(processes.cpu(pid)) for pid in pids)
            for kind, pids in self.pids.items()
        }


class Processes(contextlib.ExitStack):
    """That end with the context."""

    def host(self, first: int, count: int) -> tuple[Address, int]:
        return self.enter_context(
            listening(
                "llambo9p_nodes.worker", "--listen", "tcp!127.0.0.1!0", "--exit-with-stdin",
                "--model", "simulated", "--first", str(first), "--count", str(count),
                "--slots", str(SLOTS), "--context", str(N_CTX),
            )
        )  # fmt: skip

    def orchestrator(self, mounts: list[str]) -> tuple[Address, int]:
        """One that has mounted them."""
        directory = self.enter_context(tempfile.TemporaryDirectory())
        configure(directory, SLOTS, N_CTX, "simulated")
        at, pid = self.enter_context(orchestrator(directory))
        for mount in mounts:
            uvloop.run(write_root(at, "ctl", f"mount {mount}"))
        return at, pid

    def roots(self, regions: int, workers: int) -> dict[str, Root]:
        hosts = [self.host(number * workers, workers) for number in range(regions)]
        level = self.orchestrator([f"{at}" for at, _ in hosts])
        below = [self.orchestrator([f"{at}"]) for at, _ in hosts]
        top = self.orchestrator([f"{at} region-{i}" for i, (at, _) in enumerate(below)])
        common = {"clients": [os.getpid()], "hosts": [pid for _, pid in hosts]}
        return {
            "one level": Root(level[0], {**common, "root": [level[1]], "regions": []}),
            "nested": Root(
                top[0], {**common, "root": [top[1]], "regions": [pid for _, pid in below]}
            ),
        }


def questions(which: str, count: int, n_tokens: int) -> list[Question]:
    """That no host has seen, as long as their answers: these repeat them, after a word."""
    return [
        Question(f"{number} {which} ".ljust(n_tokens, "."), n_tokens) for number in range(count)
    ]


def compare(
    roots: dict[str, Root], rounds: int, clients: int, count: int, n_tokens: int
) -> Rates:
    """Prompts/s of each root in each round."""
    rates: Rates = {name: [] for name in roots}
    for root in roots.values():
        root.costs.clear()
    for turn in range(rounds + 1):
        for name, root in roots.items():
            seconds = root.ask(questions(f"{turn} {name}", count, n_tokens), clients)
            if turn:
                rates[name].append(count / seconds)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--regions", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1000, help="of each region")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=200, help="of a long answer")
    parser.add_argument("--clients", type=int, default=50)
    options = parser.parse_args()
    print("medians of", options.rounds, "rounds")
    with Processes() as started:
        roots = started.roots(options.regions, options.workers)
        for n_tokens in (FEW, options.tokens):
            rates = compare(roots, options.rounds, options.clients, options.prompts, n_tokens)
            for name, root in roots.items():
                rate = statistics.median(rates[name])
                costs = ", ".join(
                    f"{kind} {statistics.median(cost[kind] for cost in root.costs[1:]):.2f}"
                    for kind, pids in root.pids.items() if pids
                )
                print(
                    f"{name:10} {n_tokens} tokens each: {rate:.0f} prompts/s, "
                    f"{rate * n_tokens:.0f} tokens/s; CPU ms a prompt: {costs}"
                )
            print(f"nested / one level {ratio(rates, 'nested', 'one level'):.2f}", flush=True)


if __name__ == "__main__":
    main()
