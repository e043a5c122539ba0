"""A conversation as a directory: `ctl prompt out data system history usage status`.

Each file is one class or one line of `conversation_files`; what they mean is in
README.  A file that takes text collects it on the fid and hands it over at
Tclunk; a connection that is lost, or reset by Tversion, discards it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..errors import InvalidArgument, NoSpace, PermissionDenied
from ..fs.ctl import Action, Command, Commands, CtlFile
from ..fs.file import OpenFile
from ..fs.tree import Directory, OpenSnapshot, SyntheticFile, TextFile, Tree
from ..p9 import constants as c
from ..p9.node import Maybe
from . import settings
from .conversation import Conversation, Turn


class OpenText(OpenSnapshot):
    """Reads the text as it was at open; what is written replaces it at Tclunk."""

    __slots__ = ("_buffer", "_limit", "_name", "_submit")

    def __init__(
        self, name: str, data: bytes, submit: Callable[[bytes], None], limit: int
    ) -> None:
        super().__init__(data)
        self._name = name
        self._buffer: bytearray | None = None
        self._submit = submit
        self._limit = limit

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        if self._buffer is None:
            self._buffer = bytearray()
        _extend(self._buffer, data, self._limit, self._name)
        return len(data)

    def clunk(self) -> Maybe[None]:
        if self._buffer is not None:
            self._submit(bytes(self._buffer))
        return None


def _extend(buffer: bytearray, data: bytes, limit: int, name: str) -> None:
    if len(buffer) + len(data) > limit:
        raise NoSpace(f"{name}: more than {limit} bytes in one write")
    buffer += data


class BufferedFile(SyntheticFile):
    """A text that is written whole: the fid is the buffer, Tclunk submits it.

    `submit` gets all that one open wrote, and is not called when nothing was.
    Offsets are ignored.  `emptied` is what a truncate does (9p.md: only `system`,
    `grammar` and `schema` become empty).
    """

    __slots__ = ("_emptied", "_limit", "_submit", "_text")

    def __init__(
        self,
        tree: Tree,
        name: str,
        text: Callable[[], str],
        submit: Callable[[bytes], None],
        limit: int,
        emptied: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(tree, name, 0o644)
        self._text = text
        self._submit = submit
        self._limit = limit
        self._emptied = emptied

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        if mode & c.OTRUNC:
            self.truncate()
        return OpenText(self.name, self._text().encode(), self._submit, self._limit)

    def truncate(self) -> None:
        if self._emptied is not None:
            self._emptied()


class OpenOut(OpenFile):
    """The answer to the turn that was the newest when it was opened."""

    __slots__ = ("_turn",)

    def __init__(self, turn: Turn | None) -> None:
        self._turn = turn

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        return self._turn.stream.read(offset, count) if self._turn is not None else b""


class OutFile(SyntheticFile):
    __slots__ = ("_conversation",)

    def __init__(self, tree: Tree, name: str, conversation: Conversation) -> None:
        super().__init__(tree, name, 0o444)
        self._conversation = conversation

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        return OpenOut(self._conversation.newest)


class OpenData(OpenFile):
    """Write a query, read its answer, on one fid: a cursor instead of offsets.

    A Linux fd that wrote n bytes reads on from offset n and plan9port reads at 0
    every time; both get the answer from its start.  A blocked read that is flushed
    stops the answer, and so does the end of the fid.
    """

    __slots__ = ("_buffer", "_conversation", "_cursor", "_turn")

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._buffer: bytearray | None = None
        """the query being written; None when the next write starts one"""
        self._turn: Turn | None = None
        self._cursor = 0

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        if self._buffer is None:
            self._stop()
            self._buffer = bytearray()
        _extend(self._buffer, data, self._conversation.limits.prompt_bytes, "data")
        return len(data)

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        if self._buffer is not None:
            query, self._buffer = bytes(self._buffer), None
            self._cursor = 0
            self._turn = self._conversation.ask(query)
        turn = self._turn
        if turn is None:
            return b""
        if self._cursor >= len(turn.stream) and not turn.stream.finished:
            return self._read_later(turn, count)
        return self._take(turn, count)

    async def _read_later(self, turn: Turn, count: int) -> bytes:
        try:
            await turn.stream.wait(self._cursor)
        except BaseException:
            self._conversation.stop(turn)
            raise
        return self._take(turn, count) if turn is self._turn else b""

    def _take(self, turn: Turn, count: int) -> bytes:
        data = turn.stream.read(self._cursor, count)
        if not isinstance(data, bytes):  # another read of this fid took what came
            raise InvalidArgument("two reads of one data file at once")
        self._cursor += len(data)
        return data

    def _stop(self) -> None:
        if self._turn is not None:
            self._conversation.stop(self._turn)
            self._turn = None

    def drop(self) -> None:
        self._stop()


class DataFile(SyntheticFile):
    __slots__ = ("_conversation",)

    def __init__(self, tree: Tree, name: str, conversation: Conversation) -> None:
        super().__init__(tree, name, 0o666)
        self._conversation = conversation

    def open(self, mode: int) -> Maybe[OpenFile]:
        if mode & 3 != c.ORDWR:
            raise InvalidArgument("data must be opened for reading and writing (ORDWR)")
        return OpenData(self._conversation)


def ctl_commands(conversation: Conversation) -> Iterator[Command]:
    """The verbs of every conversation's `ctl`: its settings, `reset`, `cancel`."""

    def setting(spec: settings.Setting) -> Command:
        def validate(words: Sequence[str]) -> Action:
            value = spec.read(words)

            def commit() -> None:
                conversation.settings = settings.change(conversation.settings, spec.name, value)

            return commit

        return Command(spec.name, spec.usage, spec.n_min, spec.n_max, validate)

    yield from map(setting, settings.SETTINGS)
    yield Command("reset", "", 0, 0, lambda words: conversation.reset)
    yield Command("cancel", "", 0, 0, lambda words: conversation.cancel)


def ctl_text(conversation: Conversation) -> str:
    return settings.show(conversation.settings)


def add_conversation_files(
    directory: Directory,
    conversation: Conversation,
    commands: Commands,
    status: Callable[[], str] | None = None,
) -> None:
    """Put a conversation's files into `directory`.

    `commands` are `ctl`'s; `status` makes further lines of `status`.
    """
    tree = directory.tree
    limit = conversation.limits.prompt_bytes

    def status_text() -> str:
        return conversation.status_text() + (status() if status is not None else "")

    def prompt_text() -> str:
        return conversation.newest.prompt if conversation.newest is not None else ""

    directory.add(CtlFile(tree, "ctl", lambda: ctl_text(conversation), commands))
    directory.add(BufferedFile(tree, "prompt", prompt_text, conversation.submit, limit))
    directory.add(OutFile(tree, "out", conversation))
    directory.add(DataFile(tree, "data", conversation))
    directory.add(
        BufferedFile(
            tree,
            "system",
            lambda: conversation.system + "\n" if conversation.system else "",
            conversation.set_system,
            limit,
            emptied=lambda: conversation.set_system(b""),
        )
    )
    directory.add(
        BufferedFile(
            tree, "history", conversation.history_text, conversation.append_history, limit
        )
    )
    directory.add(TextFile(tree, "usage", conversation.usage_text))
    directory.add(TextFile(tree, "status", status_text))
