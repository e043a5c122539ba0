"""Which KV sequence holds which tokens, and for which conversation.

Owns the book of cells: for each sequence the tokens that the KV cache holds at
positions 0, 1, 2, ...; and the same of sequences whose cells were saved in host memory
when others needed their place.  It gives out sequences, says what to save, restore, copy
and remove so that a prompt finds as much of itself as there is, and keeps the busy ones
dense.

Rules it keeps:
- A conversation finds its own sequence again, if no other request is on it.
- Otherwise the lowest sequence kept for nobody, otherwise the least recently used, whose
  cells are saved while `ram` bytes have room; the least recently used of those make it.
- The longest prefix that any sequence of the same scope holds, busy, idle or saved, is
  copied when that saves at least `MIN_SHARE` tokens.  Measured with SmolLM2-135M on 2 cores:
  saving takes 1 to 20 and restoring 1 to 2 microseconds a token, and so does a copy, which
  is both; prefilling 2 to 5 milliseconds.
- What was asked in one scope (`Request.scope`: a user, and the label of his requests) is of no use
  in another, whose user could guess it word by word from the time that it saves.
- Busy sequences have the seq_ids 0 to n-1: llama.cpp's separate streams batch only
  consecutive ascending ones, each gap costs one pass over the weights a step.  So
  `compact` moves them; a move is one copy and pays after one step, measured.  What is kept in
  such a place changes it with the moved one.
- The real cells of a sequence may be more than the book says, never others: every
  sequence given out is cut by a `Remove` to what the book says.

It must never give one sequence to two requests, and never touch llama.cpp: it
returns the operations, the runner carries them out in order before the next rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from llambo9p.engine.radix import RadixTree, common_prefix
from llambo9p.engine.runner import Copy, Op, Remove, Restore, Save, SavedCells

MIN_SHARE = 16
"""tokens that a copy of another sequence's prefix must save"""


class SavedSequence:
    """Cells in host memory, of a conversation that lost its sequence."""

    __slots__ = ("cells", "owner", "scope", "tokens")

    def __init__(self, tokens: list[int], owner: Hashable, scope: Hashable) -> None:
        self.tokens = tokens
        self.owner = owner
        self.scope = scope
        self.cells = SavedCells()


class CachedSequence:
    """One KV sequence.  `seq_id` changes when `compact` moves its cells."""

    __slots__ = ("ahead", "busy", "owner", "plan", "scope", "seq_id", "since", "tokens", "used")

    def __init__(self, seq_id: int) -> None:
        self.seq_id = seq_id
        self.tokens: list[int] = []
        """the token in each cell, by position"""
        self.plan: Sequence[int] = self.tokens
        """what it will hold when its prompt is prefilled; what it holds, when not busy"""
        self.owner: Hashable = None
        """the conversation it is kept for"""
        self.scope: Hashable = None
        """of the request that asked what it holds"""
        self.busy = False
        self.since = 0
        """when it was given out, and"""
        self.used = 0
        """when it was given back, by the cache's own count"""
        self.ahead: Ahead | None = None
        """what its prefill had better wait for"""

    def __repr__(self) -> str:
        busy = " busy" if self.busy else ""
        return f"<seq {self.seq_id}: {len(self.tokens)} cells for {self.owner!r}{busy}>"


class Ahead(NamedTuple):
    """A sequence, given out earlier, that is prefilling `length` tokens of another's prompt."""

    sequence: CachedSequence
    plan: Sequence[int]
    length: int

    @property
    def is_coming(self) -> bool:
        """Whether it is still at it; when it was given up, it never will have them."""
        ahead = self.sequence
        return ahead.busy and ahead.plan is self.plan and len(ahead.tokens) < self.length


Holder = CachedSequence | SavedSequence


