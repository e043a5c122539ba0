"""16 prompts that share a prefix of 1,000 tokens, asked at once: the time until all are answered.

Cold, nobody has seen the prefix before, which is another one each round; warm, the same
prefix comes again right afterwards, with other endings.  Contenders (see `contenders`):
`files` and `server` with N slots and their caches on, as they are by default, and `lock`,
which goes on from what its last prompt has in common with the next.

`cached` is the share of the prompts' tokens that usage (llama-server: its timings) says were
found cached.  Printed are medians over the rounds, and the medians of the rounds' ratios.

    python -m llambo9p_tools.bench.prefix [--rounds 5] [--clients 16] [--prefix 1000]
        [--tokens 16]
"""

from __future__ import annotations

import argparse
import statistics

from .contenders import files, has_server, lock, server
from .turns import NUMBER_TOKENS, Answer, Contender, Question, Rates, counting, ratio

N_CTX = 2048
TIMES = ("cold", "warm")


def questions(n: int, prefix: int, n_tokens: int, turn: int, time: int) -> list[Question]:
    shared = counting(1000 + 500 * turn, prefix // NUMBER_TOKENS)
    endings = [counting(100 + 50 * time + 7 * i, 4) for i in range(n)]
    return [Question(f"{shared}\n{ending}", n_tokens) for ending in endings]


def cached(answers: list[Answer]) -> float:
    found = sum(answer.cached_tokens for answer in answers)
    return found / sum(answer.prompt_tokens for answer in answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--prefix", type=int, default=1000, help="tokens that all share")
    parser.add_argument("--tokens", type=int, default=16)
    options = parser.parse_args()
    n = options.clients
    contenders = {"files": Contender(files, n, N_CTX), "lock": Contender(lock, N_CTX)}
    if has_server():
        contenders["server"] = Contender(server, n, N_CTX, caching=True)
    seconds: dict[str, Rates] = {time: {name: [] for name in contenders} for time in TIMES}
    hits: dict[str, Rates] = {time: {name: [] for name in contenders} for time in TIMES}
    for turn in range(options.rounds + 1):
        for name, contender in contenders.items():
            for number, time in enumerate(TIMES):
                asked = questions(n, options.prefix, options.tokens, turn, number)
                answers = contender(asked)
                if turn:
                    seconds[time][name].append(max(answer.ended for answer in answers))
                    hits[time][name].append(cached(answers))
    print("seconds, medians of", options.rounds, "rounds in turns")
    print("      ", *(f"{name:>8}   cached" for name in contenders), *(
        f"files/{name:6}" for name in contenders if name != "files"
    ))  # fmt: skip
    for time in TIMES:
        columns = []
        for name in contenders:
            share = f"{statistics.median(hits[time][name]):8.1%}" if name != "lock" else f"{'':8}"
            columns.append(f"{statistics.median(seconds[time][name]):8.2f} {share}")
        ratios = [ratio(seconds[time], "files", name) for name in contenders if name != "files"]
        print(f"{time:6}", *columns, *(f"{each:12.2f}" for each in ratios))
    for contender in contenders.values():
        contender.end()


if __name__ == "__main__":
    main()
