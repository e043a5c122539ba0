"""ctl files: a table of verbs, and the rule that a write is all or nothing.

A write is one or more lines, each a verb and its words; `'quoted words'` with
'' for a quote inside, as in Plan 9's rc.  Each verb has a validating half, which
gets the words and returns the committing half.  All lines are validated before
the first is committed, so a write with a bad line changes nothing.

Offsets are ignored: every write is a fresh set of lines (9p.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from ..errors import InvalidArgument, PermissionDenied
from ..p9.node import Maybe
from ..p9.words import shown
from .file import OpenFile
from .tree import OpenSnapshot, SyntheticFile, Tree
from .user import User

Action = Callable[[], Maybe[None]]
"""the committing half: applies what was validated, at once or by waiting"""


class Command(NamedTuple):
    """A verb.  `validate` gets the words after it and raises InvalidArgument
    naming the verb and what it allows; its number of words is checked before."""

    name: str
    usage: str
    """the words after the verb as shown in errors, e.g. `N` or `ADDR [NAME]`"""
    n_min: int
    n_max: int
    validate: Callable[[Sequence[str]], Action]


def for_admins(user: User, command: Command) -> Command:
    """The command as `user` has it: refused to all but administrators."""

    def validate(words: Sequence[str]) -> Action:
        user.check_admin(command.name)
        return command.validate(words)

    return command._replace(validate=validate)


def split_lines(text: str) -> Iterator[str]:
    """The lines of a write.  A newline inside quotes belongs to its word, so that
    any word can be written as it is read."""
    pieces: list[str] = []
    quoted = False
    for piece in text.split("\n"):
        pieces.append(piece)
        quoted ^= piece.count("'") % 2 == 1
        if not quoted:
            yield "\n".join(pieces)
            pieces = []
    if pieces:
        yield "\n".join(pieces)


def split_words(line: str) -> list[str]:
    """The words of a line.  Raises InvalidArgument for an open quote."""
    if "'" not in line:
        return line.split()
    words: list[str] = []
    word: list[str] | None = None
    quoted = False
    i = 0
    while i < len(line):
        ch = line[i]
        i += 1
        if quoted:
            if ch != "'":
                word.append(ch)  # type: ignore[union-attr]
            elif line[i : i + 1] == "'":
                word.append("'")  # type: ignore[union-attr]
                i += 1
            else:
                quoted = False
        elif ch == "'":
            quoted = True
            word = [] if word is None else word
        elif ch.isspace():
            if word is not None:
                words.append("".join(word))
            word = None
        else:
            if word is None:
                word = []
            word.append(ch)
    if quoted:
        raise InvalidArgument(f"quote is not closed: {shown(line.strip())}")
    if word is not None:
        words.append("".join(word))
    return words


def quote(word: str) -> str:
    """The word as `split_words` reads it back."""
    if word and not any(ch.isspace() or ch == "'" for ch in word):
        return word
    return "'" + word.replace("'", "''") + "'"


MOST_LINES = 1_000
"""in one write: each takes time of everybody's event loop"""


class Commands:
    """A table of verbs.  Each write runs inside a `noting()`, which sees its error."""

    def __init__(
        self,
        commands: Iterable[Command],
        noting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._by_name = {command.name: command for command in commands}
        self._noting = noting

    def run(self, data: bytes) -> Maybe[int]:
        """Validate and commit one write.  The result is the write's count."""
        with self._noting():
            actions = self.parse(decode(data))
            for i, action in enumerate(actions):
                waiting = action()
                if waiting is not None:
                    return self._finish(waiting, actions[i + 1 :], len(data))
        return len(data)

    async def _finish(self, waiting: Awaitable[None], rest: list[Action], count: int) -> int:
        with self._noting():
            await waiting
            for action in rest:
                more = action()
                if more is not None:
                    await more
        return count

    def parse(self, text: str) -> list[Action]:
        """The actions of all lines.  Raises InvalidArgument for the first bad one."""
        if text.count("\n") > MOST_LINES:
            raise InvalidArgument(
                f"more than {MOST_LINES} lines in one write: write them in several"
            )
        actions = []
        for line in split_lines(text):
            words = split_words(line)
            if not words:
                continue
            verb, *args = words
            command = self._by_name.get(verb)
            if command is None:
                raise InvalidArgument(
                    f"unknown verb {quote(shown(verb))}; verbs are {' '.join(self._by_name)}"
                )
            if not command.n_min <= len(args) <= command.n_max:
                raise InvalidArgument(f"usage: {command.name} {command.usage}".rstrip())
            actions.append(command.validate(args))
        return actions


class OpenCtl(OpenSnapshot):
    __slots__ = ("_commands",)

    def __init__(self, data: bytes, commands: Commands) -> None:
        super().__init__(data)
        self._commands = commands

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        return self._commands.run(data)


def decode(data: bytes) -> str:
    """Text a client wrote.  Raises InvalidArgument that says where it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise InvalidArgument(f"not UTF-8: byte {data[e.start]:#04x} at {e.start}") from None


class CtlFile(SyntheticFile):
    """Reading gives `text` as it was at open; writing runs `commands`."""

    __slots__ = ("_commands", "_text")

    def __init__(
        self,
        tree: Tree,
        name: str,
        text: Callable[[], str],
        commands: Commands,
        perm: int = 0o644,
    ) -> None:
        super().__init__(tree, name, perm)
        self._text = text
        self._commands = commands

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        return OpenCtl(self._text().encode(), self._commands)
