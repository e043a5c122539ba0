"""`fusion/` as files: a conversation whose answers are fused, and `votes` beside its files.

Each user has his own, and `clone` makes more, each with settings and votes of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from ..conversation.clone import CloneFile
from ..conversation.conversation import Conversation
from ..conversation.files import add_conversation_files, ctl_commands, setting_command
from ..conversation.limits import Limits
from ..conversation.written import OpenKept
from ..errors import PermissionDenied
from ..fs.ctl import Command, Commands
from ..fs.file import OpenFile
from ..fs.tree import Directory, SyntheticFile, Tree
from ..p9.node import Maybe
from .election import SETTINGS
from .fusion_engine import FusionEngine


class FusionConversation(Conversation):
    """A conversation with a `FusionEngine` of its own."""

    def __init__(self, engine: FusionEngine, limits: Limits, user: str) -> None:
        super().__init__(engine, limits=limits, user=user)
        self.fusion = engine

    def votes_text(self) -> str:
        election = self.fusion.election
        return election.votes_text() if election is not None else ""

    def votes_status(self) -> str:
        election = self.fusion.election
        return election.status_text() if election is not None else ""


class VotesFile(SyntheticFile):
    """A line for each voter of the newest request, as it is at open."""

    __slots__ = ("_conversation",)

    def __init__(self, tree: Tree, conversation: FusionConversation) -> None:
        super().__init__(tree, "votes", 0o400)
        self._conversation = conversation

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        return OpenKept(self._conversation.votes_text().encode(), self._conversation)


def furnish(directory: Directory, conversation: FusionConversation, *verbs: Command) -> Commands:
    """As `conversation.clone.furnish`, with what fusion has besides."""
    fusion = conversation.fusion
    commands = Commands(
        [
            *(setting_command(spec, fusion.change) for spec in SETTINGS),
            *ctl_commands(conversation),
            *verbs,
        ],
        conversation.noting,
    )
    add_conversation_files(
        directory, conversation, commands, conversation.votes_status, fusion.settings_text
    )
    directory.add(VotesFile(directory.tree, conversation))
    return commands


def fusion_directory(
    tree: Tree, make: Callable[[], FusionConversation], made: Callable[[Conversation], None]
) -> Directory:
    """A user's `fusion/`.  Its conversation is made when it is first looked into, which
    `made` is told."""

    def fill(directory: Directory) -> None:
        conversation = make()
        made(conversation)
        furnish(directory, conversation)
        directory.add(CloneFile(directory, make, furnish))

    return Directory(tree, "fusion", 0o555, fill)
