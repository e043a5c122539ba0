"""The parameters of a llama_context, for one that decodes and for one that embeds.

What a context takes of memory is asked of llama.cpp (`llama_needs`) with the very parameters that
it is made with later; so they are said here, and nowhere else.
"""

from __future__ import annotations

from typing import Any

import llama_cpp.llama_cpp as lib

from llambo9p.engine import memory
from llambo9p.engine.memory import EMBED_CHUNK


def decoding(n_ctx: int, n_seq: int, n_batch: int, kv_types: tuple[int, int]) -> Any:
    """For `n_seq` sequences of `n_ctx` tokens, and steps of `n_batch` rows; `kv_types` are the ggml
    types of K and V."""
    params = lib.llama_context_default_params()
    params.n_seq_max = params.n_outputs_max = n_seq
    params.n_ctx = memory.padded(n_ctx) * n_seq
    params.n_batch = params.n_ubatch = n_batch
    params.type_k, params.type_v = kv_types
    params.kv_unified = False
    params.swa_full = True  # with less the order of cells, and so the bits, would be others
    params.no_perf = True
    return params


def embedding(n_ctx: int, kv_types: tuple[int, int]) -> Any:
    """For one text of at most `n_ctx` tokens, `EMBED_CHUNK` a step, each with its embedding."""
    params = decoding(n_ctx, 1, EMBED_CHUNK, kv_types)
    params.n_outputs_max = EMBED_CHUNK
    params.embeddings = True
    params.pooling_type = lib.LLAMA_POOLING_TYPE_NONE
    return params
