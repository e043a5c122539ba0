"""Conversations in directories with numbers; and `clone`, whose opening makes one, which lives as
long as one of its files is open.

The fid becomes the new conversation's `ctl` for writing and gives its number N when
read, as in Plan 9's /net; the directory `N/` appears beside `clone`.  A `cat clone`
makes exactly one.  When the last open file of the conversation is closed, or `close` is
written to its ctl, it is closed and `N/` disappears.  A fid that was only walked there keeps
nothing: plan9port's 9pfuse never lets one go.  Numbers are never used again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

from ..errors import PermissionDenied
from ..fs.ctl import Command, Commands, OpenCtl
from ..fs.file import OpenFile
from ..fs.tree import Directory, SyntheticFile, Uses
from ..p9.node import Maybe
from .conversation import Conversation
from .files import add_conversation_files, ctl_commands

C = TypeVar("C", bound=Conversation)


class Clone(Generic[C]):
    """One of them; it goes with `close`, or when nothing `uses` it any more."""

    def __init__(self, number: str, conversation: C) -> None:
        self.number = number
        self.conversation = conversation
        self.uses = Uses(self.close)
        """the open files of its directory, and whoever else keeps it"""
        self.directory: Directory
        self.commands: Commands
        """of its ctl"""
        self.closed: list[Callable[[], None]] = []
        """are called at its end"""

    def close(self) -> None:
        """May be called again."""
        conversation = self.conversation
        if not conversation.closed:
            conversation.limits.clones.give_back(1, conversation.user)
            conversation.close()
            for told in self.closed:
                told()


class Clones(Generic[C]):
    """Makes conversations in `directory`, with `make`, and their files, with `furnish`."""

    def __init__(
        self,
        directory: Directory,
        make: Callable[[], C],
        furnish: Callable[[Directory, C, Command], Commands],
    ) -> None:
        self.directory = directory
        self.made: list[Callable[[Clone[C]], None]] = []
        """are told of each"""
        self._make = make
        self._furnish = furnish
        self._numbers = itertools.count()

    def new(self) -> Clone[C]:
        """Raises Busy when its user has as many as he may."""
        conversation = self._make()
        conversation.limits.clones.take(1, conversation.user)
        clone = Clone(str(next(self._numbers)), conversation)
        clone.directory = Directory(self.directory.tree, clone.number, 0o500)
        clone.directory.opens = clone.uses
        close_verb = Command("close", "", 0, 0, lambda words: clone.close)
        clone.commands = self._furnish(clone.directory, conversation, close_verb)
        clone.closed.append(lambda: self.directory.discard(clone.number))
        self.directory.add(clone.directory)
        for told in self.made:
            told(clone)
        return clone


class OpenClone(OpenCtl):
    """Keeps the conversation alive, in addition to the open files of its directory."""

    __slots__ = ("_uses",)

    def __init__(self, clone: Clone[C]) -> None:
        super().__init__(f"{clone.number}\n".encode(), clone.commands)
        self._uses = clone.uses
        self._uses.retain()

    def drop(self) -> None:
        self._uses.release()


def furnish(directory: Directory, conversation: Conversation, *verbs: Command) -> Commands:
    """Put the files of a conversation into its directory; `verbs` are further ones of its
    `ctl`, whose commands are the result."""
    commands = Commands([*ctl_commands(conversation), *verbs], conversation.noting)
    add_conversation_files(directory, conversation, commands)
    return commands


class CloneFile(SyntheticFile, Generic[C]):
    """`clone`, of the conversations of a directory."""

    __slots__ = ("clones",)

    def __init__(
        self,
        directory: Directory,
        make: Callable[[], C],
        furnish: Callable[[Directory, C, Command], Commands] = furnish,
    ) -> None:
        super().__init__(directory.tree, "clone", 0o600)
        self.clones = Clones(directory, make, furnish)

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        return OpenClone(self.clones.new())
