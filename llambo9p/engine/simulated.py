"""A scripted, deterministic `Runner`: no model, no llama.cpp, its own idea of time.

For tests and for scale experiments; it says "simulated" in its `ModelInfo` and is
never a default.  One token is one byte, so an answer may stop within a character.

Rules it keeps:
- It holds real cells: every row must continue its sequence, and a token is sampled
  only if the cells are the prompt and the answer so far.  A scheduler that errs about
  a position, a copy or a slot fails an assertion here, which kills the decode thread.
- An answer depends on the rendered prompt only.
- A step takes `base + per_row * rows + per_prefill * (rows - outputs)` seconds, spent
  in `sleep`, which a test replaces.

It must never sleep by itself, nor use a random number.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llambo9p import errors
from llambo9p.engine.base import Alternative, Logprobs, ModelInfo
from llambo9p.engine.retention import Attention, Sizes
from llambo9p.engine.runner import (
    Copy,
    DecodeError,
    Embedding,
    Op,
    Prepared,
    Prompt,
    Remove,
    Restore,
    Save,
    Step,
)

EOG = 256
ROLE_TOKENS = {"system": 257, "user": 258, "assistant": 259}
"""a message is its role's token, its bytes, and EOG"""
N_VOCAB = 260
KEPT_STEPS = 1_000
"""that a runner remembers, for tests"""


