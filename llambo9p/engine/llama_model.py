"""A GGUF model in memory: its weights, what it says of itself, and its vocabulary.

Owns the llama_model.  Contexts are made of `handle` elsewhere, any number of them; none may
be left when `close` frees it.

Special tokens.  In a chat no message can spell one (see `chat`).  A text prompt
(`complete`) is the caller's own, and special tokens in it are recognised.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from llambo9p import errors
from llambo9p.engine import chat, gguf, kinds, llama_log
from llambo9p.engine.base import ModelInfo
from llambo9p.engine.llama_matcher import Grammars
from llambo9p.engine.runner import Prompt
from llambo9p.engine.sandbox.templates import Template

LOAD_MODES = {
    (False, False): lib.LLAMA_LOAD_MODE_NONE,
    (True, False): lib.LLAMA_LOAD_MODE_AUTO,
    (False, True): lib.LLAMA_LOAD_MODE_MLOCK,
    (True, True): lib.LLAMA_LOAD_MODE_MMAP_MLOCK,
}
"""by use_mmap and use_mlock"""


@dataclass(frozen=True, slots=True)
class ModelParams:
    """How a model is loaded; names and meaning are llama.cpp's."""

    n_gpu_layers: int = -1
    """layers that a GPU holds, if llama.cpp was built for one; below 0: all"""
    use_mmap: bool = True
    """the weights are pages of the file, if the system can, and not a copy of it"""
    use_mlock: bool = False
    """the weights are never swapped out, as far as the system allows"""
    vocab_only: bool = False
    """no weights: a model that can tokenize and nothing else"""
    plain: bool = False
    """matrix products row by row: weights are not repacked (use_extra_bufts), and no K-quants are
    multiplied in tiles (GGML_CPU_TILED_MM).  More models are exact then, and all are slower.  The
    latter is of a process: it must come before anything was computed in it"""


