"""What answers that are held to grammars and schemas cost, themselves and their neighbours.

`files` has N slots; each round asks it, one after the other and always N at once:
- free:    N prompts without any constraint;
- costly:  N - 1 free ones beside one that is held to a costly grammar;
- half:    N / 2 free ones beside as many that are held to schemas;
- schemas: N that are held to schemas, of which each is new to the server.
For `costly` and `half` the tokens/s of the free answers are divided by those of the same
prompts in `free`; for `schemas` all tokens/s, and objects/s, by llama-server's.

    python -m llambo9p_tools.bench.structured [--rounds 5] [--tokens 96] [--clients 16]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .contenders import files, has_server, server
from .turns import N_CTX, Answer, Contender, Question, counting, prompts

COSTLY = 'root ::= ([a-z]{0,20} " "?){0,50} "."'
"""which stopped the decode thread for minutes when llama.cpp's sampler followed it"""


def schema(number: int) -> str:
    """Of an object that has about 60 tokens, each time another one."""
    properties: dict[str, Any] = {
        "name": {"type": "string", "maxLength": 40},
        f"key_{number}": {"type": "integer", "minimum": 1, "maximum": 99_999},
        "kind": {"enum": ["river", "mountain", "city"]},
        "values": {
            "type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 999},
            "minItems": 8, "maxItems": 8,
        },
        "note": {"type": "string", "minLength": 20, "maxLength": 60},
    }  # fmt: skip
    return json.dumps(
        {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    )


def rate(answers: Sequence[Answer]) -> float:
    """Tokens a second, until the last of these answers has ended."""
    return sum(a.tokens for a in answers) / max(a.ended for a in answers)


class Rounds:
    """The figures of all rounds, by name."""

    def __init__(self, n: int, tokens: int) -> None:
        self.figures: dict[str, list[float]] = {}
        self._n = n
        self._tokens = tokens
        self._asked = 0

    def _prompts(self, count: int) -> list[str]:
        """Other ones than before."""
        self._asked += 1
        return prompts(self._n, self._asked)[:count]

    def _free(self, count: int) -> list[Question]:
        return [Question(text, self._tokens) for text in self._prompts(count)]

    def _objects(self, count: int, number: int) -> list[Question]:
        return [
            Question(text, 4 * self._tokens, held_to=("schema", schema(number + i)))
            for i, text in enumerate(self._prompts(count))
        ]

    def note(self, name: str, figure: float) -> None:
        self.figures.setdefault(name, []).append(figure)

    def neighbours(self, ours: Contender) -> None:
        n, half = self._n, self._n // 2
        alone = ours(self._free(n))
        self.note("free", rate(alone))
        costly = Question(self._prompts(1)[0], self._tokens, held_to=("grammar", COSTLY))
        beside = ours([*self._free(n - 1), costly])[: n - 1]
        self.note("costly/free", rate(beside) / rate(alone[: n - 1]))
        beside = ours([*self._free(half), *self._objects(half, 1_000 * self._asked)])[:half]
        self.note("half/free", rate(beside) / rate(alone[:half]))

    def schemas(self, ours: Contender, theirs: Contender | None) -> None:
        questions = self._objects(self._n, 1_000 * self._asked)
        answers = {"files": ours(questions)}
        if theirs is not None:
            answers["server"] = theirs(questions)
        for name, answered in answers.items():
            ended = max(answer.ended for answer in answered)
            self.note(f"{name} tokens/s", rate(answered))
            self.note(f"{name} objects/s", len(answered) / ended)
        if theirs is not None:
            for what in ("tokens/s", "objects/s"):
                ours_, theirs_ = (self.figures[f"{name} {what}"][-1] for name in answers)
                self.note(f"files/server {what}", ours_ / theirs_)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    starts: dict[str, Callable[[], Contender]] = {
        "files": partial(Contender, files, options.clients, N_CTX)
    }
    if has_server():
        starts["server"] = partial(Contender, server, options.clients, N_CTX)
    rounds = Rounds(options.clients, options.tokens)
    for _ in range(options.rounds):
        contenders = {name: start() for name, start in starts.items()}
        for contender in contenders.values():
            contender([Question(counting(9_000, 4), 1)] * options.clients)
        rounds.neighbours(contenders["files"])
        rounds.schemas(contenders["files"], contenders.get("server"))
        for contender in contenders.values():
            contender.end()
    print("medians of", options.rounds, "rounds,", options.clients, "clients")
    for name, figures in rounds.figures.items():
        low, high = min(figures), max(figures)
        print(f"{name:24} {statistics.median(figures):8.2f}  ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
