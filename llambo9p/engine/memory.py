"""What a model takes of a machine's memory, and how many sequences its workers pay for.

Pure arithmetic over a GGUF's header, done before llama.cpp sees the file; each refusal
shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llambo9p import errors
from llambo9p.engine.gguf import TYPES, Header

RopeScaling = Literal["none", "linear", "yarn"]
"""how a context beyond the one that a model was trained for is made; none: it is refused"""
F16, Q8_0, BF16 = 1, 8, 30
"""ggml types"""
KV_TYPES = {
    "f32": 0, "f16": F16, "bf16": BF16, "q8_0": Q8_0, "q4_0": 2, "q4_1": 3, "iq4_nl": 20, "q5_0": 6,
    "q5_1": 7,
}  # fmt: skip
"""those that llama.cpp can keep K and V in, as it names them"""
CELLS_PADDING = 256
"""llama.cpp rounds the cells of a sequence up to a multiple of this"""
PROCESS = 64 << 20
"""bytes of a host that serves nobody: 41 to 52 MiB were measured"""
MIB = 1 << 20
EMBED_CHUNK = 32
"""tokens of a text that are embedded in one step"""


def padded(n_ctx: int) -> int:
    """The cells that llama.cpp makes for a sequence of `n_ctx` tokens."""
    return -(-n_ctx // CELLS_PADDING) * CELLS_PADDING


def kv_types(header: Header) -> tuple[int, int]:
    """The ggml types of K and V for a model: those with which its logits depend on nobody else,
    where llama.cpp has such (see `llama`)."""
    key, value = header.head
    block, _ = TYPES[Q8_0]
    if header.latent:  # whose types must be the same
        return (BF16, BF16) if key % block or value % block else (Q8_0, Q8_0)
    return (BF16 if key % block else Q8_0), F16


def parse_kv_type(text: str) -> tuple[int, int]:
    """The ggml types of K and V of a `K/V`, or of one name for both.  Raises `InvalidArgument`."""
    names = text.split("/") if "/" in text else [text, text]
    types = [KV_TYPES[name] for name in names if name in KV_TYPES]
    if len(names) != 2 or len(types) != 2:
        raise errors.InvalidArgument(
            f"{text!r} is no type of K and V: they are {' '.join(KV_TYPES)}, or two, as q8_0/f16"
        )
    key, value = types
    return key, value


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a model takes beside its weights."""

    sequence: int
    """for what one sequence keeps: a KV cache of its tokens, states"""
    work: int
    """for the rows of a step"""
    logits: int
    """of one sequence"""
    embedder: int
    """to embed, beside all that"""


def estimate(header: Header, n_ctx: int, n_batch: int) -> Need:
    """About; where llama.cpp can be asked, `llama_needs` knows.

    Windows, states and caches that layers share are not considered.  llama.cpp has buffers for the
    rows of a step and, twice, for the logits of each sequence; the sum was 13 to 26 MiB more than
    was measured with models without these.
    """
    sequence = header.kv_bytes(padded(n_ctx), *kv_types(header))
    embedder = sequence + EMBED_CHUNK * (header.vocabulary * 4 + header.width * 52)
    return Need(sequence, n_batch * header.width * 48, header.vocabulary * 8, embedder)


def slots(path: Path, n_ctx: int, need: Need, wanted: int, workers: int, memory: int) -> int:
    """The sequences of `n_ctx` tokens, at most `wanted`, that so many workers with `memory` bytes
    each pay for.  Raises `ModelError` when it is none."""
    size = need.sequence
    found = min(wanted, workers * memory // size) if size else wanted
    if not found:
        raise errors.ModelError(
            f"{path}: the KV cache of {n_ctx} tokens takes {size / MIB:.1f} MiB, more than "
            f"{workers} x {memory / MIB:.1f} MiB, the memory of the workers"
        )
    return found


def check_weights(path: Path, weights: int, available: float) -> None:
    """Raises `ModelError` when they alone do not fit."""
    if weights > available:
        raise errors.ModelError(
            f"{path}: weights {weights / MIB:.0f} MiB, more than the {available / MIB:.0f} MiB "
            "that are available"
        )


def left(path: Path, weights: int, need: Need, n_ctx: int, n_seq: int, available: float) -> float:
    """What the weights and `n_seq` sequences of `n_ctx` tokens leave of `available` bytes.
    Raises `ModelError` when they do not fit."""
    other = PROCESS + need.work + n_seq * need.logits
    total = weights + n_seq * need.sequence + other
    if total > available:
        raise errors.ModelError(
            f"{path}: weights {weights / MIB:.0f} MiB + {n_seq} sequences of {n_ctx} tokens x "
            f"{need.sequence / MIB:.1f} MiB + {other / MIB:.0f} MiB to work with = "
            f"{total / MIB:.0f} MiB, more than the {available / MIB:.0f} MiB that are available"
        )
    return available - total
