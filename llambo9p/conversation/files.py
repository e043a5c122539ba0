"""A conversation as a directory: `ctl prompt out data system grammar schema regex history` ...

Each file is one class or one line of `conversation_files`; what they mean is in
README.  All of them are their owner's alone (0600), and whoever else asks is given files
of his own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

from ..engine.structured.constraint import KINDS, Kind
from ..errors import InvalidArgument, PermissionDenied
from ..fs.ctl import Action, Command, Commands, CtlFile
from ..fs.file import OpenFile
from ..fs.stream import Stream
from ..fs.tree import Directory, SyntheticFile, TextFile, Tree
from ..p9 import constants as c
from ..p9.node import Maybe
from . import settings
from .conversation import Conversation
from .history_file import HistoryFile
from .turn import Turn
from .whole_texts import Name
from .written import OpenText, Text, WholeTextFile, Written, blank

MAX_GRAMMAR_BYTES = 256 * 1024
"""of a grammar, schema or regular expression"""
MAX_TOKENS_BYTES = 2**18

class OpenStream(OpenFile):
    """What one turn says; nothing when there was none."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream | None) -> None:
        self._stream = stream

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        return self._stream.read(offset, count) if self._stream is not None else b""


class StreamFile(SyntheticFile):
    """A stream of the turn that is the newest when it is opened."""

    __slots__ = ("_conversation", "_stream")

    def __init__(
        self,
        tree: Tree,
        name: str,
        conversation: Conversation,
        stream: Callable[[Turn], Stream],
        perm: int = 0o400,
    ) -> None:
        super().__init__(tree, name, perm)
        self._conversation = conversation
        self._stream = stream

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        return OpenStream(self._newest())

    def _newest(self) -> Stream | None:
        self._conversation.check_open()
        newest = self._conversation.newest
        return None if newest is None else self._stream(newest)


class TokensFile(StreamFile):
    """The tokens of the newest answer; those that are written begin the next one."""

    __slots__ = ("_text",)

    def __init__(self, tree: Tree, conversation: Conversation, text: Text) -> None:
        super().__init__(tree, text.name, conversation, lambda turn: turn.token_lines, 0o600)
        self._text = text

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        shown = OpenStream(self._newest())
        return OpenText(self._conversation, self._text, shown, bool(mode & c.OTRUNC))

    def truncate(self) -> None:
        blank(self._conversation, self._text)


class OpenData(OpenFile):
    """Write a query, read its answer, on one fid: a cursor instead of offsets.  `ask` is
    given the query.

    A Linux fd that wrote n bytes reads on from offset n and plan9port reads at 0
    every time; both get the answer from its start.  A blocked read that is flushed
    stops the answer, and so does the end of the fid.  Several reads at once share
    the cursor: each byte goes to one of them.
    """

    __slots__ = ("_ask", "_conversation", "_cursor", "_name", "_query", "_turn")

    def __init__(
        self, name: str, conversation: Conversation, ask: Callable[[bytes], Turn]
    ) -> None:
        self._name = name
        self._conversation = conversation
        self._ask = ask
        self._query: Written | None = None
        """the query being written; None when the next write starts one"""
        self._turn: Turn | None = None
        self._cursor = 0

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        if self._query is None and data:
            self._stop()
            limit = self._conversation.limits.prompt_bytes
            self._query = Written(self._name, limit, self._conversation)
        if self._query is not None:
            with self._conversation.noting():
                self._query.extend(data)
        return len(data)

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        if self._query is not None:
            query, self._query = self._query, None
            self._cursor = 0
            with self._conversation.noting():
                self._turn = self._ask(query.take())
        turn = self._turn
        if turn is None:
            return b""
        if self._cursor >= len(turn.stream) and not turn.stream.finished:
            # a Future, so that a flush is noticed even before the first wait
            reading = asyncio.ensure_future(self._read_later(turn, count))
            reading.add_done_callback(
                lambda reading: self._conversation.stop(turn) if reading.cancelled() else None
            )
            return reading
        return self._take(turn, count)

    async def _read_later(self, turn: Turn, count: int) -> bytes:
        while True:
            await turn.stream.wait(self._cursor)
            if turn is not self._turn:
                return b""  # the next query was begun
            if self._cursor < len(turn.stream) or turn.stream.finished:
                return self._take(turn, count)
            # another read of this fid took what came

    def _take(self, turn: Turn, count: int) -> bytes:
        data = turn.stream.read(self._cursor, count)
        assert isinstance(data, bytes)
        self._cursor += len(data)
        return data

    def _stop(self) -> None:
        if self._turn is not None:
            self._conversation.stop(self._turn)
            self._turn = None

    def drop(self) -> None:
        self._stop()
        if self._query is not None:
            self._query.discard()
            self._query = None


