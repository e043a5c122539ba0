"""llama.cpp as a `Runner`: a model, and a context of many sequences over it.

Owns the context and the batch's memory; the model is in `llama_model`, the samplers are in
`llama_sampler`, embeddings have a context of their own in `llama_embedder`.  Only these
files, whose names begin so, import llama_cpp.

Exactness.  K is Q8_0 and V is F16, where a model can have that (`memory.kv_types`): with
llama.cpp's default (F16, F16) its attention kernel tiles and splits by the number of rows and
cells, and logits change in the last bits with the chunking of a prompt and with who else is in
the batch; a greedy answer then differs.  With K = Q8_0, or BF16, they are bitwise equal
(tests/engine/test_exact.py) at the same speed.  This holds for a CPU and weights whose matrix
products do not depend on the number of rows, so it is found out for each file (`exactness`), and
kept (`verdicts`): `info` says what is known, and `load` has a short look at what is not.  What
is not exact may be with `plain` products, see `llama_model.ModelParams`.

It must never hand llama.cpp anything that it would abort on: GGML_ASSERT kills the
process, so tokens, positions, sequences and counts are checked before every call.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from llambo9p import errors
from llambo9p.engine import (
    exactness,
    llama_context,
    llama_log,
    llama_needs,
    machine,
    memory,
    sampling,
    verdicts,
)
from llambo9p.engine.base import Alternative, Exact, Logprobs, ModelInfo
from llambo9p.engine.batch import Batch
from llambo9p.engine.llama_embedder import LlamaEmbedder
from llambo9p.engine.llama_matcher import Compiled
from llambo9p.engine.llama_model import LlamaModel, ModelParams
from llambo9p.engine.llama_sampler import Candidates, Sampler
from llambo9p.engine.llama_sequences import Sequences
from llambo9p.engine.memory import RopeScaling
from llambo9p.engine.retention import Retention, Sizes
from llambo9p.engine.runner import (
    DecodeError,
    Embedding,
    Later,
    Output,
    Prepared,
    Prompt,
    Step,
)

MAX_SEQUENCES = 256
"""LLAMA_MAX_SEQ"""
MAX_THREADS = 512
"""GGML_MAX_N_THREADS"""

LOOK_S = 0.2
LOOK = 8, 96
"""tokens of the prompt that is read for a short look at exactness while a model is loaded: as many
as are decoded in so many seconds, and so many at least and at most"""

MASK_WAIT = 0.05
"""of the time of a step: so long the others wait for tokens that a grammar still has to allow"""

_ROPE_SCALING = {
    "linear": lib.LLAMA_ROPE_SCALING_TYPE_LINEAR,
    "yarn": lib.LLAMA_ROPE_SCALING_TYPE_YARN,
}

_INT32 = ctypes.POINTER(ctypes.c_int32)


class LlamaRunner:
    """`n_seq` KV sequences of `n_ctx` cells each, over a model.

    A GGUF file that is named by its path is loaded by `load` and freed by `close`; a
    `LlamaModel` is loaded already and stays its owner's.  `memory_limit` (bytes; by default
    what the machine has available) bounds all that it takes; `load` refuses beyond it, before
    it reads the weights.
    """

    def __init__(
        self,
        model: LlamaModel | Path | str,
        *,
        n_ctx: int = 2048,
        n_seq: int = 16,
        n_threads: int | None = None,
        prefill_chunk: int = 512,
        memory_limit: int | None = None,
        kv_types: tuple[int, int] | None = None,
        rope_scaling: RopeScaling = "none",
        plain: bool = False,
    ) -> None:
        """`kv_types` are the ggml types of K and V, by default those of `memory.kv_types`.
        `rope_scaling` is for a context that is longer than the one the model was trained for.
        `plain` is of a model that is named by its path: see `llama_model.ModelParams`."""
        if not 1 <= n_seq <= MAX_SEQUENCES:
            raise errors.InvalidArgument(f"n_seq must be 1 to {MAX_SEQUENCES}, not {n_seq}")
        if n_ctx < 2:
            raise errors.InvalidArgument(f"n_ctx must be at least 2, not {n_ctx}")
        if n_threads is not None and not 1 <= n_threads <= MAX_THREADS:
            raise errors.InvalidArgument(f"n_threads must be 1 to {MAX_THREADS}, not {n_threads}")
        self._owns_model = not isinstance(model, LlamaModel)
        self.model = (
            model if isinstance(model, LlamaModel) else LlamaModel(model, ModelParams(plain=plain))
        )
        self.path = self.model.path
        self.n_ctx = n_ctx
        self.n_seq = n_seq
        self.prefill_chunk = prefill_chunk
        self.n_threads = n_threads or machine.usable_cores()
        self._memory_limit = memory_limit
        self._kv_types = kv_types
        self._rope_scaling = rope_scaling
        self._ctx: Any = None
        self._embedder: LlamaEmbedder | None = None
        self._info: ModelInfo | None = None
        self.decode_seconds = 0.0
        self.wake: Callable[[], None] = lambda: None

    @property
    def info(self) -> ModelInfo:
        return self._info or self.model.info

    @functools.cached_property
    def kv_types(self) -> tuple[int, int]:
        """The ggml types of K and V."""
        return self._kv_types or memory.kv_types(self.model.header)

    @functools.cached_property
    def need(self) -> memory.Need:
        """What it takes of memory beside the weights.  Raises `ModelError` when these alone are
        too much, or llama.cpp refuses the model."""
        memory.check_weights(self.path, self._weights, self._available)
        header = self.model.header
        return llama_needs.ask(self.path, header, self.n_ctx, self._n_batch, self.kv_types)

    @property
    def _weights(self) -> int:
        """Bytes that it will take for them."""
        return self.model.header.weights if self._owns_model else 0

    @property
    def _available(self) -> float:
        return self._memory_limit or machine.available_memory()

    # Loading.

    def load(self, progress: Callable[[float], bool]) -> None:
        self._left = self.memory_left()
        if self._owns_model:
            self.model.load(progress)
        self._make_context()
        self._make_batch()
        self._try()
        self._info = replace(self.model.info, exact=self._look())

    def close(self) -> None:
        if self._embedder is not None:
            self._embedder.close()
            self._embedder = None
        if self._ctx is not None:
            lib.llama_free(self._ctx)
            self._ctx = None
            self.model.context_closed()
        if self._owns_model:
            self.model.close()

    @property
    def retention(self) -> Retention:
        return self._sequences.retention

    @property
    def sizes(self) -> Sizes:
        return self._sequences.sizes

    def memory_left(self) -> float:
        """Bytes that it will leave of what it may take; before `load`.  Raises `ModelError`."""
        header = self.model.header
        if self.model.params.vocab_only:
            raise errors.ModelError(f"{self.path}: loaded with vocab_only, it has no weights")
        if self.n_ctx > header.context and self._rope_scaling == "none":
            raise errors.ModelError(
                f"{self.path}: a context of {self.n_ctx} tokens is asked for, the model was "
                f"trained for {header.context}: ask for no more, or set rope_scaling to yarn or "
                "linear"
            )
        return memory.left(
            self.path, self._weights, self.need, self.n_ctx, self.n_seq, self._available
        )

    @property
    def _n_batch(self) -> int:
        """Rows of a step: it decodes, or reads prompts."""
        return max(self.n_seq, self.prefill_chunk)

    def _make_context(self) -> None:
        params = llama_context.decoding(self.n_ctx, self.n_seq, self._n_batch, self.kv_types)
        params.n_threads = params.n_threads_batch = self.n_threads
        self._scale_rope(params)
        self._ctx = lib.llama_init_from_model(self.model.handle, params)
        if self._ctx is None:
            raise errors.ModelError(f"{self.path}: no context could be made: {llama_log.said()}")
        self.model.context_opened()
        self._memory = lib.llama_get_memory(self._ctx)
        self._sequences = Sequences(
            self._ctx, self.model.handle, self.model.header.architecture, self.n_seq
        )

    def _scale_rope(self, params: Any) -> None:
        """Spread positions beyond those that the model was trained for over these."""
        trained = self.model.header.context
        if self.n_ctx <= trained or lib.llama_model_is_recurrent(self.model.handle):
            return
        if lib.llama_model_rope_type(self.model.handle) == lib.LLAMA_ROPE_TYPE_NONE:
            raise errors.ModelError(
                f"{self.path}: a context of {self.n_ctx} tokens is asked for, the model was "
                f"trained for {trained} and has no rotary positions, which could be scaled"
            )
        params.rope_scaling_type = _ROPE_SCALING[self._rope_scaling]
        params.rope_freq_scale = trained / self.n_ctx
        params.yarn_orig_ctx = trained

    def _make_batch(self) -> None:
        n_batch = lib.llama_n_batch(self._ctx)
        rows = Batch(n_batch, self.n_seq, self.n_ctx, self.info.n_vocab)
        batch: Any = lib.llama_batch()
        batch.token = ctypes.cast(rows.token.ctypes.data, _INT32)
        batch.pos = ctypes.cast(rows.pos.ctypes.data, _INT32)
        batch.n_seq_id = ctypes.cast(rows.n_seq_id.ctypes.data, _INT32)
        batch.seq_id = ctypes.cast(rows.seq_id_at.ctypes.data, ctypes.POINTER(_INT32))
        batch.logits = ctypes.cast(rows.logits.ctypes.data, ctypes.POINTER(ctypes.c_int8))
        self._rows, self._batch = rows, batch
        self._candidates = Candidates(self.info.n_vocab)

    def _try(self) -> None:
        """Decode two tokens: a model with which that cannot be done is refused now, and the
        time that the second one takes tells what is to be expected."""
        try:
            for pos in range(2):
                began = time.monotonic()
                self.run(Step([], [self.model.first_token], [pos], [0], [Output(0, None)]))
                self.decode_seconds = time.monotonic() - began
                self._sequences.learn()
        except DecodeError as error:
            raise errors.ModelError(f"{self.path}: {error}") from None
        self._sequences.clear()

    def _look(self) -> Exact:
        """What is known of the model's exactness; when nothing is, whether a few tokens already
        show that it has none."""
        plain = self.model.params.plain
        known = verdicts.known(self.path, self.kv_types, plain)
        if known != "unknown" or not self._memory:
            return known
        count = int(LOOK_S / self.decode_seconds) if self.decode_seconds else LOOK[1]
        count = min(max(count, LOOK[0]), LOOK[1], self.n_ctx, self._n_batch // 2)
        try:
            if not exactness.differs(self, count):
                return "unknown"
        except DecodeError as error:
            raise errors.ModelError(f"{self.path}: {error}") from None
        finally:
            self._sequences.clear()
        with contextlib.suppress(OSError):  # then it is found again
            verdicts.keep(self.path, self.kv_types, plain, False)
        return "no"

    # Text.

    def tokenize(self, prompt: Prompt) -> list[int]:
        if not self._memory:  # a step for one would be an assertion of llama.cpp's
            raise errors.ModelError(
                f"{self.info.name} takes no prompt: it does not write one token after the other; "
                "what encodes texts answers `embed`"
            )
        return self.model.tokenize(prompt, self.n_ctx)

    def piece(self, token: int) -> bytes:
        return self.model.piece(token)

    def is_eog(self, token: int) -> bool:
        return self.model.is_eog(token)

    def embed(self, text: str) -> Embedding:
        tokens = self.model.tokens_of(text, parse_special=False, n_ctx=self.n_ctx)
        if not text or not tokens:
            raise errors.InvalidArgument("there is no text to embed")
        if len(tokens) > self.n_ctx:
            raise errors.ContextOverflow(
                f"the text has {len(tokens)} tokens, the context holds {self.n_ctx}"
            )
        if self._embedder is None:
            left = min(self._left, machine.available_memory())
            if self.need.embedder > left:
                raise errors.ModelError(
                    f"{self.path}: to embed takes {self.need.embedder / memory.MIB:.0f} MiB "
                    f"more, and {left / memory.MIB:.0f} MiB are available"
                )
            self._embedder = LlamaEmbedder(self.model, self.n_ctx, self.kv_types, self.n_threads)
        return self._embedder.embed(tokens)

    # Decoding.

    def compile(self, grammar: str, user: str) -> Compiled:
        return self.model.grammars.compile(grammar, user)

    def sampler(self, prepared: Prepared) -> Sampler | None:
        """None is greedy: the decode step picks the largest logit itself."""
        params = prepared.request.params
        sampling.check(params)
        plain = params.temperature == 0 and params.repeat_penalty == 1.0
        if plain and prepared.compiled is None:
            return None
        return Sampler(prepared, self.info.n_vocab, lambda: self.wake())

    def run(self, step: Step) -> list[int | Later]:
        for op in step.ops:
            self._sequences.apply(op)
        self._batch.n_tokens = self._rows.fill(step)
        cells = self._sequences.after(step)
        began = time.monotonic()
        code = lib.llama_decode(self._ctx, self._batch)
        if code != 0:
            raise DecodeError(f"llama_decode failed ({code}): {llama_log.said()}")
        self._sequences.decoded(cells)
        return self._sample(step, time.monotonic() - began)

    def logits(self, n_outputs: int) -> NDArray[np.float32]:
        """The last step's logits, one row an output; valid until the next `run`."""
        rows: NDArray[np.float32] = np.ctypeslib.as_array(
            lib.llama_get_logits(self._ctx), (n_outputs, self.info.n_vocab)
        )
        return rows

    def _sample(self, step: Step, seconds: float) -> list[int | Later]:
        """A token for each output of a step that took so long to decode."""
        if not step.outputs:
            return []
        logits = self.logits(len(step.outputs))
        best = logits.argmax(axis=1)
        # argmax finds a NaN if there is one; on a NaN the sampler chain would abort.
        if not np.isfinite(logits[np.arange(len(best)), best]).all():
            raise DecodeError("the model computed logits that are not numbers")
        tokens: list[int | Later] = best.tolist()
        end = time.monotonic() + seconds * MASK_WAIT
        for i, output in enumerate(step.outputs):
            sampler = output.sampler
            token: int | Later | None = tokens[i]
            if isinstance(sampler, Sampler):
                if sampler.matcher is None:
                    token = sampler.sample(self._ctx, output.row)
                else:
                    token = self._pick(sampler, logits[i], output, end)
                tokens[i] = token
            if output.logprobs and isinstance(token, int):
                step.logprobs[i] = self._logprobs(logits[i], token, output.logprobs)
        return tokens

    def _pick(
        self, sampler: Sampler, logits: NDArray[np.float32], output: Output, end: float
    ) -> int | Later:
        """A token that a grammar allows; if that is known by `end`, at once."""
        try:
            wait = max(0.0, end - time.monotonic())
            token = sampler.pick(logits, self._candidates, wait)
        except errors.Error:
            token = None  # for the request alone, which will be told so
        return _Late(self, sampler, logits.copy(), output.logprobs) if token is None else token

    def _logprobs(self, logits: NDArray[np.float32], chosen: int, count: int) -> Logprobs:
        highest = logits.max()
        total = float(np.log(np.exp(logits - highest).sum(dtype=np.float64))) + float(highest)

        def alternative(token: int) -> Alternative:
            return Alternative(token, self.piece(token), float(logits[token]) - total)

        count = min(count, len(logits))
        likeliest = np.flatnonzero(logits >= np.partition(logits, -count)[-count])
        order = np.argsort(-logits[likeliest], kind="stable")[:count]
        return Logprobs(alternative(chosen), tuple(map(alternative, likeliest[order].tolist())))


class _Late:
    """A `Later`: the logits of its place are kept until the grammar's mask is there."""

    def __init__(
        self, runner: LlamaRunner, sampler: Sampler, logits: NDArray[np.float32], logprobs: int
    ) -> None:
        self.logprobs: Logprobs | None = None
        self._runner = runner
        self._sampler = sampler
        self._logits = logits
        self._wanted = logprobs

    def token(self) -> int | None:
        token = self._sampler.pick(self._logits, self._runner._candidates)
        if token is not None and self._wanted:
            self.logprobs = self._runner._logprobs(self._logits, token, self._wanted)
        return token
