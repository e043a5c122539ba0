"""Whether a model's logits are the same bits however it is asked.

Owns the comparison: one prompt of 600 tokens, read in pieces of 1, 32 and 512 tokens, alone and
beside three other sequences, and its logits at 60, 300 and 600 cells.  Read in pieces of one it is
as an answer was decoded, in long ones as that answer is read again on another host; so what is
equal here stays equal over batching, chunking and a replay.  It is a fact about a file, a CPU, a
build of llama.cpp and the types of K and V (see `verdicts`), and found by doing it, never promised.

It must never be run while the runner serves somebody: it uses all of its sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llambo9p.engine.base import ModelInfo
from llambo9p.engine.runner import Op, Output, Remove, Step

CELLS = (60, 300, 600)
CHUNKS = (1, 32, 512)
NEIGHBOURS = 3
SINGLE = 4
"""tokens that a short look reads one by one"""
CONTEXT = 640
"""tokens that a sequence must have room for, and a step"""

Variant = tuple[int, int]
"""tokens of a piece, sequences beside it"""
WHOLE: Variant = (CHUNKS[-1], 0)
VARIANTS: tuple[Variant, ...] = tuple(
    variant for variant in product(CHUNKS, (0, NEIGHBOURS)) if variant != WHOLE
)


class Asked(Protocol):
    """What is compared: a runner with at least `NEIGHBOURS` + 1 sequences."""

    n_seq: int

    @property
    def info(self) -> ModelInfo: ...

    def run(self, step: Step) -> Sequence[object]: ...

    def logits(self, n_outputs: int) -> NDArray[np.float32]: ...


def prompt(n_vocab: int) -> list[int]:
    """600 tokens, in no simple order."""
    return [(100 + i * i * 31) % n_vocab for i in range(CELLS[-1])]


def differing(
    runner: Asked,
    variants: Iterable[Variant] = VARIANTS,
    progress: Callable[[], None] = lambda: None,
) -> Mapping[Variant, list[int]]:
    """The cells at which the bits differ from those of one whole piece, for each variant;
    `progress` is called when one is compared.  Raises `DecodeError`."""
    tokens = prompt(runner.info.n_vocab)
    whole = logits(runner, tokens, WHOLE)
    found = {}
    for variant in variants:
        progress()
        found[variant] = [
            cells
            for cells, one, other in zip(CELLS, whole, logits(runner, tokens, variant), strict=True)
            if one.tobytes() != other.tobytes()
        ]
    return found


def differs(runner: Asked, count: int) -> bool:
    """Whether the bits differ already after so few tokens, by whether the last `SINGLE` of them are
    read in one piece with the others or one by one.  When they do not, nothing is known yet.
    Raises `DecodeError`."""
    tokens = prompt(runner.info.n_vocab)[:count]
    cut = max(0, count - SINGLE)
    whole = _read(runner, tokens, [(0, count)], 0, [count])
    edges = [0, *range(cut or 1, count + 1)]
    return whole.tobytes() != _read(runner, tokens, pairwise(edges), 0, [count]).tobytes()


def logits(runner: Asked, tokens: Sequence[int], variant: Variant) -> NDArray[np.float32]:
    """The prompt's logits at each of `CELLS`."""
    chunk, neighbours = variant
    return _read(runner, tokens, _pieces(len(tokens), chunk), neighbours, CELLS)


def _read(
    runner: Asked,
    tokens: Sequence[int],
    pieces: Iterable[tuple[int, int]],
    neighbours: int,
    outputs: Sequence[int],
) -> NDArray[np.float32]:
    """The logits at these numbers of cells, on the second of several sequences."""
    mine = 1 if neighbours else 0
    lengths = [0] * (neighbours + 1)
    rows: list[NDArray[np.float32]] = []
    ops: list[Op] = [Remove(seq_id, 0) for seq_id in range(runner.n_seq)]
    for start, end in pieces:
        step = Step(ops)
        ops = []
        for seq_id, at in enumerate(lengths):
            if seq_id == mine:
                part = list(tokens[start:end])
                step.outputs = [
                    Output(len(step.token) + cells - 1 - start, None)
                    for cells in outputs
                    if start < cells <= end
                ]
            else:
                beside = max(1, (end - start) // 16)
                part = [
                    (200 + (at + i) * (seq_id + 7)) % runner.info.n_vocab for i in range(beside)
                ]
            step.token += part
            step.pos += range(at, at + len(part))
            step.seq_id += [seq_id] * len(part)
            lengths[seq_id] += len(part)
        runner.run(step)
        if step.outputs:
            rows += list(runner.logits(len(step.outputs)).copy())
    return np.array(rows)


def _pieces(count: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Where the prompt is cut.  Decoding one by one is slow, so a piece is of one for the first 60
    tokens and the last 32 before each of `CELLS`, and of 32 in between."""
    start = 0
    while start < count:
        near = start < CELLS[0] or any(cells - 32 <= start < cells for cells in CELLS)
        size = chunk if chunk > 1 or near else 32
        edges = [cells - 32 for cells in CELLS if start < cells - 32] if chunk == 1 else []
        end = min([start + size, count, *edges])
        yield start, end
        start = end