class LlamaModel:
    """A model.  After `load` and until `close` all else may be called, by
    several threads at once."""

    def __init__(self, path: Path | str, params: ModelParams | None = None) -> None:
        self.path = Path(path)
        self.params = params or ModelParams()
        self.handle: Any = None
        """the llama_model; None when there is none"""
        self.vocab: Any = None
        """the llama_vocab, a part of it"""
        self._contexts = 0
        self._closed = False
        self._info: ModelInfo | None = None
        self._pieces: dict[int, bytes] = {}
        self._template: Template | None = None
        self.grammars = Grammars(self)
        """those of its answers"""

    @property
    def info(self) -> ModelInfo:
        if self._info is None:
            raise errors.ModelError(f"{self.path}: not loaded")
        return self._info

    @functools.cached_property
    def header(self) -> gguf.Header:
        """What the file says before llama.cpp has seen it.  Raises `ModelError`, also for what no
        host can be started with."""
        return kinds.check(gguf.read(self.path), self.path)

    @property
    def first_token(self) -> int:
        """One that any text may begin with."""
        return max(self._bos, 0)

    def load(self, progress: Callable[[float], bool]) -> None:
        """`progress` is told 0 to 1 and answers whether to go on.  Raises `ModelError`."""
        _ = self.header  # refused before llama.cpp sees the file
        llama_log.listen()
        if self.params.plain:
            os.environ["GGML_CPU_TILED_MM"] = "0"
        lib.llama_backend_init()
        self._load(progress)
        self._read_info()
        self._read_vocab()

    def close(self) -> None:
        """Free it, as soon as the contexts over it are closed."""
        self._closed = True
        if self._contexts:
            return
        self.grammars.close()
        if self._template is not None:
            self._template.close()
        if self.handle is not None:
            lib.llama_model_free(self.handle)
            self.handle = self.vocab = None

    def context_opened(self) -> None:
        self._contexts += 1

    def context_closed(self) -> None:
        self._contexts -= 1
        if self._closed:
            self.close()

    def _load(self, progress: Callable[[float], bool]) -> None:
        params = lib.llama_model_default_params()
        params.n_gpu_layers = self.params.n_gpu_layers
        params.load_mode = LOAD_MODES[self.params.use_mmap, self.params.use_mlock]
        params.vocab_only = self.params.vocab_only
        params.use_extra_bufts = not self.params.plain
        given_up = False

        def on_progress(fraction: float, _: object) -> bool:
            nonlocal given_up
            given_up = not progress(fraction)
            return not given_up

        callback = lib.llama_progress_callback(on_progress)
        params.progress_callback = callback
        self.handle = lib.llama_model_load_from_file(os.fsencode(self.path), params)
        if given_up:
            raise errors.ModelError(f"{self.path}: loading was given up")
        if self.handle is None:
            raise errors.ModelError(f"{self.path}: {llama_log.said()}")

    def _read_info(self) -> None:
        model = self.handle
        description = ctypes.create_string_buffer(128)
        lib.llama_model_desc(model, description, len(description))
        template = lib.llama_model_chat_template(model, None)
        self.vocab = lib.llama_model_get_vocab(model)
        self._info = ModelInfo(
            name=self.path.stem,
            path=str(self.path),
            size=lib.llama_model_size(model),
            n_params=lib.llama_model_n_params(model),
            n_ctx_train=lib.llama_model_n_ctx_train(model),
            n_vocab=lib.llama_vocab_n_tokens(self.vocab),
            description=description.value.decode(errors="replace"),
            has_chat_template=template is not None,
        )

    def _read_vocab(self) -> None:
        vocab = self.vocab
        special = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        tokens = range(self.info.n_vocab)
        self._eog = frozenset(t for t in tokens if lib.llama_vocab_is_eog(vocab, t))
        self._special: re.Pattern[str] | None = chat.spelling(
            self._spelling(t) for t in tokens if lib.llama_vocab_get_attr(vocab, t) & special
        )
        self._longest_piece = max(len(lib.llama_vocab_get_text(vocab, t)) for t in tokens)
        self._bos: int = lib.llama_vocab_bos(vocab)
        if template := lib.llama_model_chat_template(self.handle, None):
            variables = {
                "bos_token": self._spelling(self._bos),
                "eos_token": self._spelling(lib.llama_vocab_eos(vocab)),
            }
            self._template = Template(template.decode(errors="replace"), variables)

    # Text.

    def tokenize(self, prompt: Prompt, n_ctx: int) -> list[int]:
        """As `runner.Model.tokenize`, for a context of `n_ctx` tokens."""
        if isinstance(prompt, str):
            tokens = self.tokens_of(prompt, n_ctx=n_ctx)
        else:
            parts = chat.segments(prompt, self._render, self._special)
            bos = self._spelling(self._bos) if self._bos >= 0 else ""
            add_special = not (bos and parts and parts[0][0].startswith(bos))
            tokens = []
            for text, parse_special in parts:
                tokens += self.tokens_of(text, add_special, parse_special, n_ctx)
                add_special = False
        if not tokens and self._bos >= 0:
            tokens = [self._bos]
        if not tokens:
            raise errors.InvalidArgument("the prompt is empty")
        return tokens

    def tokens_of(
        self,
        text: str,
        add_special: bool = True,
        parse_special: bool = True,
        n_ctx: int | None = None,
    ) -> list[int]:
        """llama_tokenize.  `add_special` adds what the model wants at the ends (BOS, EOS);
        `parse_special` recognises special tokens in the text.  Raises `ContextOverflow` for
        a text that is certainly longer than `n_ctx` tokens."""
        data = text.encode(errors="replace")
        if n_ctx is not None and len(data) > n_ctx * self._longest_piece:
            # Not worth the time: some texts take llama.cpp seconds a megabyte.
            raise errors.ContextOverflow(
                f"the prompt has {len(data)} bytes, too many for a context of {n_ctx} tokens"
            )
        tokens = np.empty(len(data) + 8, np.int32)
        at = tokens.ctypes.data_as(lib.llama_token_p)
        n = lib.llama_tokenize(
            self.vocab, data, len(data), at, len(tokens), add_special, parse_special
        )
        if n < 0:
            raise errors.InvalidArgument(f"a text of {len(data)} bytes could not be tokenized")
        ids: list[int] = tokens[:n].tolist()
        return ids

    def text_of(self, tokens: Sequence[int]) -> str:
        """llama_detokenize, the inverse: without what `add_special` adds, special tokens
        spelled out, bytes that are no UTF-8 replaced."""
        for token in tokens:
            self._check_token(token)
        ids = (lib.llama_token * len(tokens))(*tokens)
        size = -lib.llama_detokenize(self.vocab, ids, len(ids), None, 0, True, True)
        buffer = ctypes.create_string_buffer(max(size, 1))
        size = lib.llama_detokenize(self.vocab, ids, len(ids), buffer, size, True, True)
        return buffer.raw[:size].decode(errors="replace")

    def piece(self, token: int) -> bytes:
        """The token's bytes; empty for a special token."""
        known = self._pieces.get(token)
        if known is None:
            self._check_token(token)
            buffer = ctypes.create_string_buffer(64)
            size = lib.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, False)
            if size < 0:
                buffer = ctypes.create_string_buffer(-size)
                size = lib.llama_token_to_piece(self.vocab, token, buffer, -size, 0, False)
            known = self._pieces[token] = buffer.raw[:size]
        return known

    def _check_token(self, token: int) -> None:
        if not 0 <= token < self.info.n_vocab:
            raise errors.InvalidArgument(
                f"no such token: {token}; the model has 0 to {self.info.n_vocab - 1}"
            )

    def is_eog(self, token: int) -> bool:
        """Whether the token ends the generation."""
        return token in self._eog

    def _render(self, messages: list[dict[str, str]]) -> str:
        if self._template is None:
            raise errors.ModelError(f"{self.path}: the model has no chat template")
        return self._template.render(messages)

    def _spelling(self, token: int) -> str:
        if token < 0:
            return ""
        spelled: bytes = lib.llama_vocab_get_text(self.vocab, token)
        return spelled.decode(errors="replace")
