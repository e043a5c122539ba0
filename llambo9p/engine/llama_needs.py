"""What a model takes of memory, asked of llama.cpp before it reads any weights.

llama.cpp can load a model without its tensors (`no_alloc`), and make contexts over it that have
the sizes of their buffers and none of these.  What it finds is told in its log only; a size that
is not found there is taken from `memory.estimate`.

It also refuses here, in milliseconds, what it would refuse after having read the file: an
architecture that it does not know, tensors that are missing.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from llambo9p import errors
from llambo9p.engine import llama_context, llama_log, memory
from llambo9p.engine.gguf import Header
from llambo9p.engine.memory import MIB, Need

_KEPT = re.compile(r"^llama_(?:kv_cache|memory)\w*: size = +([\d.]+) MiB")
"""a KV cache or states"""
_WORK = re.compile(r"compute buffer size = +([\d.]+) MiB")
_LOGITS = re.compile(r"output buffer size = +([\d.]+) MiB")


@functools.lru_cache(maxsize=8)
def ask(
    path: Path, header: Header, n_ctx: int, n_batch: int, kv_types: tuple[int, int]
) -> Need:
    """For sequences of `n_ctx` tokens and steps of `n_batch` rows.  Raises `ModelError` when
    llama.cpp refuses the model."""
    llama_log.listen()
    lib.llama_backend_init()
    params = lib.llama_model_default_params()
    params.no_alloc = True
    params.load_mode = lib.LLAMA_LOAD_MODE_NONE
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if model is None:
        raise errors.ModelError(f"{path}: {llama_log.said()}")
    try:
        guess = memory.estimate(header, n_ctx, n_batch)
        decoding = llama_context.decoding(n_ctx, 1, n_batch, kv_types)
        kept, work, logits = _sizes(path, model, decoding)
        embedder = sum(_sizes(path, model, llama_context.embedding(n_ctx, kv_types)))
        return Need(
            kept,
            work or guess.work,
            # llama.cpp's own, and the candidates of a sampler
            2 * logits or guess.logits,
            embedder,
        )
    finally:
        lib.llama_model_free(model)


def _sizes(path: Path, model: Any, params: Any) -> tuple[int, int, int]:
    """Bytes of a context of one sequence: what it keeps, for its rows, and for an output."""
    with llama_log.heard() as lines:
        context = lib.llama_init_from_model(model, params)
    if context is None:
        raise errors.ModelError(f"{path}: no context could be made: {llama_log.said()}")
    lib.llama_free(context)
    return _sum(_KEPT, lines), _sum(_WORK, lines), _sum(_LOGITS, lines)


def _sum(pattern: re.Pattern[str], lines: Iterable[str]) -> int:
    """Bytes of all that the lines tell of this kind."""
    return round(sum(float(found[1]) for line in lines if (found := pattern.search(line))) * MIB)
