"""A worker: one conversation's files a user, `clone`, `embed`, and verbs of its own.

Workers of a host share its engine and no state.  A `Worker` is itself an `Engine`
in front of the host's: whatever is asked in its directory passes through it, so it
can count what it did, and log how each request ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future

from ..conversation.clone import CloneFile
from ..conversation.conversation import Conversation
from ..conversation.files import DataFile, add_conversation_files, ctl_commands
from ..conversation.limits import Limits
from ..engine import request_log
from ..engine.base import Engine, Generated, Listener, Load, Request, State, Token, Usage
from ..engine.structured.constraint import Constraint
from ..errors import Busy, InvalidArgument, WorkerLost
from ..fs.ctl import Command, Commands, for_admins
from ..fs.tree import Directory, Tree
from ..fs.user import User

log = logging.getLogger(__name__)


class Worker:
    """`remove` takes it off its host; `info` makes further lines of its `status`.  Where the
    host does not know its users, requests without a label share nothing in the KV cache."""

    def __init__(
        self,
        name: str,
        node_type: str,
        engine: Engine,
        info: Callable[[], str],
        remove: Callable[[Worker], None],
        limits: Limits | None = None,
        knows_users: bool = True,
    ) -> None:
        self.name = name
        self.node_type = node_type
        self.draining = False
        self.queued = 0
        """of the active ones, those that no slot has been found for yet"""
        self.requests = 0
        self.tokens = 0
        self.errors = 0
        self.lost = False
        """its host's engine does not work any more"""
        self.removed = False
        """it was shut down; what still refers to it only fails"""
        self.conversations: dict[str, Conversation] = {}
        """each user's own, for those who looked into the directory"""
        self._engine = engine
        self._info = info
        self._remove = remove
        self._limits = limits or Limits()
        self._knows_users = knows_users
        self._requests: set[Request] = set()
        """given to the engine and not over"""

    def directory(self, tree: Tree, user: User) -> Directory:
        """Its files as `user` sees them, made when they are looked for."""
        return Directory(
            tree.owned_by(user.name), self.name, fill=lambda directory: self._fill(directory, user)
        )

    def _fill(self, directory: Directory, user: User) -> None:
        def converse() -> Conversation:
            return Conversation(
                self,
                limits=self._limits,
                admit=self._admit,
                user=user.name,
                shares=self._knows_users,
            )

        conversation = self.conversations[user.name] = converse()
        commands = Commands(
            [
                *ctl_commands(conversation),
                for_admins(user, Command("drain", "", 0, 0, lambda words: self.drain)),
                for_admins(user, Command("resume", "", 0, 0, lambda words: self.resume)),
                for_admins(user, Command("shutdown", "", 0, 0, lambda words: self.shutdown)),
            ],
            conversation.noting,
        )

        def status() -> str:
            draining = "yes" if self.draining else "no"
            return f"worker {self.name}\ndraining {draining}\n{self._info()}"

        add_conversation_files(directory, conversation, commands, status)
        directory.add(CloneFile(directory, converse))
        directory.add(DataFile(directory.tree, "embed", conversation, conversation.embed))

    def drain(self) -> None:
        """Take no new prompts; those that were taken, queued ones too, go on."""
        self.draining = True

    def resume(self) -> None:
        self.draining = False

    def shutdown(self) -> None:
        """Stop what was asked of it, in cloned conversations too, and leave the host."""
        self.removed = True
        for conversation in self.conversations.values():
            conversation.close(self._shut_down())
        for request in self._requests:
            self._engine.cancel(request)
        self._remove(self)

    @property
    def active(self) -> int:
        """Requests given to the engine and not over."""
        return len(self._requests)

    @property
    def state(self) -> str:
        """`lost`, `draining`, or what the first of its users' conversations does that is not
        idle."""
        if self.lost:
            return "lost"
        if self.draining:
            return "draining"
        states = (conversation.state for conversation in self.conversations.values())
        return next((s for s in states if s is not State.IDLE), State.IDLE).value

    def _admit(self) -> None:
        self._check_there()
        if self.draining:
            raise Busy(f"{Busy.ename}: {self.name} is draining")

    def _check_there(self) -> None:
        if self.removed:
            raise self._shut_down()

    def _shut_down(self) -> WorkerLost:
        return WorkerLost(f"{WorkerLost.ename}: {self.name} was shut down")

    # -- the engine that its conversations see ------------------------------------

    def submit(self, request: Request, listener: Listener) -> None:
        self._check_there()
        if request.node_type not in ("", self.node_type):
            raise InvalidArgument(
                f"{self.name} is of type {self.node_type}, not {request.node_type}"
            )
        self._engine.submit(request, _Counted(self, request, listener))
        self.requests += 1
        self.queued += 1
        self._requests.add(request)

    def cancel(self, request: Request) -> None:
        self._engine.cancel(request)

    def forget(self, conversation: Hashable) -> None:
        self._engine.forget(conversation)

    def check(self, constraint: Constraint, user: str) -> Future[None]:
        return self._engine.check(constraint, user)

    @property
    def load(self) -> Load:
        return self._engine.load


class _Counted:
    """A listener that counts for its worker what it passes on, and logs the end."""

    __slots__ = ("_generated", "_listener", "_queued", "_request", "_worker")

    def __init__(self, worker: Worker, request: Request, listener: Listener) -> None:
        self._worker = worker
        self._request = request
        self._listener = listener
        self._generated = Generated(request)
        self._queued = True

    def _note_queued(self, queued: bool) -> None:
        self._worker.queued += queued - self._queued
        self._queued = queued

    def progress(self, state: State, position: int) -> None:
        self._note_queued(state is State.QUEUED)
        self._listener.progress(state, position)

    def tokens(self, text: bytes, tokens: Sequence[Token]) -> None:
        self._worker.tokens += self._generated.count(tokens)
        self._listener.tokens(text, tokens)

    def done(self, usage: Usage) -> None:
        self._over(usage)
        self._listener.done(usage)

    def failed(self, error: Exception) -> None:
        self._over(error)
        self._worker.errors += 1
        self._listener.failed(error)

    def _over(self, end: Usage | Exception) -> None:
        self._note_queued(False)
        self._worker._requests.discard(self._request)
        request_log.over(log, self._request, end, worker=self._worker.name)
