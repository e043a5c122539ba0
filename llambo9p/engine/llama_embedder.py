"""Embeddings by llama.cpp: a context of one sequence beside the one that decodes.

Owns that context.  An embedding is the mean of what the model's last layer gives for each of
the text's tokens, of length 1.  llama.cpp's own mean pooling takes a text in one batch only,
for which everybody would wait; so it gives the tokens' embeddings, and they are added here.

It must never be given a text that is longer than its context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from llambo9p import errors
from llambo9p.engine import llama_context, llama_log
from llambo9p.engine.llama_model import LlamaModel
from llambo9p.engine.runner import DecodeError, Embedding


class LlamaEmbedder:
    """Cells for one text of at most `n_ctx` tokens, which is decoded `memory.EMBED_CHUNK` at once;
    `kv_types` are the ggml types of K and V."""

    def __init__(
        self, model: LlamaModel, n_ctx: int, kv_types: tuple[int, int], n_threads: int
    ) -> None:
        """Raises `ModelError` when the model cannot."""
        params = llama_context.embedding(n_ctx, kv_types)
        params.n_threads = params.n_threads_batch = n_threads
        self._ctx: Any = lib.llama_init_from_model(model.handle, params)
        if self._ctx is None:
            raise errors.ModelError(f"{model.path}: this model cannot embed: {llama_log.said()}")
        self._n_batch = params.n_batch
        self._n_embd = lib.llama_model_n_embd_out(model.handle)

    def close(self) -> None:
        lib.llama_free(self._ctx)

    def embed(self, tokens: Sequence[int]) -> Embedding:
        """See `runner.Runner.embed`."""
        lib.llama_memory_clear(lib.llama_get_memory(self._ctx), False)
        total = np.zeros(self._n_embd)
        for start in range(0, len(tokens), self._n_batch):
            yield len(tokens) - start
            total += self._decode(tokens[start : start + self._n_batch]).sum(axis=0, dtype=float)
        length = np.linalg.norm(total)
        if not 0 < length < np.inf:  # a NaN is not either
            raise DecodeError("the model computed an embedding that is not numbers")
        embedding: NDArray[np.float32] = (total / length).astype(np.float32)
        return embedding

    def _decode(self, part: Sequence[int]) -> NDArray[np.float32]:
        """One row for each of the tokens, which follow those before."""
        ids = (lib.llama_token * len(part))(*part)
        code = lib.llama_decode(self._ctx, lib.llama_batch_get_one(ids, len(part)))
        if code != 0:
            raise DecodeError(f"llama_decode failed ({code}): {llama_log.said()}")
        at = lib.llama_get_embeddings(self._ctx)
        if not at:
            raise errors.ModelError("this model cannot embed: llama.cpp gives no embeddings")
        rows: NDArray[np.float32] = np.ctypeslib.as_array(at, (len(part), self._n_embd))
        return rows
