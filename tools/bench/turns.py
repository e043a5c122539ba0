"""The contenders of a bench, and how they take turns.

A contender answers questions, all that it is given at once.  It lives in a process of its
own, with what it starts, and is idle while another is measured: in one process libgomp
sees two teams of threads, more than CPUs, and both wait at barriers asleep (measured: a
third slower).

All contenders of a round get the same questions, and other ones than in the rounds before.
A first one, before it is measured, warms up and does not count.
"""

from __future__ import annotations

import atexit
import math
import multiprocessing
import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection

N_CTX = 512
THREADS = len(os.sched_getaffinity(0))
NUMBER_TOKENS = 6
"""that a number of four digits has in `counting`"""


@dataclass(frozen=True, slots=True)
class Question:
    """To be continued greedily."""

    text: str
    n_tokens: int
    after: float = 0.0
    """seconds from the start of the round until it is asked"""
    max_tokens: int = 0
    """more than `n_tokens` where the answer ends by itself; 0 for as many"""
    held_to: tuple[str, str] | None = None
    """`grammar`, `schema` or `regex` and its text; the answer may then end before `n_tokens`"""


@dataclass(slots=True)
class Answer:
    """Times are in seconds from the start of the round."""

    asked: float
    """when its client began, which may have had to connect first"""
    ended: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    """when a part of the text came; none from a contender that gives it whole"""
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def first(self) -> float:
        """Seconds that the first part of the text took."""
        return self.arrivals[0] - self.asked


Answering = Callable[[list[Question]], list[Answer]]
Rates = dict[str, list[float]]
"""of each contender, one each round"""


class Contender:
    """Calls what the context manager `start(*args, **options)` gives, in another process."""

    def __init__(
        self,
        start: Callable[..., AbstractContextManager[Answering]],
        *args: object,
        **options: object,
    ) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        started = partial(start, *args, **options)
        self._process = spawn.Process(target=_serve, args=(theirs, started))
        self._process.start()
        theirs.close()
        # a bench that fails ends, too: multiprocessing waits for its processes, at exit
        atexit.register(self._pipe.close)

    def __call__(self, questions: list[Question]) -> list[Answer]:
        """SystemExit when the process is gone; see also `check`."""
        try:
            self._pipe.send(questions)
            answers: list[Answer] = self._pipe.recv()
        except (EOFError, OSError):
            raise SystemExit("a contender ended") from None
        return check(questions, answers)

    def end(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, start: Callable[[], AbstractContextManager[Answering]]) -> None:
    with start() as answer:
        try:
            while True:
                pipe.send(answer(pipe.recv()))
        except (EOFError, KeyboardInterrupt):
            pass


def check(questions: list[Question], answers: list[Answer]) -> list[Answer]:
    """The answers, or SystemExit when one is shorter than was asked for: then times would
    not compare."""
    for question, answer in zip(questions, answers, strict=True):
        if answer.tokens != question.n_tokens and question.held_to is None:
            raise SystemExit(f"{answer.tokens} tokens for {question}")
    return answers


def counting(first: int, count: int) -> str:
    """A model that was given numbers counts on: no answer ends early.  If some did, the
    engine would keep its running sequences dense and a bare loop would not (llama.cpp
    batches only consecutive ones), which is another measurement.

    The bundled model has a token for each digit, comma and space, see `NUMBER_TOKENS`.
    """
    return ", ".join(str(first + k) for k in range(count)) + ","


def prompts(n: int, turn: int) -> list[str]:
    """N prompts that share no long prefix, other ones each turn: nothing is cached."""
    return [counting(97 * (turn * n + i), 4) for i in range(n)]


def measure(
    starts: dict[str, Callable[[], Contender]], sizes: Sequence[int], rounds: int, n_tokens: int
) -> dict[int, Rates]:
    """Tokens a second of each contender in each round, by N: so many questions at once.

    Each round has processes of its own: where its memory happens to lie makes one faster than
    another, by up to 3 % for as long as it lives (measured).
    """
    rates: dict[int, Rates] = {n: {name: [] for name in starts} for n in sizes}
    for turn in range(1, rounds + 1):  # at 0 all sizes would begin with the same prompts
        contenders = {name: start() for name, start in starts.items()}
        for contender in contenders.values():
            contender([Question(text, 1) for text in prompts(max(sizes), rounds + 1)])
        for n in sizes:
            questions = [Question(text, n_tokens) for text in prompts(n, turn)]
            for name, contender in contenders.items():
                seconds = max(answer.ended for answer in contender(questions))
                rates[n][name].append(n * n_tokens / seconds)
        for contender in contenders.values():
            contender.end()
    return rates


def print_table(
    title: str, rates: dict[int, Rates], ratios: Sequence[tuple[str, str]], digits: int = 2
) -> None:
    """A line for each N: the medians of the contenders, and of their ratios."""
    names = next(iter(rates.values()))
    heads = [f"{ours}/{theirs}" for ours, theirs in ratios]
    print(f"{title:9}", *(f"{name:>8}" for name in names), *(f"{head:>13}" for head in heads))
    for n, of in rates.items():
        medians = [f"{statistics.median(of[name]):8.1f}" for name in names]
        columns = [f"{ratio(of, ours, theirs):13.{digits}f}" for ours, theirs in ratios]
        print(f"{n:9}", *medians, *columns)


def percentile(values: list[float], percent: int) -> float:
    """The value that so many percent do not exceed."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def ratio(rates: Rates, ours: str, theirs: str) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(rates[ours], rates[theirs], strict=True))
