"""The balancer's strategies, compared on hosts of which the slowest takes 8 times as long
as the fastest (see `hosts`), with prompts of which four in five are short.

Prompts come as a Poisson process, whether those before are answered or not, each to a
conversation of its own, cloned at the root.  A short one has about 100 tokens and 10 to 60 of
answer; a long one begins with one of `DOCUMENTS` documents of 1,024, goes on for 1,000 more,
and is answered with 100 to 300.  The strategies take turns: in a round all get prompts of the
same lengths at the same times, but with texts of their own, for what hosts have in their
KV caches stays there.  Printed are the medians over the rounds, of seconds from a prompt's
connection to the end of its answer, and how many were answered in a second.

(What 1,000 workers take is in `workers`, what 10,000 do in `simulated`.)

    python -m llambo9p_tools.bench.cluster [--rounds 3] [--prompts 140] [--rate 14]
        [--slowness 1,1,2,2,4,4,8,8]
"""

from __future__ import annotations

import argparse
import random
import statistics

import uvloop

from llambo9p.cluster.strategies import BUILT_IN
from llambo9p.net.address import Address

from .contenders import CloneClient, ask_all, cluster, write_root
from .hosts import N_CTX, SLOTS, simulated_hosts
from .turns import Question, check, percentile

DOCUMENTS = 8
MAX_TOKENS = 300
SHORT = 0.8
"""the share of short prompts"""


def questions(turn: int, strategy: str, count: int, rate: float) -> list[Question]:
    """Those of a round.  `rate` is how many come in a second, as a mean."""
    rng = random.Random(turn)
    asked = []
    after = 0.0
    for number in range(count):
        after += rng.expovariate(rate)
        whose = f"{turn} {strategy}"
        if rng.random() < SHORT:
            text = f"{whose} {number} ".ljust(100, ".")
            length = rng.randint(10, 60)
        else:
            document = f"{whose} {rng.randrange(DOCUMENTS)} document ".ljust(1024, ".")
            text = document + f"{number} ".ljust(1000, ".")
            length = rng.randint(100, MAX_TOKENS)
        asked.append(Question(f"{text} {length}", length, after, MAX_TOKENS))
    return asked


def ask(at: Address, asked: list[Question]) -> list[float]:
    """Figures of a round: p50 and p99 of all prompts, p99 of the short ones, and the rate."""
    answers = check(asked, uvloop.run(ask_all(asked, lambda: CloneClient(at))))
    seconds = [answer.ended - answer.asked for answer in answers]
    short = [
        took for question, took in zip(asked, seconds, strict=True) if len(question.text) < 1000
    ]
    return [
        percentile(seconds, 50),
        percentile(seconds, 99),
        percentile(short or seconds, 99),
        len(asked) / max(answer.ended for answer in answers),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=140)
    parser.add_argument("--rate", type=float, default=14, help="prompts that come in a second")
    parser.add_argument("--slowness", default="1,1,2,2,4,4,8,8", help="of each host")
    options = parser.parse_args()
    slowness = [float(word) for word in options.slowness.split(",")]
    seen: dict[str, list[list[float]]] = {name: [] for name in BUILT_IN}
    with (
        simulated_hosts(slowness) as hosts,
        cluster(SLOTS, N_CTX, "simulated") as (at, _),
    ):
        for host in hosts:
            uvloop.run(write_root(at, "ctl", f"mount {host}"))
        for turn in range(options.rounds):
            for strategy in BUILT_IN:
                uvloop.run(write_root(at, "balancer", strategy))
                asked = questions(turn, strategy, options.prompts, options.rate)
                seen[strategy].append(ask(at, asked))
    print("medians of", options.rounds, "rounds; s")
    print(f"{'':14} {'p50':>7} {'p99':>7} {'p99 of short':>13} {'prompts/s':>10}")
    for strategy, rounds in seen.items():
        p50, p99, short, rate = (
            statistics.median(column) for column in zip(*rounds, strict=True)
        )
        print(f"{strategy:14} {p50:7.2f} {p99:7.2f} {short:13.2f} {rate:10.1f}")


if __name__ == "__main__":
    main()
