"""What a model takes of a machine's memory, and how many sequences its workers pay for.

Pure arithmetic over a GGUF's header, done before llama.cpp sees the file; each refusal
shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llambo9p import errors
from llambo9p.engine.gguf import TYPES, Header

F16, Q8_0 = 1, 8
"""ggml types"""
CELLS_PADDING = 256
"""llama.cpp rounds the cells of a sequence up to a multiple of this"""
PROCESS = 64 << 20
"""bytes of a host that serves nobody: 41 to 52 MiB were measured"""
MIB = 1 << 20


def padded(n_ctx: int) -> int:
    """The cells that llama.cpp makes for a sequence of `n_ctx` tokens."""
    return -(-n_ctx // CELLS_PADDING) * CELLS_PADDING


def kv_types(header: Header) -> tuple[int, int]:
    """The ggml types of K and V for a model: those with which its logits depend on nobody else,
    where llama.cpp has such (see `llama`)."""
    key, value = header.head
    block, _ = TYPES[Q8_0]
    if key % block:
        return F16, F16
    if header.latent:  # whose types must be the same
        return (F16, F16) if value % block else (Q8_0, Q8_0)
    return Q8_0, F16


def cache(header: Header, n_ctx: int) -> Cache:
    """A sequence's, with the types that suit the model."""
    return Cache(n_ctx, *kv_types(header))


@dataclass(frozen=True, slots=True)
class Cache:
    """A sequence's KV cache: its tokens, and the ggml types of K and V."""

    n_ctx: int
    type_k: int
    type_v: int

    def bytes(self, header: Header) -> int:
        return header.kv_bytes(padded(self.n_ctx), self.type_k, self.type_v)


def slots(header: Header, path: Path, cache: Cache, wanted: int, workers: int, memory: int) -> int:
    """The sequences, at most `wanted`, that so many workers with `memory` bytes each pay
    for.  Raises `ModelError` when it is none."""
    size = cache.bytes(header)
    found = min(wanted, workers * memory // size) if size else wanted
    if not found:
        raise errors.ModelError(
            f"{path}: the KV cache of {cache.n_ctx} tokens takes {size / MIB:.1f} MiB, more than "
            f"{workers} x {memory / MIB:.1f} MiB, the memory of the workers"
        )
    return found


def embedder(header: Header, cache: Cache, n_batch: int) -> int:
    """Bytes of a sequence for texts that are embedded, `n_batch` rows a step."""
    return cache.bytes(header) + n_batch * (header.vocabulary * 4 + header.width * 52)


def left(
    header: Header, path: Path, cache: Cache, n_seq: int, n_batch: int, available: float
) -> float:
    """What `n_seq` sequences, and `n_batch` rows a step, leave of `available` bytes.  Raises
    `ModelError` when they do not fit.

    Beside weights and KV llama.cpp has buffers for the rows of a step and, twice, for the
    logits of each sequence; the sum was 13 to 26 MiB more than was measured.
    """
    kv = cache.bytes(header)
    other = PROCESS + n_seq * header.vocabulary * 8 + n_batch * header.width * 48
    total = header.weights + n_seq * kv + other
    if total > available:
        raise errors.ModelError(
            f"{path}: weights {header.weights / MIB:.0f} MiB + {n_seq} sequences x "
            f"{cache.n_ctx} tokens x {kv / padded(cache.n_ctx) / 1024:.1f} KiB + "
            f"{other / MIB:.0f} MiB to work with = {total / MIB:.0f} MiB, "
            f"more than the {available / MIB:.0f} MiB that are available"
        )
    return available - total
