"""Asking one runner in every way that the cache can be used, and once without any re-use.

Owns a host for tests: a scheduler over a real runner, without a thread, and what became of its
requests.  `Answer`s are equal when their tokens are, and the logits of each, bit by bit: the
logarithms of the likeliest tokens' probabilities depend on all of them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path

from llambo9p.engine.base import Request, SamplingParams, Token, Usage
from llambo9p.engine.llama import LlamaRunner
from llambo9p.engine.llama_model import LlamaModel
from llambo9p.engine.runner import DecodeError, Prompt
from llambo9p.engine.scheduler import Failed, Finished, Scheduler, Tokens
from tests.engine.harness import prepared

RAM = 1 << 28
WORDS = (
    "name a list red green blue city its age the of and one two three river town beside them"
).split()


def words(count: int, seed: int) -> str:
    """So many of them, the same for the same seed."""
    return " ".join(random.Random(seed).choices(WORDS, k=count))


@dataclass(frozen=True)
class Answer:
    tokens: tuple[int, ...]
    likeliest: tuple[tuple[float, ...], ...]
    usage: Usage = field(compare=False)

    def text(self, runner: LlamaRunner) -> str:
        return b"".join(map(runner.piece, self.tokens)).decode(errors="replace")


class Host:
    """The scheduler of a runner, whose sequences are empty now."""

    def __init__(self, runner: LlamaRunner, ram: int = RAM) -> None:
        self._runner = runner
        runner._sequences.clear()
        self.scheduler = Scheduler(
            runner, n_seq=runner.n_seq, n_ctx=runner.n_ctx, prefill_chunk=runner.prefill_chunk,
            stall=None, cache_ram=ram, sizes=runner.sizes, retention=runner.retention,
            max_queue=1000,
        )  # fmt: skip
        self.now = 0.0
        self.tokens: dict[Request, list[Token]] = defaultdict(list)
        self.ended: dict[Request, Usage | Exception] = {}

    def submit(
        self,
        prompt: Prompt,
        *,
        conversation: Hashable = None,
        user: str = "",
        max_tokens: int = 12,
        answer: tuple[int, ...] = (),
        **params: object,
    ) -> Request:
        asked = SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=3, **params)
        request = Request(prompt, asked, conversation=conversation, user=user, answer=answer)
        self.scheduler.submit(prepared(request, self._runner), self.now)
        return request

    def ask(self, prompt: Prompt, **options: object) -> Answer:
        request = self.submit(prompt, **options)
        self.run()
        return self.answer(request)

    def step(self) -> None:
        plan = self.scheduler.plan(self.now)
        self.now += 0.5
        if plan is not None:
            try:
                sampled = self._runner.run(plan.step)
            except DecodeError as error:
                self.scheduler.abort(plan, error)
            else:
                self.scheduler.commit(plan, sampled, self.now, 0.5)
        for event in self.scheduler.events():
            match event:
                case Tokens(request, _, tokens):
                    self.tokens[request] += tokens
                case Finished(request, usage):
                    self.ended[request] = usage
                case Failed(request, error):
                    self.ended[request] = error

    def run(self) -> None:
        while not self.scheduler.idle:
            self.step()

    def answer(self, request: Request) -> Answer:
        """Raises what the request failed with."""
        usage = self.ended[request]
        if isinstance(usage, Exception):
            raise usage
        tokens = self.tokens[request]
        # what was given has no probabilities
        likeliest = [
            tuple(each.logprob for each in token.logprobs.top)
            for token in tokens
            if token.logprobs is not None
        ]
        return Answer(tuple(token.id for token in tokens), tuple(likeliest), usage)


class Battery:
    """A runner of four sequences; and `alone`, the reference: a host of another, that never
    re-uses anything and serves nobody else."""

    def __init__(self, path: Path, n_ctx: int) -> None:
        self._model = LlamaModel(path)
        self._model.load(lambda fraction: True)
        self.runner, self._reference = (
            LlamaRunner(self._model, n_ctx=n_ctx, n_seq=n_seq, n_threads=2, prefill_chunk=64)
            for n_seq in (4, 1)
        )
        for runner in (self.runner, self._reference):
            runner.load(lambda fraction: True)
        self._alone: dict[object, Answer] = {}

    def close(self) -> None:
        self.runner.close()
        self._reference.close()
        self._model.close()

    def host(self, ram: int = RAM) -> Host:
        return Host(self.runner, ram)

    def alone(self, prompt: Prompt, **options: object) -> Answer:
        key = prompt, tuple(sorted(options.items()))
        if key not in self._alone:
            self._alone[key] = Host(self._reference, 0).ask(prompt, **options)
        return self._alone[key]
