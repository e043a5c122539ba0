"""The sequences of a llama_context: what each holds, and moving it.

Owns which cells of each sequence are known to be what they should, and the states that are saved
in host memory.  What the model's memory keeps is asked of llama.cpp itself: `learn` looks at a
sequence of one token, then of two.

Rules it keeps:
- An operation that fails leaves its sequence without cells, so that no row can continue it.
- No row continues a sequence whose memory has not all that it needs, whatever the cache planned.
- llama_memory_seq_cp would copy between streams at the next llama_decode only, and so what
  another operation has put in the place meanwhile; and all that a stream has room for, where a
  copy here is of what it holds.
- A sequence is never named -1: llama.cpp's recurrent memory loses its place then.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from llambo9p.engine.retention import Attention, Chunks, Retention, Sizes, State, Window
from llambo9p.engine.runner import (
    Copy,
    DecodeError,
    Keep,
    Op,
    Remove,
    Restore,
    Revert,
    Save,
    SavedCells,
    Step,
)

CHUNKED = ("llama4",)
"""architectures with LLAMA_SWA_TYPE_CHUNKED, which llama.cpp's API does not tell"""

_UINT8 = ctypes.POINTER(ctypes.c_uint8)
_WHOLE, _PARTIAL = 0, lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY


class Sequences:
    """`n_seq` of them, all empty; `model` is the llama_model of the context."""

    def __init__(self, ctx: Any, model: Any, architecture: str, n_seq: int) -> None:
        self._ctx = ctx
        self._model = model
        self._memory = lib.llama_get_memory(ctx)
        self._architecture = architecture
        self._n_seq = n_seq
        self._cells = [0] * n_seq
        """how many cells of each are known to be what they should"""
        self.retention: Retention = Attention()
        self.sizes = Sizes()
        self._first = 0, 0

    def learn(self) -> None:
        """Sequence 0 has its first token, or its second."""
        sizes = self._size(0, _WHOLE), self._size(0, _PARTIAL)
        if self._cells[0] == 1:
            self._first = sizes
            return
        whole, partial = self._first
        window = lib.llama_model_n_swa(self._model)
        window_cell = sizes[1] - partial if window else 0
        cell = sizes[0] - whole - window_cell
        if self._is_state():
            self.retention = State()
        elif window:
            self.retention = (Chunks if self._architecture in CHUNKED else Window)(window)
        self.sizes = Sizes(cell, window_cell, window, max(0, whole - cell - window_cell))

    def _is_state(self) -> bool:
        model = self._model
        if lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model):
            return True
        return not lib.llama_memory_seq_rm(self._memory, 0, 1, -1)

    def clear(self) -> None:
        """They are empty again."""
        lib.llama_memory_clear(self._memory, False)
        self._cells = [0] * self._n_seq

    def after(self, step: Step) -> list[int]:
        """The cells that there will be.  Raises DecodeError for a row that does not continue
        its sequence."""
        cells = self._cells.copy()
        for pos, seq_id in zip(step.pos, step.seq_id, strict=True):
            if pos != cells[seq_id]:
                raise DecodeError(f"sequence {seq_id} has {cells[seq_id]} cells, not {pos}")
            cells[seq_id] += 1
        return cells

    def decoded(self, cells: list[int]) -> None:
        """What `after` said is so now."""
        self._cells = cells

    def apply(self, op: Op) -> None:
        match op:
            case Copy(src, dst):
                self._check(src, dst)
                cells = SavedCells()
                self._save(src, cells, _WHOLE)
                self._restore(cells, dst)
            case Remove(seq_id, start):
                self._check(seq_id)
                self._remove(seq_id, start)
            case Save(seq_id, cells):
                self._check(seq_id)
                self._save(seq_id, cells, _WHOLE)
            case Keep(seq_id, cells):
                self._check(seq_id)
                self._save(seq_id, cells, _PARTIAL)
            case Restore(cells, seq_id):
                self._check(seq_id)
                self._restore(cells, seq_id)
            case Revert(cells, seq_id):
                self._check(seq_id)
                self._revert(cells, seq_id)

    def _check(self, *ids: int) -> None:
        if len(set(ids)) < len(ids) or not all(0 <= i < self._n_seq for i in ids):
            raise DecodeError(f"no such sequences: {ids}")

    def _remove(self, seq_id: int, start: int) -> None:
        if lib.llama_memory_seq_rm(self._memory, seq_id, start, -1):
            held = min(self._cells[seq_id], start)
            self._cells[seq_id] = held if self._goes_on(seq_id, held) else 0
        else:
            self._cells[seq_id] = 0

    def _goes_on(self, seq_id: int, at: int) -> bool:
        """Whether the sequence, which holds so many tokens, has all that the next one needs."""
        if at == 0 or isinstance(self.retention, Attention):
            return True
        if isinstance(self.retention, State):
            return bool(lib.llama_memory_seq_pos_max(self._memory, seq_id) == at - 1)
        needed = self.retention.needed(at)
        lowest = lib.llama_memory_seq_pos_min(self._memory, seq_id)
        return needed == at or bool(0 <= lowest <= needed)

    def _size(self, seq_id: int, flags: int) -> int:
        return int(lib.llama_state_seq_get_size_ext(self._ctx, seq_id, flags))

    def _save(self, seq_id: int, cells: SavedCells, flags: int) -> None:
        size = self._size(seq_id, flags)
        try:
            data = np.empty(size, np.uint8)
        except MemoryError:
            cells.failed = True
            return
        at = data.ctypes.data_as(_UINT8)
        read = lib.llama_state_seq_get_data_ext(self._ctx, at, size, seq_id, flags)
        cells.failed = read != size
        cells.data = data, self._cells[seq_id]

    def _restore(self, cells: SavedCells, seq_id: int) -> None:
        lib.llama_memory_seq_rm(self._memory, seq_id, 0, -1)
        self._cells[seq_id] = self._put(cells, seq_id, _WHOLE)

    def _revert(self, cells: SavedCells, seq_id: int) -> None:
        held = self._cells[seq_id]
        count = self._put(cells, seq_id, _PARTIAL)
        self._cells[seq_id] = count if count <= held else 0

    def _put(self, cells: SavedCells, seq_id: int, flags: int) -> int:
        """How many tokens the sequence holds then; 0 when that failed."""
        if not isinstance(cells.data, tuple) or cells.failed:
            return 0
        data, count = cells.data
        at = data.ctypes.data_as(_UINT8)
        size = lib.llama_state_seq_set_data_ext(self._ctx, at, len(data), seq_id, flags)
        return int(count) if size == len(data) else 0
