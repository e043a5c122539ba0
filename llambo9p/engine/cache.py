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
- Where a sequence can be gone on depends on the model's memory (see `retention`): a prefix is of
  use as far as it was left in place, or up to a checkpoint (see `checkpoints`).
- The prefix that any sequence of the same scope, busy, idle or saved, gets the furthest with is
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
- Of a model that forgets, checkpoints are made where other prompts are likely to part from this
  one: where what it found ends, as an answer does that a chat goes on after; where it parts from
  what others hold; where `marks` says so (the ends of a system prompt, and of the prompt as its
  next turn will have it); at its end; and in between every `EVERY` tokens.

It must never give one sequence to two requests, and never touch llama.cpp: it
returns the operations, the runner carries them out in order before the next rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

from llambo9p.engine.checkpoints import Checkpoint, Checkpoints, Ram
from llambo9p.engine.radix import RadixTree, common_prefix
from llambo9p.engine.retention import Attention, Retention, Sizes
from llambo9p.engine.runner import Copy, Keep, Op, Remove, Restore, Revert, Save, SavedCells

MIN_SHARE = 16
"""tokens that a copy of another sequence's prefix must save, and a checkpoint"""
EVERY = 512
"""tokens of a prompt between two checkpoints"""
SPLIT = 64
"""tokens to read that are worth a step more, for a checkpoint before the last of them"""


class SavedSequence:
    """Cells in host memory, of a conversation that lost its sequence."""

    __slots__ = ("cells", "floor", "owner", "points", "scope", "tokens")

    def __init__(
        self, source: CachedSequence, owner: Hashable, ram: Ram[object], floor: int
    ) -> None:
        self.tokens = source.tokens
        self.owner = owner
        self.scope = source.scope
        self.floor = floor
        self.points = Checkpoints(ram)
        self.points.share(source.points, len(self.tokens))
        self.cells = SavedCells()


class CachedSequence:
    """One KV sequence.  `seq_id` changes when `compact` moves its cells."""

    __slots__ = (
        "ahead", "busy", "floor", "marks", "owner", "plan", "points", "scope", "seq_id", "since",
        "tokens", "used",
    )  # fmt: skip

    def __init__(self, seq_id: int, ram: Ram[object]) -> None:
        self.seq_id = seq_id
        self.tokens: list[int] = []
        """the token in each cell, by position"""
        self.floor = 0
        """from here on there were all cells when it was given out, or last moved"""
        self.points = Checkpoints(ram)
        self.marks: set[int] = set()
        """where checkpoints are still to be made"""
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


class Reach(NamedTuple):
    """Up to where a prompt is found somewhere, and by which checkpoint, if it needs one."""

    at: int
    point: Checkpoint | None = None


