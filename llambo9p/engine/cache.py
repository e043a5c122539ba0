"""Which KV sequence holds which tokens, and for which conversation.

Owns the book of cells: for each sequence the tokens that the KV cache holds at
positions 0, 1, 2, ...  It gives out sequences, says what to copy and remove so that
a prompt finds as much of itself as there is, and keeps the busy ones dense.

Rules it keeps:
- A conversation finds its own sequence again, if no other request is on it.
- Otherwise the lowest sequence kept for nobody, otherwise the least recently used.
- A prefix that another sequence of the same user holds is copied, busy or not, when that
  saves at least `MIN_SHARE` tokens: a copy costs about one token's prefill, measured.
- What one user asked is of no use to another, who could guess it word by word from the
  time that it saves.
- Busy sequences have the seq_ids 0 to n-1: llama.cpp's separate streams batch only
  consecutive ascending ones, each gap costs one pass over the weights a step.  So
  `compact` moves them; a move is one copy and pays after one step, measured.
- The real cells of a sequence may be more than the book says, never others: every
  sequence given out is cut by a `Remove` to what the book says.

It must never give one sequence to two requests, and never touch llama.cpp: it
returns the operations, the runner carries them out in order before the next rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from llambo9p.engine.runner import Copy, Op, Remove

MIN_SHARE = 16
"""tokens that a copy of another sequence's prefix must save"""


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix; compares slices, so at C speed."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class CachedSequence:
    """One KV sequence.  `seq_id` changes when `compact` moves its cells."""

    __slots__ = ("busy", "owner", "seq_id", "tokens", "used", "user")

    def __init__(self, seq_id: int) -> None:
        self.seq_id = seq_id
        self.tokens: list[int] = []
        """the token in each cell, by position"""
        self.owner: Hashable = None
        """the conversation it is kept for"""
        self.user = ""
        """who asked what it holds"""
        self.busy = False
        self.used = 0

    def __repr__(self) -> str:
        busy = " busy" if self.busy else ""
        return f"<seq {self.seq_id}: {len(self.tokens)} cells for {self.owner!r}{busy}>"


class Cache:
    """The book over `n_seq` sequences."""

    def __init__(self, n_seq: int) -> None:
        self.sequences = [CachedSequence(i) for i in range(n_seq)]
        self._clock = 0

    def acquire(self, conversation: Hashable, user: str = "") -> CachedSequence:
        """A sequence for a request of the user's `conversation`, now busy.

        Call `seed` before its first rows.  There must be one that is not busy.
        """
        free = [s for s in self.sequences if not s.busy]
        chosen = self._choose(free, conversation)
        if conversation is not None:
            self.forget(conversation)
        chosen.owner = conversation
        if chosen.user != user:
            chosen.user = user
            chosen.tokens = []
        chosen.busy = True
        return chosen

    def seed(self, sequence: CachedSequence, prompt: Sequence[int]) -> list[Op]:
        """Bring as many of the prompt's tokens into `sequence` as the cache holds.

        At least the last one is left out: its logits must be computed.  Afterwards
        `sequence.tokens` is what the prompt need not prefill.
        """
        usable = prompt[:-1]
        kept = common_prefix(sequence.tokens, usable)
        others = [
            s
            for s in self.sequences
            if s is not sequence and s.user == sequence.user and len(s.tokens) > kept
        ]
        shared, source = max(
            ((common_prefix(s.tokens, usable), s) for s in others),
            key=lambda pair: pair[0],
            default=(0, sequence),
        )
        ops: list[Op] = []
        if shared >= kept + MIN_SHARE:
            ops.append(Copy(source.seq_id, sequence.seq_id))
            kept = shared
        sequence.tokens = list(prompt[:kept])
        ops.append(Remove(sequence.seq_id, kept))
        return ops

    def release(self, sequence: CachedSequence) -> None:
        """The request is over.  What is in the cells stays until somebody needs them."""
        sequence.busy = False
        self._clock += 1
        sequence.used = self._clock

    def forget(self, conversation: Hashable) -> None:
        """Keep nothing for `conversation`: its sequence is the next to be taken."""
        for sequence in self.sequences:
            if sequence.owner == conversation:
                sequence.owner = None

    def compact(self) -> list[Op]:
        """Move busy sequences until their seq_ids are 0 to n-1."""
        ops: list[Op] = []
        while True:
            busy = [s for s in self.sequences if s.busy]
            highest = max(busy, key=lambda s: s.seq_id, default=None)
            if highest is None or highest.seq_id < len(busy):
                return ops
            free = [s for s in self.sequences if not s.busy]
            ops += self._move(highest, min(free, key=lambda s: s.seq_id), free)

    def _choose(self, free: list[CachedSequence], conversation: Hashable) -> CachedSequence:
        if conversation is not None:
            for sequence in free:
                if sequence.owner == conversation:
                    return sequence
        unowned = [s for s in free if s.owner is None]
        if unowned:
            return min(unowned, key=lambda s: s.seq_id)
        return min(free, key=lambda s: s.used)

    def _move(
        self, moved: CachedSequence, target: CachedSequence, free: list[CachedSequence]
    ) -> list[Op]:
        """Give `moved` the target's place; what `target` keeps moves to a third one."""
        old, new = moved.seq_id, target.seq_id
        spare = target
        if target.owner is not None:
            unowned = [s for s in free if s.owner is None]
            spare = min(unowned or free, key=lambda s: s.used)
        ops: list[Op] = []
        if spare is not target:
            ops.append(Copy(new, spare.seq_id))
            target.seq_id = spare.seq_id
        ops.append(Copy(old, new))
        moved.seq_id = new
        spare.seq_id = old
        spare.tokens = []
        spare.owner = None
        return ops
