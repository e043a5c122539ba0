"""A worker: one conversation's files, `clone`, and verbs of its own.

Workers of a host share its engine and no state.  A `Worker` is itself an `Engine`
in front of the host's: whatever is asked in its directory passes through it, so it
can count what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from ..conversation.clone import CloneFile
from ..conversation.conversation import Conversation
from ..conversation.files import add_conversation_files, ctl_commands
from ..engine.base import Engine, Listener, Load, Request, State, Usage
from ..errors import Busy, WorkerLost
from ..fs.ctl import Command, Commands
from ..fs.tree import Directory, Tree


class Worker:
    """`directory` is its tree; `remove` takes it off its host."""

    def __init__(
        self,
        tree: Tree,
        name: str,
        engine: Engine,
        info: Callable[[], str],
        remove: Callable[[Worker], None],
    ) -> None:
        self.name = name
        self.draining = False
        self.queued = 0
        """of the active ones, those that no slot has been found for yet"""
        self.requests = 0
        self.tokens = 0
        self.errors = 0
        self._engine = engine
        self.removed = False
        """it was shut down; what still refers to it only fails"""
        self._remove = remove
        self._requests: set[Request] = set()
        """given to the engine and not over"""
        self.conversation = Conversation(self, admit=self._admit)
        self.directory = Directory(tree, name)
        commands = Commands(
            [
                *ctl_commands(self.conversation),
                Command("drain", "", 0, 0, lambda words: self.drain),
                Command("resume", "", 0, 0, lambda words: self.resume),
                Command("shutdown", "", 0, 0, lambda words: self.shutdown),
            ],
            self.conversation.noting,
        )

        def status() -> str:
            return f"worker {name}\ndraining {'yes' if self.draining else 'no'}\n{info()}"

        add_conversation_files(self.directory, self.conversation, commands, status)
        self.directory.add(CloneFile(self.directory, lambda: Conversation(self, admit=self._admit)))

    def drain(self) -> None:
        """Take no new prompts; those that were taken, queued ones too, go on."""
        self.draining = True

    def resume(self) -> None:
        self.draining = False

    def shutdown(self) -> None:
        """Stop what was asked of it, in cloned conversations too, and leave the host."""
        self.removed = True
        self.conversation.close()
        for request in self._requests:
            self._engine.cancel(request)
        self._remove(self)

    @property
    def active(self) -> int:
        """Requests given to the engine and not over."""
        return len(self._requests)

    @property
    def state(self) -> str:
        """`draining`, or what its own conversation does."""
        return "draining" if self.draining else self.conversation.state.value

    def _admit(self) -> None:
        self._check_there()
        if self.draining:
            raise Busy(f"{Busy.ename}: {self.name} is draining")

    def _check_there(self) -> None:
        if self.removed:
            raise WorkerLost(f"{WorkerLost.ename}: {self.name} was shut down")

    # -- the engine that its conversations see ------------------------------------

    def submit(self, request: Request, listener: Listener) -> None:
        self._check_there()
        self._engine.submit(request, _Counted(self, request, listener))
        self.requests += 1
        self.queued += 1
        self._requests.add(request)

    def cancel(self, request: Request) -> None:
        self._engine.cancel(request)

    def forget(self, conversation: Hashable) -> None:
        self._engine.forget(conversation)

    @property
    def load(self) -> Load:
        return self._engine.load


class _Counted:
    """A listener that counts for its worker what it passes on."""

    __slots__ = ("_listener", "_queued", "_request", "_worker")

    def __init__(self, worker: Worker, request: Request, listener: Listener) -> None:
        self._worker = worker
        self._request = request
        self._listener = listener
        self._queued = True

    def _leave_queue(self) -> None:
        if self._queued:
            self._queued = False
            self._worker.queued -= 1

    def progress(self, state: State, position: int) -> None:
        if state is not State.QUEUED:
            self._leave_queue()
        self._listener.progress(state, position)

    def tokens(self, text: bytes, count: int) -> None:
        self._leave_queue()
        self._worker.tokens += count
        self._listener.tokens(text, count)

    def done(self, usage: Usage) -> None:
        self._leave_queue()
        self._worker._requests.discard(self._request)
        try:
            self._worker._check_there()
        except WorkerLost as e:
            self._listener.failed(e)  # the answer was cut off
        else:
            self._listener.done(usage)

    def failed(self, error: Exception) -> None:
        self._leave_queue()
        self._worker._requests.discard(self._request)
        self._worker.errors += 1
        self._listener.failed(error)