class Cache:
    """The book over `n_seq` sequences, and `ram` bytes of saved ones.

    `cell_bytes` are those of one saved token.
    """

    def __init__(self, n_seq: int, *, ram: int = 0, cell_bytes: int = 1) -> None:
        self.sequences = [CachedSequence(i) for i in range(n_seq)]
        self._ram = ram
        self._cell_bytes = cell_bytes
        self._saved: dict[Hashable, SavedSequence] = {}
        """by conversation, the least recently used first"""
        self.saved_bytes = 0
        self._trees: dict[Hashable, RadixTree[Holder]] = {}
        """by scope: all that have or will have tokens"""
        self._clock = 0

    def acquire(
        self, conversation: Hashable, scope: Hashable = ""
    ) -> tuple[CachedSequence, list[Op]]:
        """A sequence for a request of the `conversation`, which has that scope; now busy.

        Call `seed` before its first rows.  There must be one that is not busy.
        """
        free = [s for s in self.sequences if not s.busy]
        chosen = self._choose(free, conversation)
        ops: list[Op] = []
        if chosen.owner is None or chosen.owner != conversation:
            ops = self._evict(chosen)
        if conversation is not None:
            self._disown(conversation)
        if chosen.scope != scope:
            self._clear(chosen)
            chosen.scope = scope
        chosen.owner = conversation
        chosen.busy = True
        chosen.since = self._tick()
        return chosen, ops

    def seed(self, sequence: CachedSequence, prompt: Sequence[int]) -> list[Op]:
        """Bring as many of the prompt's tokens into `sequence` as the cache holds.

        At least the last one is left out: its logits must be computed.  Afterwards
        `sequence.tokens` is what the prompt need not prefill, and `sequence.ahead` says
        whether somebody else is prefilling more of it.
        """
        self._unlist(sequence)
        usable = prompt[:-1]
        kept = common_prefix(sequence.tokens, usable)
        ops: list[Op] = []
        shared, source = self._longest_held(sequence.scope, usable)
        if source is not None and shared >= kept + MIN_SHARE:
            ops.append(self._bring(source, sequence))
            kept = shared
        ops.append(Remove(sequence.seq_id, kept))
        sequence.tokens = list(prompt[:kept])
        sequence.plan = prompt
        sequence.ahead = self._find_ahead(sequence, usable, kept)
        self._list(sequence, prompt)
        return ops

    def release(self, sequence: CachedSequence) -> None:
        """The request is over.  What is in the cells stays until somebody needs them."""
        self._unlist(sequence)
        sequence.busy = False
        sequence.used = self._tick()
        sequence.plan = sequence.tokens
        self._list(sequence, sequence.tokens)

    def forget(self, conversation: Hashable) -> None:
        """Keep nothing for `conversation`: its sequence is one of the next to be taken."""
        self._disown(conversation)
        self._drop(conversation)

    def compact(self) -> list[Op]:
        """Move busy sequences until their seq_ids are 0 to n-1."""
        ops: list[Op] = []
        while True:
            busy = [s for s in self.sequences if s.busy]
            highest = max(busy, key=lambda s: s.seq_id, default=None)
            if highest is None or highest.seq_id < len(busy):
                return ops
            free = [s for s in self.sequences if not s.busy]
            ops += _exchange(highest, min(free, key=lambda s: s.seq_id))

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    # Whose place is taken.

    def _choose(self, free: list[CachedSequence], conversation: Hashable) -> CachedSequence:
        if conversation is not None:
            for sequence in free:
                if sequence.owner == conversation:
                    return sequence
        unowned = [s for s in free if s.owner is None]
        if unowned:
            return min(unowned, key=lambda s: s.seq_id)
        return min(free, key=lambda s: s.used)

    def _disown(self, conversation: Hashable) -> None:
        for sequence in self.sequences:
            if sequence.owner == conversation:
                sequence.owner = None

    def _evict(self, sequence: CachedSequence) -> list[Op]:
        """Save what is kept for a conversation, which loses the sequence."""
        owner, sequence.owner = sequence.owner, None
        size = len(sequence.tokens) * self._cell_bytes
        if owner is None or len(sequence.tokens) < MIN_SHARE or size > self._ram:
            return []
        self._drop(owner)
        while self.saved_bytes + size > self._ram:
            self._drop(next(iter(self._saved)))
        saved = SavedSequence(sequence.tokens, owner, sequence.scope)
        self._saved[owner] = saved
        self.saved_bytes += size
        self._list(saved, saved.tokens)
        return [Save(sequence.seq_id, saved.cells)]

    def _clear(self, sequence: CachedSequence) -> None:
        """What the sequence holds is of no use to anybody."""
        self._unlist(sequence)
        sequence.tokens = []
        sequence.plan = sequence.tokens

    def _drop(self, conversation: Hashable) -> None:
        """Forget what was saved of a conversation, if anything was."""
        saved = self._saved.pop(conversation, None)
        if saved is not None:
            self.saved_bytes -= len(saved.tokens) * self._cell_bytes
            self._unlist(saved)

    # Who holds what.

    def _longest_held(
        self, scope: Hashable, tokens: Sequence[int]
    ) -> tuple[int, Holder | None]:
        """How much of `tokens` is held somewhere, and where."""
        longest, at = 0, None
        for length, holder in self._sharers(scope, tokens):
            if length <= longest:
                break
            if isinstance(holder, SavedSequence) and holder.cells.failed:
                continue
            held = min(length, len(holder.tokens))
            if held > longest:
                longest, at = held, holder
        return longest, at

    def _find_ahead(
        self, sequence: CachedSequence, tokens: Sequence[int], kept: int
    ) -> Ahead | None:
        """Who, given out before, will soon hold the most of `tokens`."""
        for length, other in self._sharers(sequence.scope, tokens):
            if length < kept + MIN_SHARE:
                break
            if isinstance(other, CachedSequence) and other.since < sequence.since:
                ahead = Ahead(other, other.plan, length)
                if ahead.is_coming:
                    return ahead
        return None

    def _sharers(
        self, scope: Hashable, tokens: Sequence[int]
    ) -> Iterator[tuple[int, Holder]]:
        """(length, who has or will have so much of `tokens`), the longest first."""
        tree = self._trees.get(scope)
        if tree is not None:
            for length, holders in tree.match(tokens):
                for holder in holders:
                    yield length, holder

    def _bring(self, source: Holder, sequence: CachedSequence) -> Op:
        """Have the cells of `source` in `sequence`, too."""
        if isinstance(source, CachedSequence):
            return Copy(source.seq_id, sequence.seq_id)
        if source.owner == sequence.owner:
            self._drop(source.owner)
        else:
            self._saved[source.owner] = self._saved.pop(source.owner)
        return Restore(source.cells, sequence.seq_id)

    def _list(self, holder: Holder, tokens: Sequence[int]) -> None:
        if tokens:
            self._trees.setdefault(holder.scope, RadixTree()).insert(tokens, holder)

    def _unlist(self, holder: Holder) -> None:
        tokens = holder.plan if isinstance(holder, CachedSequence) else holder.tokens
        if tokens:
            tree = self._trees[holder.scope]
            tree.remove(tokens, holder)
            if not tree:
                del self._trees[holder.scope]


def _exchange(moved: CachedSequence, free: CachedSequence) -> list[Op]:
    """Let each have the other's seq_id, and its cells there."""
    old, new = moved.seq_id, free.seq_id
    moved.seq_id, free.seq_id = new, old
    if not free.tokens:
        return [Copy(old, new)]
    cells = SavedCells()
    return [Save(new, cells), Copy(old, new), Restore(cells, old)]
