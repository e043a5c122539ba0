"""A history as JSON lines `{"role", "content"}`: shown in pieces, and read from pieces.

Owns the text form of a history.  A history may be megabytes, so nothing here handles it whole:
`pieces` makes a line, or a part of a long one, at a time, and a `Reader` takes what comes and has
parsed it when the last byte is there.  Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from ..engine.base import Message
from ..errors import InvalidArgument, NoSpace
from ..fs.ctl import decode

MESSAGE_BYTES = 128
"""that a message is counted with beside its text, so that a million empty ones are not free"""
_PART = 1 << 16
"""characters of a message that are shown at a time"""


def size(messages: Iterable[Message]) -> int:
    """Bytes that a quota counts for them."""
    return sum(MESSAGE_BYTES + len(message.content.encode()) for message in messages)


def pieces(messages: Iterable[Message]) -> Iterator[bytes]:
    """The text, in order."""
    for message in messages:
        content = message.content
        if len(content) <= _PART:
            yield f'{{"role": "{message.role}", "content": {_quoted(content)}}}\n'.encode()
            continue
        yield f'{{"role": "{message.role}", "content": "'.encode()
        for at in range(0, len(content), _PART):
            yield _quoted(content[at : at + _PART])[1:-1].encode()
        yield b'"}\n'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def show(messages: Iterable[Message]) -> str:
    """The whole text of a history that is short."""
    return b"".join(pieces(messages)).decode()


def parse(text: str) -> list[Message]:
    """The messages of the whole text.  Raises InvalidArgument naming the line."""
    reader = Reader(len(text.encode()) + 1)
    reader.feed(text.encode())
    return reader.finished()[0]


class Reader:
    """Parses a history while it comes.  No line may have more than `most` bytes."""

    __slots__ = ("_error", "_line", "_messages", "_most", "_number", "_size")

    def __init__(self, most: int) -> None:
        self._most = most
        self._messages: list[Message] = []
        self._line: list[bytes] = []
        """of the line that has no end yet; the last entry says how long it is"""
        self._number = 1
        """of that line"""
        self._error: InvalidArgument | NoSpace | None = None
        self._size = 0
        """of the messages so far"""

    def feed(self, data: bytes) -> None:
        """One more piece.  What is wrong with it `finished` tells."""
        if self._error is not None:
            return
        try:
            *lines, rest = data.split(b"\n")
            for line in lines:
                messages = self._parsed(b"".join((*self._line, line)))
                self._messages += messages
                self._size += size(messages)
                self._line.clear()
                self._number += 1
            self._line.append(rest)
            if sum(map(len, self._line)) > self._most:
                raise self._too_long()
        except (InvalidArgument, NoSpace) as e:
            self._error = e
            self._messages.clear()
            self._line.clear()

    def finished(self) -> tuple[list[Message], int]:
        """The messages, and their `size`, if nothing more comes.  Raises InvalidArgument or
        NoSpace, naming the line."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        last = self._parsed(b"".join(self._line))
        return [*self._messages, *last], self._size + size(last)

    def _too_long(self) -> NoSpace:
        return NoSpace(
            f"{NoSpace.ename}: history line {self._number} is longer than {self._most} bytes"
        )

    def _parsed(self, line: bytes) -> list[Message]:
        """The message in a line; none in a blank one."""
        if len(line) > self._most:
            raise self._too_long()
        if not line.strip():
            return []
        text = decode(line)
        try:
            record = json.loads(text)
            role, content = record["role"], record["content"]
            if role not in ("user", "assistant") or not isinstance(content, str):
                raise ValueError
            content.encode()  # "\\ud800" is JSON and no text
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InvalidArgument(
                f'history line {self._number} is not '
                '{"role": "user"|"assistant", "content": TEXT}'
            ) from None
        return [Message(role, content)]
