"""What the decode thread needs of a model: one step in, sampled tokens out.

`Runner` is implemented by `llama.LlamaRunner` and `simulated.SimulatedRunner`;
the scheduler and the thread are written against it and know no llama.cpp.

Rules that every runner keeps:
- After the constructor, every method is called on the decode thread only; but `tokenize`,
  `piece`, `is_eog` and `compile` are called on any thread, after `load` and before `close`.
- `run` carries out `Step.ops` in order, each before the next begins, decodes the rows in
  one call, and only then samples; when it raises `DecodeError` nothing was sampled and no
  sampler changed.
- What was decoded depends on a sequence's own cells only, never on its neighbours.
- Nothing a request can say reaches an assertion of the library: `run` checks every
  token, position and sequence itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llambo9p import errors
from llambo9p.engine.base import Logprobs, Message, ModelInfo, Request
from llambo9p.engine.retention import Retention, Sizes

Prompt = tuple[Message, ...] | str
"""what `Request.prompt` is: a chat to render, or text to complete"""


Embedding = Generator[int, None, NDArray[np.float32]]
"""an embedding while it is made: the tokens that are left before each part, then itself"""


class DecodeError(errors.Error):
    """A step could not be decoded; the sequences in it are suspect, no others."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Replace the cells of sequence `dst` by those of sequence `src`, all of them."""

    src: int
    dst: int


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the cells of sequence `seq_id` from position `start` to the end."""

    seq_id: int
    start: int


@dataclass(slots=True, eq=False)
class SavedCells:
    """Where a runner keeps the cells of one sequence, in host memory."""

    data: object = None
    """the runner's own; None before `Save`"""
    failed: bool = False
    """there was no memory for them"""


@dataclass(frozen=True, slots=True)
class Save:
    """Keep a copy of the cells of sequence `seq_id`."""

    seq_id: int
    cells: SavedCells


@dataclass(frozen=True, slots=True)
class Restore:
    """Replace the cells of sequence `seq_id` by saved ones; by none when that fails, so
    that rows which would continue them cannot be decoded."""

    cells: SavedCells
    seq_id: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep a copy of what does not last of the memory of sequence `seq_id`: a checkpoint."""

    seq_id: int
    cells: SavedCells


@dataclass(frozen=True, slots=True)
class Revert:
    """Have what does not last of sequence `seq_id` as it was at a checkpoint.  The cells that
    last are there, and more than those of the checkpoint; a `Remove` of these follows."""

    cells: SavedCells
    seq_id: int


Op = Copy | Remove | Save | Restore | Keep | Revert


@dataclass(frozen=True, slots=True)
class Output:
    """A row whose logits are wanted, and the sampler that picks the next token."""

    row: int
    sampler: object
    logprobs: int = 0
    """how many of the likeliest tokens are wanted as well"""


@dataclass(slots=True)
class Step:
    """One call of llama_decode: `ops`, then the rows, then a token for each output.

    `token`, `pos` and `seq_id` are parallel, one entry a row, sorted by seq_id and
    then by pos; `outputs` is in row order, at most one a sequence.
    """

    ops: list[Op] = field(default_factory=list)
    token: list[int] = field(default_factory=list)
    pos: list[int] = field(default_factory=list)
    seq_id: list[int] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    logprobs: dict[int, Logprobs] = field(default_factory=dict)
    """filled by `run`: by the number of the output, for those that want them"""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A request that can be given a slot."""

    request: Request
    prompt: array[int]
    """its tokens, at most as many as the context holds; 4 bytes each, for thousands may wait"""
    given: tuple[int, ...]
    """tokens that the answer begins with: of `Request.answer` those that fit"""
    compiled: object = None
    """what `Model.compile` made of the request's constraint; None: there is none"""
    trimmed_turns: int = 0
    """of the request's prompt, those that these tokens leave out"""
    marks: tuple[int, ...] = ()
    """how many of these tokens other prompts are likely to begin with"""


class Later(Protocol):
    """A token that could not be chosen at once: the mask of what a grammar allows there is
    still being made.  Its sequence is in no step meanwhile; the others go on."""

    @property
    def logprobs(self) -> Logprobs | None:
        """Known with the token, where they are wanted."""

    def token(self) -> int | None:
        """The token, or None while it is not known.  Raises `errors.Error` when there is none:
        that is this request's own failure, and no other's."""


class Model(Protocol):
    """The half of a runner that the scheduler needs: the vocabulary, and what is known of the
    model."""

    @property
    def info(self) -> ModelInfo:
        """Known once `load` returned."""

    @property
    def retention(self) -> Retention:
        """What its memory keeps of a sequence.  Known once `load` returned."""

    def tokenize(self, prompt: Prompt) -> list[int]:
        """The prompt's tokens, never none.  Raises `ModelError` for a chat without
        a template, `InvalidArgument` for one that the template refuses, and
        `ContextOverflow` for a text that is certainly longer than the context:
        tokenizing megabytes would stop everybody's decoding."""

    def piece(self, token: int) -> bytes:
        """The token's bytes; empty for a special token.  Raises `InvalidArgument` for one
        that the model does not have."""

    def is_eog(self, token: int) -> bool:
        """Whether the token ends the generation."""

    def compile(self, grammar: str, user: str) -> object:
        """llguidance's grammar, which a child process has compiled before, for the model's
        vocabulary.  Raises `InvalidArgument`.  May take long."""

    def sampler(self, prepared: Prepared) -> object:
        """A sampler for one answer, as it is when the answer's first tokens are those that are
        given.  Raises `InvalidArgument`, now or by a `Later`, also when it could not have
        chosen them."""


class Runner(Model, Protocol):
    """A model and its KV cache, `n_seq` sequences of `n_ctx` cells each."""

    wake: Callable[[], None]
    """called, on any thread, when a `Later` may have become known; who runs it sets this"""

    n_ctx: int
    n_seq: int
    prefill_chunk: int
    """prompt tokens that a step may hold"""

    @property
    def sizes(self) -> Sizes:
        """What a saved sequence takes.  Known once `load` returned."""

    @property
    def decode_seconds(self) -> float:
        """What a step of one token takes, about.  Known once `load` returned."""

    def load(self, progress: Callable[[float], bool]) -> None:
        """Load the weights and make the context; `progress` is told 0 to 1 and
        answers whether to go on.  Raises `ModelError`."""

    def close(self) -> None:
        """Free everything.  Also called after a failed `load`."""

    def run(self, step: Step) -> Sequence[int | Later]:
        """Decode; a token for each of `step.outputs`.  Raises `DecodeError`."""

    def embed(self, text: str) -> Embedding:
        """The text's embedding, of length 1, in parts of at most
        `memory.EMBED_CHUNK` tokens; one at
        a time.  Raises, at once or later, `InvalidArgument` for no text,
        `ContextOverflow`, `ModelError` when the model cannot, `DecodeError`."""