class DataFile(SyntheticFile):
    """What is written is a query, which `ask` makes a turn of the conversation; what is read
    is its answer."""

    __slots__ = ("_ask", "_conversation")

    def __init__(
        self,
        tree: Tree,
        name: str,
        conversation: Conversation,
        ask: Callable[[bytes], Turn],
    ) -> None:
        super().__init__(tree, name, 0o600)
        self._conversation = conversation
        self._ask = ask

    def open(self, mode: int) -> Maybe[OpenFile]:
        if mode & 3 != c.ORDWR:
            with self._conversation.noting():
                raise InvalidArgument(
                    f"{self.name} must be opened for reading and writing (ORDWR)"
                )
        return OpenData(self.name, self._conversation, self._ask)


def whole_text_file(
    tree: Tree, conversation: Conversation, name: Literal["system"] | Kind
) -> WholeTextFile:
    """`system`, or a text that answers are held to."""
    limit = conversation.limits.prompt_bytes if name == "system" else MAX_GRAMMAR_BYTES
    shown = partial(conversation.texts.shown, name)
    return WholeTextFile(tree, conversation, _whole(conversation, name, limit), shown)


def _whole(conversation: Conversation, name: Name, limit: int) -> Text:
    texts = conversation.texts
    return Text(name, limit, partial(texts.check, name), partial(texts.write, name))


def setting_command(spec: settings.Setting, change: Callable[[str, Any], None]) -> Command:
    """The verb that changes a setting: `change` gets its name and the value."""

    def validate(words: Sequence[str]) -> Action:
        value = spec.read(words)
        return lambda: change(spec.name, value)

    return Command(spec.name, spec.usage, spec.n_min, spec.n_max, validate)


def ctl_commands(conversation: Conversation) -> Iterator[Command]:
    """The verbs of every conversation's `ctl`: its settings, `reset`, `cancel`."""

    def change(name: str, value: Any) -> None:
        conversation.settings = settings.change(conversation.settings, name, value)

    yield from (setting_command(spec, change) for spec in settings.SETTINGS)
    yield Command("reset", "", 0, 0, lambda words: conversation.reset)
    yield Command("cancel", "", 0, 0, lambda words: conversation.cancel)


def add_conversation_files(
    directory: Directory,
    conversation: Conversation,
    commands: Commands,
    status: Callable[[], str] = lambda: "",
    ctl: Callable[[], str] = lambda: "",
) -> None:
    """Put a conversation's files into `directory`.

    `commands` are `ctl`'s; `status` and `ctl` make further lines of those files.
    """
    tree = directory.tree

    def status_text() -> str:
        return conversation.status_text() + status()

    def ctl_text() -> str:
        return settings.show(conversation.settings) + ctl()

    def prompt_text() -> str:
        return conversation.newest.prompt if conversation.newest is not None else ""

    prompt = Text(
        "prompt",
        conversation.limits.prompt_bytes,
        conversation.check_prompt,
        lambda written: conversation.submit(written()),
        is_replaced=False,
    )
    directory.add(CtlFile(tree, "ctl", ctl_text, commands, 0o600))
    directory.add(WholeTextFile(tree, conversation, prompt, prompt_text))
    directory.add(StreamFile(tree, "out", conversation, lambda turn: turn.stream))
    directory.add(DataFile(tree, "data", conversation, conversation.ask))
    directory.add(whole_text_file(tree, conversation, "system"))
    for kind in KINDS:
        directory.add(whole_text_file(tree, conversation, kind))
    directory.add(HistoryFile(tree, conversation))
    directory.add(TokensFile(tree, conversation, _whole(conversation, "tokens", MAX_TOKENS_BYTES)))
    directory.add(StreamFile(tree, "logprobs", conversation, lambda turn: turn.logprob_lines))
    directory.add(TextFile(tree, "usage", conversation.usage_text, 0o400))
    directory.add(TextFile(tree, "status", status_text, 0o400))
