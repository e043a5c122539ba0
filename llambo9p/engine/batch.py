"""The rows of a step in arrays that llama_decode reads, checked.

Owns the memory behind one llama_batch: filled by slices.

It must never let a row through that llama.cpp would abort on or read out of bounds.
"""

from __future__ import annotations

import numpy as np

from llambo9p.engine.runner import DecodeError, Step


class Batch:
    """Room for `n_batch` rows of `n_seq` sequences with `n_ctx` cells each.

    The arrays are those of `struct llama_batch` (llama.h) by its names; `seq_id` there
    is an array of pointers, here `seq_id_at`, into `seq_id`: one sequence a row.
    """

    def __init__(self, n_batch: int, n_seq: int, n_ctx: int, n_vocab: int) -> None:
        self._n_batch = n_batch
        self._n_seq = n_seq
        self._n_ctx = n_ctx
        self._n_vocab = n_vocab
        self.token = np.zeros(n_batch, np.int32)
        self.pos = np.zeros(n_batch, np.int32)
        self.n_seq_id = np.ones(n_batch, np.int32)
        self.seq_id = np.zeros(n_batch, np.int32)
        self.logits = np.zeros(n_batch, np.int8)
        self.seq_id_at = (self.seq_id.ctypes.data + 4 * np.arange(n_batch)).astype(np.uintp)

    def fill(self, step: Step) -> int:
        """Write the step's rows, return how many.  Raises `DecodeError`."""
        n = len(step.token)
        if not 0 < n <= self._n_batch or not n == len(step.pos) == len(step.seq_id):
            raise DecodeError(f"a step must have 1 to {self._n_batch} rows, not {n}")
        outputs = [output.row for output in step.outputs]
        if len(outputs) > self._n_seq or not all(0 <= row < n for row in outputs):
            raise DecodeError(f"a step must have at most {self._n_seq} outputs, all on its rows")
        for what, values, end in (
            ("token", step.token, self._n_vocab),
            ("position", step.pos, self._n_ctx),
            ("sequence", step.seq_id, self._n_seq),
        ):
            if min(values) < 0 or max(values) >= end:
                raise DecodeError(f"a step has a {what} outside 0 to {end - 1}")
        self.token[:n], self.pos[:n], self.seq_id[:n] = step.token, step.pos, step.seq_id
        self.logits[:n] = 0
        self.logits[outputs] = 1
        return n
