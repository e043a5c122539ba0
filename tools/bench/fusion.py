"""How often the bundled model is right about small tasks: by one answer, and by N answers fused.

The tasks' questions and right answers are made from a seed.  Each question is answered
greedily once, and N times with a temperature and distinct seeds; the same N answers are fused
by every strategy (`llambo9p.cluster.fusion`), and for `aggregate` the model is asked once
more, with the same temperature.  Printed are the shares that are right, in percent:

- greedy:  the one answer at temperature 0;
- one:     the mean over the N sampled answers;
- a strategy: the fused answer; where none can be made, that is wrong.  A weighted average is
  rounded to a whole number, and there is none of yes and no;
- any:     at least one of the N is right, which no choice among them can beat.

An answer is right if `extract` finds the right one in it.

    python -m llambo9p_tools.bench.fusion [--questions 20] [--n 5] [--temperature 0.7]
        [--max-tokens 32] [--seed 1]
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llambo9p import Context, InferenceRequest, InferenceResponse, Model
from llambo9p.cluster.fusion import STRATEGIES, aggregation_prompt, extract, fuse
from llambo9p.engine import gguf
from llambo9p.errors import NoConsensus

from .turns import THREADS

AGGREGATE, AVERAGE = "aggregate", "weighted-average"
N_CTX = 512
N_SEQ = 16


@dataclass(frozen=True, slots=True)
class Task:
    text: str
    right: str


def adding(rng: random.Random) -> Task:
    a, b = rng.randint(2, 30), rng.randint(2, 30)
    return Task(f"What is {a} + {b}? Answer with a number only.", str(a + b))


def taking_away(rng: random.Random) -> Task:
    b, c = rng.randint(1, 12), rng.randint(1, 12)
    text = f"Tom has {b + c} apples and eats {b}. How many are left? Answer with a number only."
    return Task(text, str(c))


def comparing(rng: random.Random) -> Task:
    a, b = rng.sample(range(2, 100), 2)
    return Task(f"Is {a} greater than {b}? Answer yes or no.", "yes" if a > b else "no")


TASKS: dict[str, Callable[[random.Random], Task]] = {
    "adding": adding,
    "taking away": taking_away,
    "comparing": comparing,
}


def fused_text(responses: Sequence[InferenceResponse], strategy: str) -> str:
    """The fused answer, a weighted average rounded; empty when there is none."""
    try:
        fused = fuse(responses, strategy)
    except NoConsensus:
        return ""
    return f"{float(fused.text):.0f}" if strategy == AVERAGE else fused.text


def percent(texts: Sequence[str], tasks: Sequence[Task]) -> float:
    """How many are right."""
    right = [extract(text) == task.right for text, task in zip(texts, tasks, strict=True)]
    return 100 * statistics.mean(right)


class Asker:
    def __init__(self, ctx: Context, options: argparse.Namespace) -> None:
        self._ctx = ctx
        self._n: int = options.n
        self._base = InferenceRequest(
            max_tokens=options.max_tokens, temperature=options.temperature, logprobs=True
        )

    def measure(self, tasks: Sequence[Task], seed: int) -> dict[str, float]:
        """The columns of a line; `seed` is that of the first answer."""
        n = self._n
        asked = [
            replace(self._base, prompt=task.text, seed=seed + n * i + k)
            for i, task in enumerate(tasks)
            for k in range(n)
        ]
        greedy = [replace(self._base, prompt=task.text, temperature=0) for task in tasks]
        answers = self._ctx.infer_all([*asked, *greedy])
        columns = {"greedy": percent([answer.text for answer in answers[len(asked) :]], tasks)}
        samples = [answers[i * n : (i + 1) * n] for i in range(len(tasks))]
        texts = [[response.text for response in each] for each in samples]
        columns["one"] = statistics.mean(
            percent([each[k] for each in texts], tasks) for k in range(n)
        )
        for strategy in STRATEGIES:
            if strategy == AGGREGATE:
                fused = self._aggregate(tasks, texts, seed)
            elif strategy == AVERAGE and not tasks[0].right.isdigit():
                continue
            else:
                fused = [fused_text(each, strategy) for each in samples]
            columns[strategy] = percent(fused, tasks)
        best = [
            next((text for text in each if extract(text) == task.right), "")
            for each, task in zip(texts, tasks, strict=True)
        ]
        return {**columns, "any": percent(best, tasks)}

    def _aggregate(
        self, tasks: Sequence[Task], texts: Sequence[Sequence[str]], seed: int
    ) -> list[str]:
        asked = [
            replace(self._base, prompt=aggregation_prompt(task.text, drafts), seed=seed + i)
            for i, (task, drafts) in enumerate(zip(tasks, texts, strict=True))
        ]
        return [response.text for response in self._ctx.infer_all(asked)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--questions", type=int, default=20, help="of each task")
    parser.add_argument("--n", type=int, default=5, help="answers to fuse")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    names = ["greedy", "one", *STRATEGIES, "any"]
    print(f"% right, of {options.questions} questions each, {options.n} answers to a question at "
          f"temperature {options.temperature:g}")  # fmt: skip
    print(f"{'':12}", *names)
    lines: list[dict[str, float]] = []
    with (
        Model.load(gguf.default_model()) as model,
        Context(model, N_CTX, N_CTX, THREADS, n_seq=N_SEQ) as ctx,
    ):
        asker = Asker(ctx, options)
        for number, (name, make) in enumerate(TASKS.items()):
            rng = random.Random(f"{name} {options.seed}")
            tasks = [make(rng) for _ in range(options.questions)]
            lines.append(asker.measure(tasks, 1_000_000 * options.seed + 100_000 * number))
            show(name, names, lines[-1])
    show("all", names, {
        column: statistics.mean(line[column] for line in lines)
        for column in names if all(column in line for line in lines)
    })  # fmt: skip
    error = 100 * math.sqrt(0.25 / (options.questions * len(TASKS)))
    print(f"standard error of a share of all: at most {error:.1f}")


def show(name: str, names: Sequence[str], line: dict[str, float]) -> None:
    cells = (f"{line[column]:{len(column)}.0f}" if column in line else f"{'-':>{len(column)}}"
             for column in names)  # fmt: skip
    print(f"{name:12}", *cells, flush=True)


if __name__ == "__main__":
    main()
