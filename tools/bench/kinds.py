"""A chat of ten turns and a shared prefix, on a model of any kind: what is read again, how fast.

For models that forget, as those with sliding windows and hybrids do, of which a server has to go
back to checkpoints.  Contenders (see `contenders`): `files` and `server`, each with its caches on.

- chat: each turn is the text before, 8 tokens that are not those that were answered, as another
  client's memory of the chat may have it, and a question of about 60 tokens;
- prefix: 8 prompts that share 1,000 tokens, asked one after the other.

`again` is the share of what was there already, of the turn or prompt before, that was read once
more.  Printed are medians over the rounds, and the medians of the rounds' ratios.

    python -m llambo9p_tools.bench.kinds --model PATH [--rounds 5] [--seed 0]

A model of random weights may end an answer before it has 4 tokens, and so the bench; then take
another seed.  Models of every kind: `LLAMBO_ZOO_SCALE=16 python -m tests.zoo gemma3 PATH`.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator

from .contenders import files, has_server, server
from .turns import Answer, Contender, Question, Rates, ratio

N_CTX = 2048
TURNS = 10
PROMPTS = 8
TOKENS = 4
"""of an answer: a model of random weights ends many early"""
WORDS = "name a list red green blue city its age the of and one two three river town".split()


def words(count: int, rng: random.Random) -> str:
    return " " + " ".join(rng.choices(WORDS, k=count))


def chat(rng: random.Random) -> Iterator[str]:
    text = words(40, rng)
    for _ in range(TURNS):
        yield text
        text += words(4, rng) + words(30, rng)


def prefix(rng: random.Random) -> Iterator[str]:
    shared = words(500, rng)
    for _ in range(PROMPTS):
        yield shared + words(8, rng)


TASKS = {"chat": chat, "prefix": prefix}


def again(answers: list[Answer], task: str) -> float:
    """Of the tokens that were there, the share that was read once more."""
    there = found = 0
    for before, answer in zip(answers, answers[1:], strict=False):
        held = before.prompt_tokens if task == "chat" else answer.prompt_tokens - 20
        there += held
        found += min(answer.cached_tokens, held)
    return 1 - found / there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    contenders = {"files": Contender(files, 2, N_CTX, options.model)}
    if has_server():
        contenders["server"] = Contender(server, 2, N_CTX, options.model, caching=True)
    print("seconds, medians of", options.rounds, "rounds in turns")
    print("      ", *(f"{name:>8}    again" for name in contenders), "files/server")
    for task, texts in TASKS.items():
        seconds: Rates = {name: [] for name in contenders}
        shares: Rates = {name: [] for name in contenders}
        for turn in range(options.rounds + 1):
            for name, contender in contenders.items():
                rng = random.Random(100 * options.seed + turn)
                answers = [contender([Question(text, TOKENS)])[0] for text in texts(rng)]
                if turn:
                    seconds[name].append(sum(answer.ended for answer in answers))
                    shares[name].append(again(answers, task))
        columns = [
            f"{statistics.median(seconds[name]):8.2f} {statistics.median(shares[name]):8.1%}"
            for name in contenders
        ]
        ratios = [
            f"{ratio(seconds, 'files', name):12.2f}" for name in contenders if name != "files"
        ]
        print(f"{task:6}", *columns, *ratios)
    for contender in contenders.values():
        contender.end()


if __name__ == "__main__":
    main()
