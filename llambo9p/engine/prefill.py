"""Which tokens of which prompts the next step reads, or whether those who decode are next.

Owns the book of the time that steps took.  Prompts are read in steps of their own: a step of
both would be two anyway where sequences are separate streams, and the first token would come
after the second of them.

Rules it keeps:
- Between two steps of those who decode, prompts are read for at most `STALL` seconds, by what
  the steps before took, for each of at most `STALL_PROMPTS` that are being read: so much can
  one who comes with a long prompt hold up the others, and so much can all.  But it may be as
  long as a step of those who decode takes, and has at least `CHUNK_MIN` and at most `chunk`
  tokens.
- Where all that is being read came before any of those who decode had his first token, or
  `STALL` after it, nobody of this crowd should have many tokens before all have one:
  `CROWD_PROMPTS` count, of at most `chunk` tokens.
- Half of these tokens are for the prompt that came first, which so gets done; the others are
  for those that have the least left, which so need not wait for long ones, and come first.  But
  no user's second prompt comes before another user's first.
- What is left of a prompt is no crumb: fewer than `CHUNK_MIN` tokens are read with the others.
- No step goes beyond `Waiting.room`.
- Prompts are read one after the other, as the time is in the tokens: read together, the first
  one would be done when the last one is.  Only what takes less than `TOGETHER` is not worth a
  step of its own, nor what takes less than half of what the first one has waited: several are
  faster together, as the weights are read once for all of them (SmolLM2-135M on 2 cores,
  prompts of 64 tokens: two take 0.976 of the time, four 0.96).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

STALL = 0.2
"""seconds by which a prompt may hold up those who decode"""
STALL_PROMPTS = 3
"""who waits for a first token counts as much as who waits for the next one, but it ends some
time"""
CROWD_PROMPTS = 16
"""the same for those that came before any of those who decode had a token, or just after"""
TOGETHER = 0.05
"""seconds for which prompts are read in one step, when none of them has waited for long"""
CHUNK_MIN = 16
"""tokens of prompts in a row, however long they take: with fewer the weights are read for too
little"""
CHUNK_FIRST = 32
"""before it is known how long they take"""

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Waiting(Generic[K]):
    """A prompt that is not read to its end."""

    key: K
    left: int
    """its tokens that are not read"""
    soonest: int
    """those of them after which somebody can go on: it itself, or one that waits for it"""
    since: int
    """the order of arrival"""
    came: float
    """when it was admitted, in seconds: in the queue it waits for a slot, not for others' steps"""
    user: str = ""
    room: int | None = None
    """tokens after which a step has to end, whatever is left"""


class Prefill(Generic[K]):
    """`chunk` is the most tokens of a step.  With a `stall` of None prompts are read for as
    long as it takes; a step that decoded one token took `decode_seconds`."""

    def __init__(self, chunk: int, stall: float | None, decode_seconds: float) -> None:
        self._chunk = chunk
        self._stall = stall
        self._row_seconds = (stall or 0.0) / CHUNK_FIRST
        """what a token of a prompt takes"""
        self._decode_seconds = decode_seconds
        """what a step of those who decode takes"""
        self._base_seconds = decode_seconds
        """what any step takes"""
        self._read = 0
        """tokens since those who decode had a step"""
        self._read_of_first = 0
        """of those, the ones of prompts that came first"""
        self._ended = 0
        """prompts that were read to their end since then"""

    def decoded(self, seconds: float) -> None:
        """A step of those who decode took so long."""
        self._decode_seconds = (self._decode_seconds + seconds) / 2
        self._base_seconds = min(self._base_seconds, seconds)

    def read(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens of prompts took so long."""
        if tokens >= CHUNK_MIN // 2:
            seconds -= min(self._base_seconds, seconds * 0.9)
            self._row_seconds = max((self._row_seconds + seconds / tokens) / 2, 1e-9)

    def next(
        self, waiting: Sequence[Waiting[K]], now: float, began: float | None
    ) -> list[tuple[K, int]]:
        """How many tokens of which prompts are read now; none when those who decode, if
        there are any, are next.  The first of these had his first token at `began`; None when
        there are none."""
        crowd = began is not None and all(
            each.came <= began + (self._stall or 0.0) for each in waiting
        )
        budget = self.budget(self._ended + len(waiting), crowd)
        alone = began is None and len(waiting) == 1
        if not waiting or alone or self._read >= budget:
            self._read = self._read_of_first = self._ended = 0
            if began is not None or not waiting:
                return []
            budget = self.budget(len(waiting))
        pieces = self._pieces(waiting, now, budget)
        for each, tokens in pieces:
            self._read += tokens
            self._ended += tokens == each.left
        return [(each.key, tokens) for each, tokens in pieces]

    def budget(self, prompts: int, crowd: bool = False) -> int:
        """How many tokens of so many prompts are read in a row."""
        if self._stall is None:
            return self._chunk
        stall = self._stall * min(prompts, CROWD_PROMPTS if crowd else STALL_PROMPTS)
        tokens = max(CHUNK_MIN, int(max(stall, self._decode_seconds) / self._row_seconds))
        return min(tokens, self._chunk * CROWD_PROMPTS if crowd else self._chunk)

    def _pieces(
        self, waiting: Sequence[Waiting[K]], now: float, budget: int
    ) -> list[tuple[Waiting[K], int]]:
        room = budget - self._read
        first = min(waiting, key=lambda each: each.since)
        owed = max(0, min(first.left, (budget + 1) // 2 - self._read_of_first, room))
        pieces: list[tuple[Waiting[K], int]] = []
        together = 0
        for each in _in_turn(waiting):
            most = room if each is first else room - owed
            tokens = self._piece(min(each.soonest, each.room or each.soonest), most)
            if not tokens:
                continue
            if pieces and together + tokens > self._most_together(now - pieces[0][0].came):
                break
            pieces.append((each, tokens))
            together += tokens
            room -= tokens
            if each is first:
                owed = max(0, owed - tokens)
                self._read_of_first += tokens
        return pieces

    def _piece(self, tokens: int, most: int) -> int:
        """How many of so many tokens are read, which should be at most `most`."""
        if most <= 0:
            return 0
        whole = tokens - most < CHUNK_MIN and tokens <= self._chunk
        return tokens if whole else min(most, self._chunk)

    def _most_together(self, waited: float) -> int:
        """Tokens of several prompts in one step, of which the first has waited so long."""
        if self._stall is None:
            return self._chunk
        return min(self._chunk, int(max(TOGETHER, waited / 2) / self._row_seconds))


def _in_turn(waiting: Sequence[Waiting[K]]) -> list[Waiting[K]]:
    """Those that have the least left first, and of each user one before a second of any."""
    ordered = sorted(waiting, key=lambda each: (each.soonest, each.since))
    seen: Counter[str] = Counter()
    ranks: dict[K, int] = {}
    for each in ordered:
        ranks[each.key] = seen[each.user]
        seen[each.user] += 1
    return sorted(ordered, key=lambda each: ranks[each.key])