class Cache:
    """The book over `n_seq` sequences, and `ram` bytes of what is saved.

    `retention` is what the model's memory keeps of a sequence, `sizes` what that takes.
    """

    def __init__(
        self,
        n_seq: int,
        *,
        ram: int = 0,
        sizes: Sizes | None = None,
        retention: Retention | None = None,
    ) -> None:
        self._ram: Ram[object] = Ram(ram)
        self.sequences = [CachedSequence(i, self._ram) for i in range(n_seq)]
        self._sizes = sizes or Sizes()
        self._retention = retention or Attention()
        self._saved: dict[Hashable, SavedSequence] = {}
        """by conversation"""
        self._trees: dict[Hashable, RadixTree[Holder]] = {}
        """by scope: all that have or will have tokens"""
        self._clock = 0

    @property
    def saved_bytes(self) -> int:
        return self._ram.used

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

    def seed(
        self, sequence: CachedSequence, prompt: Sequence[int], marks: Iterable[int] = ()
    ) -> list[Op]:
        """Bring as many of the prompt's tokens into `sequence` as the cache holds.

        At least the last one is left out: its logits must be computed.  Afterwards
        `sequence.tokens` is what the prompt need not prefill, and `sequence.ahead` says
        whether somebody else is prefilling more of it.  Other prompts are likely to go on from
        `marks`: positions in the prompt.
        """
        self._unlist(sequence)
        usable = prompt[:-1]
        kept = common_prefix(sequence.tokens, usable)
        reach = self._reach(sequence, self._floor(sequence), kept)
        ops: list[Op] = []
        points = sequence.points
        further, source = self._furthest_held(sequence.scope, usable)
        if source is not None and further.at >= reach.at + MIN_SHARE:
            points, reach = source.points, further
            sequence.floor = self._saved_floor(source)
            ops.append(self._bring(source, sequence))
        if reach.point is not None:
            sequence.floor = reach.point.floor
            ops.append(Revert(reach.point.cells, sequence.seq_id))
        ops.append(Remove(sequence.seq_id, reach.at))
        sequence.points.share(points, reach.at)
        if isinstance(source, SavedSequence) and points is source.points:
            self._restored(source, sequence)
        sequence.tokens = list(prompt[: reach.at])
        sequence.floor = min(sequence.floor, reach.at)
        sequence.plan = prompt
        sequence.ahead = self._find_ahead(sequence, usable, reach.at)
        if self._retention.forgets:
            self._mark(sequence, {kept, *self._shared(sequence.scope, usable), *marks})
        self._list(sequence, prompt)
        return ops + self.checkpoint(sequence)

    def checkpoint(self, sequence: CachedSequence) -> list[Op]:
        """Keep what does not last of a sequence, if it has come to where that is to be done;
        before the next rows."""
        at = len(sequence.tokens)
        if at not in sequence.marks:
            return []
        sequence.marks.remove(at)
        size = self._sizes.checkpoint(at)
        point = sequence.points.add(at, self._saved_floor(sequence), size)
        return [] if point is None else [Keep(sequence.seq_id, point.cells)]

    def next_mark(self, sequence: CachedSequence) -> int | None:
        """Where the prompt's next step has to end, at the latest, for a checkpoint."""
        held = len(sequence.tokens)
        return min((mark for mark in sequence.marks if mark > held), default=None)

    def release(self, sequence: CachedSequence) -> None:
        """The request is over.  What is in the cells stays until somebody needs them."""
        self._unlist(sequence)
        sequence.busy = False
        sequence.marks.clear()
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
            ops += self._exchange(highest, min(free, key=lambda s: s.seq_id))

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
        if owner is None or len(sequence.tokens) < MIN_SHARE:
            return []
        self._drop(owner)
        saved = SavedSequence(sequence, owner, self._ram, self._saved_floor(sequence))
        size = self._sizes.whole(len(saved.tokens))
        if not self._ram.add(saved, size, lambda: self._forget(saved)):
            saved.points.clear()
            return []
        self._saved[owner] = saved
        self._list(saved, saved.tokens)
        return [Save(sequence.seq_id, saved.cells)]

    def _clear(self, sequence: CachedSequence) -> None:
        """What the sequence holds is of no use to anybody."""
        self._unlist(sequence)
        sequence.tokens = []
        sequence.plan = sequence.tokens
        sequence.points.clear()

    def _drop(self, conversation: Hashable) -> None:
        """Forget what was saved of a conversation, if anything was."""
        saved = self._saved.get(conversation)
        if saved is not None:
            self._ram.remove(saved)
            self._forget(saved)

    def _forget(self, saved: SavedSequence) -> None:
        """It is kept no longer."""
        del self._saved[saved.owner]
        self._unlist(saved)
        saved.points.clear()

    # Who holds what.

    def _floor(self, sequence: CachedSequence) -> int:
        """In place."""
        return self._retention.floor(sequence.floor, len(sequence.tokens))

    def _saved_floor(self, holder: Holder) -> int:
        """When it is copied, moved or restored."""
        if isinstance(holder, SavedSequence):
            return holder.floor
        return max(self._floor(holder), self._retention.saved(len(holder.tokens)))

    def _reach(self, holder: Holder, floor: int, shared: int) -> Reach:
        """How far a prompt gets that begins with so many of the holder's tokens, when there are
        its cells from `floor` on."""
        if shared and floor <= self._retention.needed(shared):
            return Reach(shared)
        point = holder.points.last(shared)
        return Reach(0) if point is None else Reach(point.at, point)

    def _furthest_held(self, scope: Hashable, tokens: Sequence[int]) -> tuple[Reach, Holder | None]:
        """How much of `tokens` can be gone on from somewhere, and where."""
        furthest, at = Reach(0), None
        for length, holder in self._sharers(scope, tokens):
            if length <= furthest.at:
                break
            if isinstance(holder, SavedSequence) and holder.cells.failed:
                continue
            held = min(length, len(holder.tokens))
            reach = self._reach(holder, self._saved_floor(holder), held)
            if reach.at > furthest.at:
                furthest, at = reach, holder
        return furthest, at

    def _shared(self, scope: Hashable, tokens: Sequence[int]) -> tuple[int, ...]:
        """How much of `tokens` another has or will have, if one does."""
        return tuple(length for length, _ in itertools.islice(self._sharers(scope, tokens), 1))

    def _mark(self, sequence: CachedSequence, likely: set[int]) -> None:
        """Say where checkpoints are to be made, now and while the prompt is prefilled."""
        held, end = len(sequence.tokens), len(sequence.plan)
        # asked once more, the prompt is read but for its last token
        last = end - 1 if end - held >= SPLIT else end
        wanted = {held, last, *likely, *range(held + EVERY, end - EVERY // 2, EVERY)}
        nearest = max((point.at for point in sequence.points), default=0)
        sequence.marks.clear()
        for mark in sorted(wanted):
            if held <= mark <= end and mark >= nearest + MIN_SHARE:
                sequence.marks.add(mark)
                nearest = mark
        if sequence.ahead is not None:
            sequence.ahead.sequence.marks.add(sequence.ahead.length)

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

    def _sharers(self, scope: Hashable, tokens: Sequence[int]) -> Iterator[tuple[int, Holder]]:
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
        return Restore(source.cells, sequence.seq_id)

    def _restored(self, saved: SavedSequence, sequence: CachedSequence) -> None:
        """It was of use: to its own conversation, which has it in the KV cache again, or to
        another."""
        if saved.owner == sequence.owner:
            self._drop(saved.owner)
        else:
            self._ram.touch(saved)

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

    def _exchange(self, moved: CachedSequence, free: CachedSequence) -> list[Op]:
        """Let each have the other's seq_id, and its cells there."""
        old, new = moved.seq_id, free.seq_id
        moved.seq_id, free.seq_id = new, old
        moved.floor = self._saved_floor(moved)
        if not free.tokens:
            return [Copy(old, new)]
        free.floor = self._saved_floor(free)
        cells = SavedCells()
        return [Save(new, cells), Copy(old, new), Restore(cells, old)]
