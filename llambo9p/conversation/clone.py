"""`clone`: opening it makes a conversation, which lives as long as one of its files is open.

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


class OpenClone(OpenCtl):
    """Keeps the conversation alive, in addition to the open files of its directory."""

    __slots__ = ("_opens",)

    def __init__(self, number: str, commands: Commands, opens: Uses) -> None:
        super().__init__(f"{number}\n".encode(), commands)
        self._opens = opens
        opens.retain()

    def drop(self) -> None:
        self._opens.release()


def furnish(directory: Directory, conversation: Conversation, *verbs: Command) -> Commands:
    """Put the files of a conversation into its directory; `verbs` are further ones of its
    `ctl`, whose commands are the result."""
    commands = Commands([*ctl_commands(conversation), *verbs], conversation.noting)
    add_conversation_files(directory, conversation, commands)
    return commands


class CloneFile(SyntheticFile, Generic[C]):
    """Makes conversations in `directory`, with `make`, and their files, with `furnish`."""

    __slots__ = ("_directory", "_furnish", "_make", "_numbers")

    def __init__(
        self,
        directory: Directory,
        make: Callable[[], C],
        furnish: Callable[[Directory, C, Command], Commands] = furnish,
    ) -> None:
        super().__init__(directory.tree, "clone", 0o600)
        self._directory = directory
        self._make = make
        self._furnish = furnish
        self._numbers = itertools.count()

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        conversation = self._make()
        clones = conversation.limits.clones
        clones.take(1, conversation.user)
        number = str(next(self._numbers))

        def close() -> None:
            if not conversation.closed:
                clones.give_back(1, conversation.user)
            self._directory.discard(number)
            conversation.close()

        directory = Directory(self.tree, number, 0o500)
        directory.opens = Uses(close)
        close_verb = Command("close", "", 0, 0, lambda words: close)
        commands = self._furnish(directory, conversation, close_verb)
        self._directory.add(directory)
        return OpenClone(number, commands, directory.opens)
