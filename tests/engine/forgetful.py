"""Simulated runners whose memory really forgets, as llama.cpp's do.

Owns what is physically there of each sequence, beside the cells that are never forgotten: in
windows and chunks a set of positions, of a state the one after which it is.  Nothing here asks
`llambo9p.engine.retention`: the tests compare the two.
"""

from __future__ import annotations

from llambo9p.engine import retention
from llambo9p.engine.retention import Sizes
from llambo9p.engine.runner import Copy, Keep, Remove, Restore, Revert, Save
from llambo9p.engine.simulated import SimulatedRunner


class Seen:
    """What one sequence has for those layers that see only some positions."""

    def __init__(self, visible):
        self.visible = visible
        """(earlier position, later one) -> whether the one sees the other"""
        self.there = set()

    def copied(self):
        """What of it a saved state has."""
        copy = Seen(self.visible)
        last = max(self.there, default=-1)
        copy.there = {at for at in self.there if self.visible(at, last)}
        return copy

    def cut(self, start):
        self.there = {at for at in self.there if at < start}

    def decode(self, pos):
        needed = {at for at in range(pos) if self.visible(at, pos)}
        assert needed <= self.there, f"{needed - self.there} are missing at {pos}"
        self.there.add(pos)


class After:
    """The state after so many tokens."""

    def __init__(self, count=0):
        self.count = count

    def copied(self):
        return After(self.count)

    def cut(self, start):
        assert start == 0 or start >= self.count, (
            f"a state of {self.count} cannot be cut to {start}"
        )
        if start == 0:
            self.count = 0

    def decode(self, pos):
        assert pos == self.count, f"a state of {self.count} cannot be gone on from at {pos}"
        self.count += 1


SIZE = 6
KINDS = {
    "window": (
        retention.Window(SIZE),
        lambda: Seen(lambda at, later: later - at < SIZE),
        Sizes(cell=8, window_cell=8, window=SIZE),
    ),
    "chunks": (
        retention.Chunks(SIZE),
        lambda: Seen(lambda at, later: at // SIZE == later // SIZE),
        Sizes(cell=8, window_cell=8, window=SIZE),
    ),
    "state": (retention.State(), After, Sizes(cell=8, fixed=30)),
}


class Forgetful(SimulatedRunner):
    """`kind` names one of `KINDS`."""

    def __init__(self, kind, **options):
        super().__init__(**options)
        self._retention, empty, self._sizes = KINDS[kind]
        self._memory = [empty() for _ in range(self.n_seq)]
        self.kept = 0
        """checkpoints that were made"""

    @property
    def retention(self):
        return self._retention

    @property
    def sizes(self):
        return self._sizes

    def _apply(self, op):
        memory = self._memory
        match op:
            case Copy(src, dst):
                memory[dst] = memory[src].copied()
                super()._apply(op)
            case Remove(seq_id, start):
                memory[seq_id].cut(start)
                super()._apply(op)
            case Save(seq_id, cells):
                cells.data = list(self.cells[seq_id]), memory[seq_id].copied()
            case Restore(cells, seq_id):
                tokens, seen = cells.data
                self.cells[seq_id], memory[seq_id] = list(tokens), seen.copied()
            case Keep(seq_id, cells):
                self.kept += 1
                cells.data = list(self.cells[seq_id]), memory[seq_id].copied()
            case Revert(cells, seq_id):
                tokens, seen = cells.data
                assert self.cells[seq_id][: len(tokens)] == tokens
                memory[seq_id] = seen.copied()

    def _check_rows(self, step):
        super()._check_rows(step)
        for pos, seq_id in zip(step.pos, step.seq_id, strict=True):
            self._memory[seq_id].decode(pos)
