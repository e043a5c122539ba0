"""What a model's memory still has of a sequence: where it can be gone on, and what it takes.

Pure arithmetic, by which the cache plans.  A sequence holds the tokens at the positions 0 to
`held` - 1.  Its memory has the cells from its `floor` on; what a later token needs of them depends
on the model: all of them, a window, the chunk that it is in, or nothing but the state after the
last one.

Rules it keeps:
- To go on at a position is to have in memory what the tokens before it have left there, and
  nothing of those after it.  At 0 that is always so.
- A state that is saved, and so one that is copied or moved, has only those cells that the token
  that was last could see, as llama.cpp's llama_state_seq_get_data leaves out the others.
- What is in place stays until it is removed: llama.cpp is told to keep whole sequences
  (`swa_full`).  A state after the last token is the exception, as each token replaces it.
- Where a memory cannot go on, a checkpoint may help: that part of the memory at an earlier
  position which does not last (llama.cpp's LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar


class Retention(ABC):
    """Of a sequence of some model; see the module."""

    __slots__ = ()
    forgets: ClassVar[bool] = True
    """whether a checkpoint can ever be of use"""

    @abstractmethod
    def needed(self, at: int) -> int:
        """From which position on there must be cells to go on at `at`, which is at least 1."""

    @abstractmethod
    def saved(self, held: int) -> int:
        """The floor of a saved state of so many tokens."""

    def floor(self, floor: int, held: int) -> int:
        """What has become of the floor now that so many tokens are held."""
        return floor


@dataclass(frozen=True, slots=True)
class Attention(Retention):
    """Each token looks at all before it: any prefix will do."""

    forgets: ClassVar[bool] = False

    def needed(self, at: int) -> int:
        return 0

    def saved(self, held: int) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Window(Retention):
    """In some layers a token sees itself and `size` - 1 before it (LLAMA_SWA_TYPE_STANDARD)."""

    size: int

    def needed(self, at: int) -> int:
        return max(0, at - self.size + 1)

    def saved(self, held: int) -> int:
        return max(0, held - self.size)


@dataclass(frozen=True, slots=True)
class Chunks(Retention):
    """In some layers a token sees those before it in its chunk of `size` (Llama 4)."""

    size: int

    def needed(self, at: int) -> int:
        return at // self.size * self.size

    def saved(self, held: int) -> int:
        return max(0, held - 1) // self.size * self.size


@dataclass(frozen=True, slots=True)
class State(Retention):
    """Some layers have the state after the last token and no other (Mamba, RWKV, hybrids)."""

    def needed(self, at: int) -> int:
        return at

    def saved(self, held: int) -> int:
        return held

    def floor(self, floor: int, held: int) -> int:
        return held


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of what is saved of a sequence in host memory, about."""

    cell: int = 1
    """for each token"""
    window_cell: int = 0
    """for each token of the last `window`, beside"""
    window: int = 0
    fixed: int = 0
    """however many tokens there are"""

    def whole(self, held: int) -> int:
        """Of a saved sequence of so many tokens."""
        return held * self.cell + self.checkpoint(held)

    def checkpoint(self, held: int) -> int:
        """Of that part of it which does not last."""
        return self.fixed + min(held, self.window) * self.window_cell
