"""Files of a conversation that take a text as a whole: the fid is the buffer, and Tclunk hands it
over.

Rules kept here:
- A connection that is lost, or reset by Tversion, discards what was written.
- A truncation counts when the fid is clunked: with nothing written it means a blank text.
- A sync (Tfsync; a Twstat that changes nothing) finds out whether the text would be refused, and
  hands nothing over.  So a program that asks before its close(2), or a mount that does for it,
  hears why; the errors of Tclunk reach hardly any.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..errors import NoSpace, PermissionDenied
from ..fs.file import OpenFile
from ..fs.tree import OpenSnapshot, SyntheticFile, Tree
from ..p9 import constants as c
from ..p9.node import Maybe
from .conversation import Conversation


@dataclass(frozen=True, slots=True)
class Text:
    """What a file hands over, and to whom.  No text has more than `limit` bytes."""

    name: str
    limit: int
    check: Callable[[bytes], Maybe[None]]
    """raises why it would be refused"""
    submit: Callable[[Callable[[], bytes]], Maybe[None]]
    """gets what gives the text, or raises why there is none"""
    is_replaced: bool = True
    """a truncation makes it blank"""


class Written:
    """What one fid writes: at most `limit` bytes, and what its conversation's buffer has
    room for.

    A text that does not fit is refused whole, never cut: every later write raises the
    same NoSpace, and so do `whole` and `take`.  It ends with `take` or `discard`, which begins
    it anew.
    """

    __slots__ = ("_buffer", "_data", "_limit", "_name", "_refused", "_user")

    def __init__(self, name: str, limit: int, conversation: Conversation) -> None:
        self._name = name
        self._limit = limit
        self._buffer = conversation.limits.buffer
        self._user = conversation.user
        self._data = bytearray()
        self._refused: NoSpace | None = None

    def __bool__(self) -> bool:
        """Whether there was anything to write."""
        return bool(self._data) or self._refused is not None

    def extend(self, data: bytes) -> None:
        if self._refused is None:
            try:
                self._check_size(len(self._data) + len(data))
                self._buffer.take(len(data), self._user)
            except NoSpace as e:
                self.discard()
                self._refused = e
        if self._refused is not None:
            raise self._refused.with_traceback(None)
        self._data += data

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise NoSpace(
                f"{NoSpace.ename}: {self._name}: more than {self._limit} bytes in one write"
            )

    def whole(self) -> bytes:
        if self._refused is not None:
            raise self._refused.with_traceback(None)
        return bytes(self._data)

    def take(self) -> bytes:
        try:
            return self.whole()
        finally:
            self.discard()

    def discard(self) -> None:
        self._buffer.give_back(len(self._data), self._user)
        self._data.clear()
        self._refused = None


class OpenText(OpenFile):
    """What `shown` has is read, and what is written handed over at Tclunk."""

    __slots__ = ("_conversation", "_shown", "_text", "_truncated", "_written")

    def __init__(
        self, conversation: Conversation, text: Text, shown: OpenFile, truncated: bool
    ) -> None:
        self._conversation = conversation
        self._text = text
        self._shown = shown
        self._truncated = truncated and text.is_replaced
        self._written = Written(text.name, text.limit, conversation)

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        return self._shown.read(offset, count)

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        with self._conversation.noting():
            self._written.extend(data)
        return len(data)

    def truncate(self) -> None:
        self._written.discard()
        self._truncated = self._text.is_replaced

    def sync(self) -> Maybe[None]:
        if not self._written:
            return None
        with self._conversation.noting():
            return self._noted(self._text.check(self._written.whole()))

    def clunk(self) -> Maybe[None]:
        try:
            if not (self._written or self._truncated):
                return None
            with self._conversation.noting():
                return self._noted(self._text.submit(self._written.take))
        finally:
            self.drop()

    def _noted(self, result: Maybe[None]) -> Maybe[None]:
        return None if result is None else self._noted_later(result)

    async def _noted_later(self, result: Awaitable[None]) -> None:
        with self._conversation.noting():
            await result

    def drop(self) -> None:
        self._written.discard()
        self._shown.drop()


class OpenKept(OpenSnapshot):
    """The text as it was at open.  It counts as kept, for it may be megabytes that are nowhere
    else any more."""

    __slots__ = ("_conversation",)

    def __init__(self, data: bytes, conversation: Conversation) -> None:
        super().__init__(data)
        if data:
            conversation.limits.kept.take(len(data), conversation.user)
        self._conversation = conversation

    @property
    def held(self) -> int:
        return 0

    def drop(self) -> None:
        self._conversation.limits.kept.give_back(len(self._data), self._conversation.user)


class WholeTextFile(SyntheticFile):
    """A text that is read as it is at open, and written whole."""

    __slots__ = ("_conversation", "_shown", "_text")

    def __init__(
        self, tree: Tree, conversation: Conversation, text: Text, shown: Callable[[], str]
    ) -> None:
        super().__init__(tree, text.name, 0o600)
        self._conversation = conversation
        self._text = text
        self._shown = shown

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        truncated = bool(mode & c.OTRUNC)
        # megabytes, perhaps, which a writer would hold for nothing
        is_read = mode & 3 != c.OWRITE and not truncated
        data = self._shown().encode() if is_read else b""
        with self._conversation.noting():
            shown = OpenKept(data, self._conversation)
            return OpenText(self._conversation, self._text, shown, truncated)

    def truncate(self) -> None:
        blank(self._conversation, self._text)


def blank(conversation: Conversation, text: Text) -> None:
    """A text that nobody has open is truncated."""
    if text.is_replaced:
        with conversation.noting():
            blanked = text.submit(bytes)
            assert blanked is None, "a blank text is not checked"
