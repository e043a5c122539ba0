"""llama.cpp, the only file that imports llama_cpp: `LlamaRunner`.

Owns the model, its context, the batch's memory and the samplers.

Exactness.  K is Q8_0 and V is F16: with llama.cpp's default (F16, F16) its attention
kernel tiles and splits by the number of rows and cells, and logits change in the last
bits with the chunking of a prompt and with who else is in the batch; a greedy answer
then differs.  With K = Q8_0 they are bitwise equal (tests/engine/test_exact.py) at the
same speed.  This holds for a CPU and weights whose matrix products do not depend on the
number of rows; the test is what says so, for a given machine and model.

Special tokens.  In a chat no message can spell one (see `chat`).  A text prompt
(`complete`) is the caller's own, and special tokens in it are recognised.

It must never hand llama.cpp anything that it would abort on: GGML_ASSERT kills the
process, so tokens, positions, sequences and counts are checked before every call.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from llama_cpp.llama_grammar import json_schema_to_gbnf
from numpy.typing import NDArray

from llambo9p import errors
from llambo9p.engine import chat, gbnf, gguf, machine, memory, sampling
from llambo9p.engine.base import ModelInfo, SamplingParams
from llambo9p.engine.batch import Batch
from llambo9p.engine.runner import Copy, DecodeError, Output, Prompt, Step

TYPE_K = lib.GGML_TYPE_Q8_0
TYPE_V = lib.GGML_TYPE_F16
PENALTY_LAST_N = 64
MAX_SEQUENCES = 256
"""LLAMA_MAX_SEQ"""

_INT32 = ctypes.POINTER(ctypes.c_int32)
_LOG_LEVEL_ERROR = 4
_log_lines: deque[str] = deque(maxlen=8)


def _on_log(level: int, text: bytes, _: object) -> None:
    if level == _LOG_LEVEL_ERROR:
        _log_lines.append(text.decode(errors="replace").strip())


_log_callback = lib.llama_log_callback(_on_log)
"""kept here: llama.cpp holds only its address"""


def _said() -> str:
    """What llama.cpp logged as errors since the last call, as one line."""
    lines = "; ".join(_log_lines)
    _log_lines.clear()
    return lines or "llama.cpp gave no reason"


class Sampler:
    """A native sampler chain: penalties over the last 64 tokens of prompt and answer,
    top_k, top_p, min_p, temp, dist(seed), in this order.  At temperature 0 it is
    penalties, greedy.

    With a grammar the chain chooses as if there were none, and only where that is not
    allowed it chooses again from what is: asking the grammar about one token takes
    microseconds, about all of them milliseconds.
    """

    chain: Any = None
    grammar: Any = None

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int], n_vocab: int, vocab: Any
    ) -> None:
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self.chain = chain
        penalty = params.repeat_penalty
        if penalty != 1.0:
            self._add(lib.llama_sampler_init_penalties(n_vocab, PENALTY_LAST_N, penalty, 0.0, 0.0))
            for token in prompt[-PENALTY_LAST_N:]:
                lib.llama_sampler_accept(chain, token)
        if grammar := _grammar_of(params):
            self.grammar = lib.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
            if not self.grammar:
                raise errors.InvalidArgument("the grammar has what this model has no tokens for")
        if params.temperature == 0:
            self._add(lib.llama_sampler_init_greedy())
            return
        if params.top_k > 0:
            self._add(lib.llama_sampler_init_top_k(min(params.top_k, n_vocab)))
        self._add(lib.llama_sampler_init_top_p(params.top_p, 1))
        self._add(lib.llama_sampler_init_min_p(params.min_p, 1))
        self._add(lib.llama_sampler_init_temp(params.temperature))
        self._add(lib.llama_sampler_init_dist(sampling.seed_of(params)))

    def _add(self, sampler: Any) -> None:
        lib.llama_sampler_chain_add(self.chain, sampler)

    def pick(self, logits: NDArray[np.float32], candidates: Candidates) -> int:
        """The next token that the grammar allows; `accept` it then.  Raises DecodeError
        when there is none."""
        token = candidates.fill(logits).apply(self.chain).selected
        if candidates.fill_one(token).apply(self.grammar).any_left:
            return token
        if not candidates.fill(logits).apply(self.grammar).any_left:
            raise DecodeError("the grammar allows none of the model's tokens here")
        return candidates.apply(self.chain).selected

    def accept(self, token: int) -> None:
        lib.llama_sampler_accept(self.grammar, token)
        lib.llama_sampler_accept(self.chain, token)

    def __del__(self) -> None:
        for sampler in (self.chain, self.grammar):
            if sampler:
                lib.llama_sampler_free(sampler)


class Candidates:
    """A llama_token_data_array of our memory."""

    def __init__(self, n_vocab: int) -> None:
        self._data = np.zeros(n_vocab, [("id", "i4"), ("logit", "f4"), ("p", "f4")])
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._array: Any = lib.llama_token_data_array()
        self._array.data = self._data.ctypes.data_as(lib.llama_token_data_p)

    def fill(self, logits: NDArray[np.float32]) -> Candidates:
        """All tokens, by id."""
        self._data["id"] = self._ids
        self._data["logit"] = logits
        return self._of_size(len(self._data))

    def fill_one(self, token: int) -> Candidates:
        self._data[0] = token, 0.0, 0.0
        return self._of_size(1)

    def _of_size(self, size: int) -> Candidates:
        self._array.size = size
        self._array.selected = -1
        self._array.sorted = False
        return self

    def apply(self, sampler: Any) -> Candidates:
        lib.llama_sampler_apply(sampler, ctypes.byref(self._array))
        return self

    @property
    def any_left(self) -> bool:
        """Whether one of them is not forbidden."""
        return bool(np.isfinite(self._data["logit"][: self._array.size]).any())

    @property
    def selected(self) -> int:
        return int(self._data["id"][self._array.selected])


def _grammar_of(params: SamplingParams) -> str:
    return _from_schema(params.schema) if params.schema else params.grammar


@functools.lru_cache(maxsize=64)
def _from_schema(schema: str) -> str:
    """The grammar of what satisfies a JSON schema.  Raises InvalidArgument."""
    try:
        grammar = str(json_schema_to_gbnf(schema))
    except Exception as error:  # whatever its author did not think of
        raise errors.InvalidArgument(
            f"schema: it cannot be made a grammar: {type(error).__name__}: {error}"
        ) from None
    try:
        gbnf.check(grammar)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(f"schema: its {error}") from None
    return grammar


class LlamaRunner:
    """A GGUF model with `n_seq` KV sequences of `n_ctx` cells each.

    `memory_limit` (bytes; by default what the machine has available) bounds all that it
    takes; `load` refuses beyond it, before it reads the weights.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        n_ctx: int = 2048,
        n_seq: int = 16,
        n_threads: int | None = None,
        prefill_chunk: int = 64,
        memory_limit: int | None = None,
        type_k: int = TYPE_K,
        type_v: int = TYPE_V,
    ) -> None:
        if not 1 <= n_seq <= MAX_SEQUENCES:
            raise errors.InvalidArgument(f"n_seq must be 1 to {MAX_SEQUENCES}, not {n_seq}")
        if n_ctx < 2:
            raise errors.InvalidArgument(f"n_ctx must be at least 2, not {n_ctx}")
        self.path = Path(path)
        self.n_ctx = n_ctx
        self.n_seq = n_seq
        self.prefill_chunk = max(prefill_chunk, n_seq)
        self.n_threads = n_threads or machine.usable_cores()
        self._memory_limit = memory_limit
        self._cache = memory.Cache(n_ctx, type_k, type_v)
        self._model: Any = None
        self._ctx: Any = None
        self._info: ModelInfo | None = None
        self._pieces: dict[int, bytes] = {}

    @property
    def info(self) -> ModelInfo:
        if self._info is None:
            raise errors.ModelError(f"{self.path}: not loaded")
        return self._info

    # Loading.

    def load(self, progress: Callable[[float], bool]) -> None:
        self._header = gguf.read(self.path)
        self._check_size()
        lib.llama_log_set(_log_callback, None)
        _log_lines.clear()
        lib.llama_backend_init()
        self._load_model(progress)
        self._check_model()
        self._read_vocab()
        self._make_context()
        self._make_batch()
        self._try()

    def close(self) -> None:
        if self._ctx is not None:
            lib.llama_free(self._ctx)
            self._ctx = None
        if self._model is not None:
            lib.llama_model_free(self._model)
            self._model = None

    def kv_bytes(self, n_ctx: int) -> int:
        """Bytes of the KV cache of one sequence of `n_ctx` cells."""
        return replace(self._cache, n_ctx=n_ctx).bytes(self._header)

    def _check_size(self) -> None:
        if self.n_ctx > self._header.context:
            raise errors.ModelError(
                f"{self.path}: a context of {self.n_ctx} tokens is asked for, "
                f"the model was trained for {self._header.context}"
            )
        available = self._memory_limit or machine.available_memory()
        n_batch = self.n_seq + self.prefill_chunk
        memory.check(self._header, self.path, self._cache, self.n_seq, n_batch, available)

    def _load_model(self, progress: Callable[[float], bool]) -> None:
        params = lib.llama_model_default_params()
        given_up = False

        def on_progress(fraction: float, _: object) -> bool:
            nonlocal given_up
            given_up = not progress(fraction)
            return not given_up

        callback = lib.llama_progress_callback(on_progress)
        params.progress_callback = callback
        self._model = lib.llama_model_load_from_file(os.fsencode(self.path), params)
        if given_up:
            raise errors.ModelError(f"{self.path}: loading was given up")
        if self._model is None:
            raise errors.ModelError(f"{self.path}: {_said()}")

    def _check_model(self) -> None:
        model = self._model
        if lib.llama_model_has_encoder(model) or not lib.llama_model_has_decoder(model):
            raise errors.ModelError(f"{self.path}: not a decoder-only model")
        if lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model):
            # Their state cannot be cut back to a common prefix.
            raise errors.ModelError(f"{self.path}: recurrent models are not supported")
        description = ctypes.create_string_buffer(128)
        lib.llama_model_desc(model, description, len(description))
        template = lib.llama_model_chat_template(model, None)
        self._template: str | None = template.decode(errors="replace") if template else None
        self._vocab = lib.llama_model_get_vocab(model)
        self._info = ModelInfo(
            name=self.path.stem,
            path=str(self.path),
            size=lib.llama_model_size(model),
            n_params=lib.llama_model_n_params(model),
            n_ctx_train=lib.llama_model_n_ctx_train(model),
            n_vocab=lib.llama_vocab_n_tokens(self._vocab),
            description=description.value.decode(errors="replace"),
            has_chat_template=template is not None,
        )

    def _read_vocab(self) -> None:
        vocab = self._vocab
        special = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        tokens = range(self.info.n_vocab)
        self._eog = frozenset(t for t in tokens if lib.llama_vocab_is_eog(vocab, t))
        self._special: re.Pattern[str] | None = chat.spelling(
            self._text_of(t) for t in tokens if lib.llama_vocab_get_attr(vocab, t) & special
        )
        self._longest_piece = max(len(lib.llama_vocab_get_text(vocab, t)) for t in tokens)
        self._bos = lib.llama_vocab_bos(vocab)
        self._formatter: Jinja2ChatFormatter | None = None

    def _make_context(self) -> None:
        params = lib.llama_context_default_params()
        params.n_seq_max = self.n_seq
        params.n_ctx = memory.padded(self.n_ctx) * self.n_seq
        params.n_batch = params.n_ubatch = self.n_seq + self.prefill_chunk
        params.n_outputs_max = self.n_seq
        params.n_threads = params.n_threads_batch = self.n_threads
        params.type_k, params.type_v = self._cache.type_k, self._cache.type_v
        params.kv_unified = False
        params.no_perf = True
        self._ctx = lib.llama_init_from_model(self._model, params)
        if self._ctx is None:
            raise errors.ModelError(f"{self.path}: no context could be made: {_said()}")
        self._memory = lib.llama_get_memory(self._ctx)

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
        """Decode one token, so that a model with which that cannot be done is refused now."""
        token = max(self._bos, 0)
        try:
            self.run(Step([], [token], [0], [0], [Output(0, None)]))
        except DecodeError as error:
            raise errors.ModelError(f"{self.path}: {error}") from None
        lib.llama_memory_clear(self._memory, False)

    # Text.

    def tokenize(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            tokens = self._tokenize(prompt, True, True)
        else:
            parts = chat.segments(prompt, self._render, self._special)
            bos = self._text_of(self._bos) if self._bos >= 0 else ""
            add_special = not (bos and parts and parts[0][0].startswith(bos))
            tokens = []
            for text, parse_special in parts:
                tokens += self._tokenize(text, add_special, parse_special)
                add_special = False
        if not tokens and self._bos >= 0:
            tokens = [self._bos]
        if not tokens:
            raise errors.InvalidArgument("the prompt is empty")
        return tokens

    def piece(self, token: int) -> bytes:
        known = self._pieces.get(token)
        if known is None:
            buffer = ctypes.create_string_buffer(64)
            size = lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
            if size < 0:
                buffer = ctypes.create_string_buffer(-size)
                size = lib.llama_token_to_piece(self._vocab, token, buffer, -size, 0, False)
            known = self._pieces[token] = buffer.raw[:size]
        return known

    def is_eog(self, token: int) -> bool:
        return token in self._eog

    def sampler(self, params: SamplingParams, prompt: Sequence[int]) -> Sampler | None:
        """None is greedy: the decode step picks the largest logit itself."""
        sampling.check(params)
        plain = not params.grammar and not params.schema
        if plain and params.temperature == 0 and params.repeat_penalty == 1.0:
            return None
        return Sampler(params, prompt, self.info.n_vocab, self._vocab)

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode(errors="replace")
        if len(data) > self.n_ctx * self._longest_piece:
            # Not worth the time: some texts take llama.cpp seconds a megabyte.
            raise errors.ContextOverflow(
                f"the prompt has {len(data)} bytes, too many for a context of {self.n_ctx} tokens"
            )
        tokens = np.empty(len(data) + 8, np.int32)
        at = tokens.ctypes.data_as(lib.llama_token_p)
        n = lib.llama_tokenize(
            self._vocab, data, len(data), at, len(tokens), add_special, parse_special
        )
        if n < 0:
            raise errors.InvalidArgument(f"a prompt of {len(data)} bytes could not be tokenized")
        ids: list[int] = tokens[:n].tolist()
        return ids

    def _render(self, messages: list[dict[str, str]]) -> str:
        if self._template is None:
            raise errors.ModelError(f"{self.path}: the model has no chat template")
        try:
            if self._formatter is None:
                self._formatter = Jinja2ChatFormatter(
                    template=self._template,
                    eos_token=self._text_of(lib.llama_vocab_eos(self._vocab)),
                    bos_token=self._text_of(self._bos),
                )
            formatter: Any = self._formatter
            return str(formatter(messages=messages).prompt)
        except Exception as error:
            # A template is a program of the model's author: it may raise anything.
            raise errors.InvalidArgument(f"the chat template refused: {error}") from error

    def _text_of(self, token: int) -> str:
        if token < 0:
            return ""
        text: bytes = lib.llama_vocab_get_text(self._vocab, token)
        return text.decode(errors="replace")

    # Decoding.

    def run(self, step: Step) -> list[int]:
        for op in step.ops:
            if isinstance(op, Copy):
                self._check_sequences(op.src, op.dst)
                lib.llama_memory_seq_cp(self._memory, op.src, op.dst, -1, -1)
            else:
                self._check_sequences(op.seq_id)
                if not lib.llama_memory_seq_rm(self._memory, op.seq_id, op.start, -1):
                    raise DecodeError(f"sequence {op.seq_id} could not be cut at {op.start}")
        self._batch.n_tokens = self._rows.fill(step)
        code = lib.llama_decode(self._ctx, self._batch)
        if code != 0:
            raise DecodeError(f"llama_decode failed ({code}): {_said()}")
        return self._sample(step)

    def logits(self, n_outputs: int) -> NDArray[np.float32]:
        """The last step's logits, one row an output; valid until the next `run`."""
        rows: NDArray[np.float32] = np.ctypeslib.as_array(
            lib.llama_get_logits(self._ctx), (n_outputs, self.info.n_vocab)
        )
        return rows

    def _sample(self, step: Step) -> list[int]:
        if not step.outputs:
            return []
        logits = self.logits(len(step.outputs))
        best = logits.argmax(axis=1)
        # argmax finds a NaN if there is one; on a NaN the sampler chain would abort.
        if not np.isfinite(logits[np.arange(len(best)), best]).all():
            raise DecodeError("the model computed logits that are not numbers")
        tokens: list[int] = best.tolist()
        samplers = [output.sampler for output in step.outputs]
        # these first: they may fail, and nothing is accepted before all have a token
        for i, sampler in enumerate(samplers):
            if isinstance(sampler, Sampler) and sampler.grammar:
                tokens[i] = sampler.pick(logits[i], self._candidates)
        for i, sampler in enumerate(samplers):
            if isinstance(sampler, Sampler):
                if sampler.grammar:
                    sampler.accept(tokens[i])
                else:
                    row = step.outputs[i].row
                    tokens[i] = lib.llama_sampler_sample(sampler.chain, self._ctx, row)
        return tokens

    def _check_sequences(self, *ids: int) -> None:
        if len(set(ids)) < len(ids) or not all(0 <= i < self.n_seq for i in ids):
            raise DecodeError(f"no such sequences: {ids}")
