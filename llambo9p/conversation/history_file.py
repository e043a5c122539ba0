"""The file `history`: made while it is read, parsed while it is written.

What is read is the history as it was at the open: its messages, which do not change, are held, and
count as kept.  What is written counts as buffered; Tclunk appends its messages, all or none.
"""

from __future__ import annotations

from functools import partial

from ..engine.base import Message
from ..errors import NoSpace, PermissionDenied
from ..fs.file import OpenFile
from ..fs.pieces import Pieces
from ..fs.tree import SyntheticFile, Tree
from ..p9 import constants as c
from ..p9.node import Maybe
from . import history
from .conversation import Conversation

_LINE_BYTES = 1024
"""that a line may have beside twice the longest prompt"""


class OpenHistory(OpenFile):
    __slots__ = (
        "_buffered",
        "_conversation",
        "_held",
        "_limit",
        "_pieces",
        "_reader",
        "_refused",
        "_truncated",
    )

    def __init__(
        self,
        conversation: Conversation,
        messages: tuple[Message, ...],
        held: int,
        truncated: bool,
    ) -> None:
        """`messages` are to be read; they are `held` bytes."""
        limits = conversation.limits
        limits.kept.take(held, conversation.user)
        self._held = held
        self._conversation = conversation
        self._pieces = Pieces(partial(history.pieces, messages))
        # as JSON lines it is longer than what is counted
        self._limit = 2 * limits.history_bytes + limits.prompt_bytes
        self._reader: history.Reader | None = None
        self._buffered = 0
        self._refused: NoSpace | None = None
        self._truncated = truncated

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        return self._pieces.read(offset, count)

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        conversation = self._conversation
        if not data:
            return 0
        with conversation.noting():
            if self._refused is None:
                try:
                    if self._buffered + len(data) > self._limit:
                        raise NoSpace(
                            f"{NoSpace.ename}: history: more than {self._limit} bytes in one write"
                        )
                    conversation.limits.buffer.take(len(data), conversation.user)
                except NoSpace as e:
                    self._discard()
                    self._refused = e
            if self._refused is not None:
                raise self._refused.with_traceback(None)
        self._buffered += len(data)
        if self._reader is None:
            self._reader = history.Reader(2 * conversation.limits.prompt_bytes + _LINE_BYTES)
        self._reader.feed(data)
        return len(data)

    def truncate(self) -> None:
        """What was written is forgotten; the history, to which it would be appended, stays."""
        self._discard()
        self._refused = None
        self._truncated = True

    def sync(self) -> Maybe[None]:
        if self._is_written:
            with self._conversation.noting():
                self._conversation.check_history(self._finished)
        return None

    def clunk(self) -> Maybe[None]:
        try:
            if self._is_written or self._truncated:
                with self._conversation.noting():
                    self._conversation.append_history(self._finished)
        finally:
            self.drop()
        return None

    @property
    def _is_written(self) -> bool:
        return self._refused is not None or self._reader is not None

    def _finished(self) -> tuple[list[Message], int]:
        if self._refused is not None:
            raise self._refused.with_traceback(None)
        return ([], 0) if self._reader is None else self._reader.finished()

    def drop(self) -> None:
        self._discard()
        conversation = self._conversation
        conversation.limits.kept.give_back(self._held, conversation.user)

    def _discard(self) -> None:
        """Forget what was written."""
        conversation = self._conversation
        conversation.limits.buffer.give_back(self._buffered, conversation.user)
        self._buffered = 0
        self._reader = None


class HistoryFile(SyntheticFile):
    __slots__ = ("_conversation",)

    def __init__(self, tree: Tree, conversation: Conversation) -> None:
        super().__init__(tree, "history", 0o600)
        self._conversation = conversation

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        conversation = self._conversation
        is_read = mode & 3 != c.OWRITE
        messages = tuple(conversation.history) if is_read else ()
        held = conversation.history_bytes if is_read else 0
        with conversation.noting():
            return OpenHistory(conversation, messages, held, bool(mode & c.OTRUNC))

    def truncate(self) -> None:
        self._conversation.append_history(lambda: ([], 0))