def echo(prompt: str) -> bytes:
    """The default script: the last line of the prompt comes back."""
    return b"simulated: " + prompt.rsplit("\n", 1)[-1].encode()


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that a step takes."""

    base: float = 0.0
    per_row: float = 0.0
    per_prefill: float = 0.0

    def of(self, step: Step) -> float:
        rows = len(step.token)
        prefill = rows - len(step.outputs)
        return self.base + self.per_row * rows + self.per_prefill * prefill


class Gate:
    """Steps that wait for a test's permission.

    `entered()` blocks until a step has begun; `allow()` lets one step go on, `step()` the one
    that waits, if one does, and `open()` all from now on.
    """

    def __init__(self) -> None:
        self._begun = threading.Semaphore(0)
        self._allowed = threading.Semaphore(0)
        self._open = False

    def entered(self, timeout: float | None = None) -> bool:
        """Whether a step has begun within `timeout` seconds."""
        return self._begun.acquire(timeout=timeout)

    def allow(self) -> None:
        self._allowed.release()

    def step(self) -> None:
        if self.entered(0):
            self.allow()

    def open(self) -> None:
        self._open = True
        self._allowed.release()

    def wait(self) -> None:
        """Called by the step."""
        if not self._open:
            self._begun.release()
            self._allowed.acquire()


class Script:
    """The sampler of one request: what it will answer, and how far it is."""

    def __init__(self, prompt: Sequence[int], answer: bytes) -> None:
        self.expected = list(prompt)
        """what the cells must be when the next token is sampled"""
        self._answer = list(answer)

    def next(self) -> int:
        token = self._answer.pop(0) if self._answer else EOG
        self.expected.append(token)
        return token


class SimulatedRunner:
    """See the module.  `answer` maps the rendered prompt to the answer's bytes.

    `poison`: a step with cells that spell these bytes fails, as long as it has any.
    `load_error`: what `load` raises.
    """

    def __init__(
        self,
        *,
        n_ctx: int = 4096,
        n_seq: int = 16,
        prefill_chunk: int = 64,
        answer: Callable[[str], bytes] = echo,
        latency: Latency | None = None,
        sleep: Callable[[float], None] | None = None,
        gate: Gate | None = None,
        poison: bytes = b"",
        load_error: Exception | None = None,
    ) -> None:
        self.n_ctx = n_ctx
        self.n_seq = n_seq
        self.prefill_chunk = prefill_chunk
        self.cells: list[list[int]] = [[] for _ in range(n_seq)]
        self.steps: deque[Step] = deque(maxlen=KEPT_STEPS)
        """the newest steps that were run, the failed ones too"""
        self.closed = False
        self.wake: Callable[[], None] = lambda: None
        self._answer = answer
        self._latency = latency or Latency()
        self._sleep = sleep
        self._gate = gate
        self._poison = list(poison)
        self._load_error = load_error

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            name="simulated",
            path="",
            size=0,
            n_params=0,
            n_ctx_train=self.n_ctx,
            n_vocab=N_VOCAB,
            description="simulated: scripted answers, no model",
            has_chat_template=True,
            exact="yes",
        )

    def load(self, progress: Callable[[float], bool]) -> None:
        for fraction in (0.0, 0.5, 1.0):
            if not progress(fraction):
                raise errors.ModelError("loading was given up")
        if self._load_error is not None:
            raise self._load_error

    @property
    def decode_seconds(self) -> float:
        return self._latency.base + self._latency.per_row

    @property
    def retention(self) -> Attention:
        return Attention()

    @property
    def sizes(self) -> Sizes:
        return Sizes(cell=8)

    def close(self) -> None:
        self.closed = True

    def tokenize(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            if not prompt:
                raise errors.InvalidArgument("the prompt is empty")
            return list(prompt.encode())
        tokens = []
        for message in prompt:
            tokens += [ROLE_TOKENS[message.role], *message.content.encode(), EOG]
        return [*tokens, ROLE_TOKENS["assistant"]]

    def piece(self, token: int) -> bytes:
        if not 0 <= token < N_VOCAB:
            raise errors.InvalidArgument(f"no such token: {token}")
        return bytes([token]) if token < EOG else b""

    def is_eog(self, token: int) -> bool:
        return token == EOG

    def compile(self, grammar: str, user: str) -> None:
        """What is answered is scripted."""

    def sampler(self, prepared: Prepared) -> Script:
        prompt = prepared.prompt
        text = bytes(token if token < EOG else ord("\n") for token in prompt)
        script = Script(prompt, self._answer(text.decode(errors="replace").strip("\n")))
        for token in prepared.given:
            if script.next() != token:
                raise errors.InvalidArgument(f"{token} is not what the script says here")
        return script

    def embed(self, text: str) -> Embedding:
        raise errors.ModelError("simulated: this model cannot embed")

    def run(self, step: Step) -> list[int]:
        self.steps.append(step)
        if self._gate is not None:
            self._gate.wait()
        for op in step.ops:
            self._apply(op)
        self._check_rows(step)
        for token, seq_id in zip(step.token, step.seq_id, strict=True):
            self.cells[seq_id].append(token)
        if self._sleep is not None:
            self._sleep(self._latency.of(step))
        if any(self._is_poisoned(self.cells[seq_id]) for seq_id in set(step.seq_id)):
            raise DecodeError("the step is poisoned")
        return [self._sample(step, i) for i in range(len(step.outputs))]

    def _apply(self, op: Op) -> None:
        if isinstance(op, Copy):
            assert op.src != op.dst
            self.cells[op.dst] = list(self.cells[op.src])
        elif isinstance(op, Remove):
            del self.cells[op.seq_id][op.start :]
        elif isinstance(op, Save):
            op.cells.data = list(self.cells[op.seq_id])
        else:
            assert isinstance(op, Restore) and isinstance(op.cells.data, list)
            self.cells[op.seq_id] = list(op.cells.data)

    def _check_rows(self, step: Step) -> None:
        assert 0 < len(step.token) <= self.n_seq + self.prefill_chunk
        assert step.seq_id == sorted(step.seq_id)
        heads = [len(cells) for cells in self.cells]
        for pos, seq_id in zip(step.pos, step.seq_id, strict=True):
            assert pos == heads[seq_id] < self.n_ctx, (pos, heads[seq_id], self.n_ctx)
            heads[seq_id] += 1

    def _sample(self, step: Step, i: int) -> int:
        output = step.outputs[i]
        assert isinstance(output.sampler, Script)
        assert self.cells[step.seq_id[output.row]] == output.sampler.expected
        token = output.sampler.next()
        if output.logprobs:
            certain = Alternative(token, self.piece(token), 0.0)
            step.logprobs[i] = Logprobs(certain, (certain,))
        return token

    def _is_poisoned(self, cells: list[int]) -> bool:
        size = len(self._poison)
        return size > 0 and any(
            cells[i : i + size] == self._poison for i in range(len(cells) - size + 1)
        )
