"""How long the first token takes, and how long a running answer waits for a long prompt.

First the time to first token of N = 16 clients and the time until all are answered, when
they ask at once, and when one comes every 100 ms and finds the others' answers running.
The prompts have about `--prompt` tokens and no long prefix in common.  The time is from
before a client connects until the first part of the text is read.  Contenders (see
`contenders`): `files`, `through`, `root` and `server`, with N slots.

Then the stall: while an answer is read, a second client asks with a prompt of 4,000 tokens,
in a context of 8,192.  The time between tokens is that between two arrivals at a blocking
read of `out`, or two events of llama-server's stream, from the moment the long prompt is
asked until its own first token is there; that time is the last column.  Contenders:
`files` and `server`, with 4 slots.

Percentiles are of one round, so that p99 of 16 is the slowest; what is printed are medians
over the rounds, and the medians of the rounds' ratios to llama-server.

    python -m llambo9p_tools.bench.latency [--rounds 5] [--clients 16] [--tokens 64]
        [--prompt 64] [--long 4000] [--running 800]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable

from .contenders import files, has_server, root, server, through
from .turns import (
    N_CTX,
    NUMBER_TOKENS,
    Answer,
    Contender,
    Question,
    Rates,
    counting,
    percentile,
    ratio,
)

STAGGER_S = 0.1
LONG_CTX = 8192
LONG_SLOTS = 4
LONG_AFTER_S = 0.3

Figures = dict[str, float]
"""of one contender in one round, by their names"""


def crowd(n: int, n_tokens: int, prompt: int, stagger: float) -> Callable[[int], list[Question]]:
    """The questions of a round, by its number."""
    count = prompt // NUMBER_TOKENS
    return lambda turn: [
        Question(counting(1000 + 97 * (turn * n + i) % 8000, count), n_tokens, i * stagger)
        for i in range(n)
    ]


def crowd_figures(answers: list[Answer]) -> Figures:
    first = [answer.first * 1000 for answer in answers]
    return {
        "first p50": percentile(first, 50),
        "first p99": percentile(first, 99),
        "all": max(answer.ended for answer in answers) * 1000,
    }


def stall(running: int, long: int) -> Callable[[int], list[Question]]:
    """An answer of `running` tokens, and the long prompt."""
    return lambda turn: [
        Question(counting(1000 + 97 * turn, 4), running),
        Question(counting(2000 + 97 * turn, long // NUMBER_TOKENS), 1, LONG_AFTER_S),
    ]


def stall_figures(answers: list[Answer]) -> Figures:
    """SystemExit when the running answer ended too early to be in the way."""
    running, long = answers
    if running.ended < long.arrivals[0]:
        raise SystemExit("the running answer ended before the long prompt was read: more --running")
    gaps = [
        (b - a) * 1000
        for a, b in itertools.pairwise(running.arrivals)
        if b > long.asked and a < long.arrivals[0]
    ]
    return {
        "gap p50": percentile(gaps, 50),
        "gap p99": percentile(gaps, 99),
        "gap max": max(gaps),
        "long first": long.first * 1000,
    }


def compare(
    title: str,
    contenders: dict[str, Contender],
    rounds: int,
    questions: Callable[[int], list[Question]],
    figures: Callable[[list[Answer]], Figures],
) -> None:
    """Rounds in turns, after a warm-up, and a line for each contender."""
    seen: dict[str, Rates] = {}
    """by figure, then as `ratio` wants it"""
    for turn in range(rounds + 1):
        asked = questions(turn)
        for name, contender in contenders.items():
            answers = contender(asked)
            if turn:
                for figure, value in figures(answers).items():
                    seen.setdefault(figure, {}).setdefault(name, []).append(value)
    print(f"{title}, ms" + ", and / server" * ("server" in contenders))
    print(f"{'':8}", *(f"{figure:>16}" for figure in seen))
    for name in contenders:
        columns = []
        for rates in seen.values():
            against = f"{ratio(rates, name, 'server'):5.2f}" if "server" in rates else ""
            columns.append(f"{statistics.median(rates[name]):10.1f} {against:5}")
        print(f"{name:8}", *columns, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--long", type=int, default=4000, help="tokens of the long prompt")
    parser.add_argument("--running", type=int, default=800, help="tokens of the running answer")
    options = parser.parse_args()
    n, rounds = options.clients, options.rounds
    there = has_server()

    contenders = {
        "files": Contender(files, n, N_CTX),
        "through": Contender(through, n, N_CTX),
        "root": Contender(root, n, N_CTX),
    }
    if there:
        contenders["server"] = Contender(server, n, N_CTX)
    print("medians of", rounds, "rounds in turns")
    for title, stagger in (("at once", 0.0), (f"one every {STAGGER_S} s", STAGGER_S)):
        asked = crowd(n, options.tokens, options.prompt, stagger)
        compare(f"{n} clients {title}", contenders, rounds, asked, crowd_figures)
    for contender in contenders.values():
        contender.end()

    contenders = {"files": Contender(files, LONG_SLOTS, LONG_CTX)}
    if there:
        contenders["server"] = Contender(server, LONG_SLOTS, LONG_CTX)
    asked = stall(options.running, options.long)
    title = f"an answer runs while a prompt of {options.long} tokens comes"
    compare(title, contenders, rounds, asked, stall_figures)
    for contender in contenders.values():
        contender.end()


if __name__ == "__main__":
    main()
