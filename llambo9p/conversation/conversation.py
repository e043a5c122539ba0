"""A conversation: its settings, history, and the turns asked of it.

It owns the order of things: prompts run one after the other, the history grows by
a turn when its answer is complete, and the newest turn is the one that `out`
shows.  What answers is an `Engine`; nothing here knows which kind.  There are no
files here either: `files.py` shows a conversation as a directory.

A turn's answer is a `Stream`: readers come and go, early or late, and none of
them holds up the engine.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ..engine.base import Engine, Message, Request, State, Usage
from ..errors import Busy, Error, Interrupted, InvalidArgument, NoSpace
from ..fs.ctl import decode
from ..fs.stream import Stream
from . import texts
from .settings import Settings


class Buffer:
    """Bytes that the clients of a process may have in it, written and not yet asked."""

    __slots__ = ("_of", "_used", "limit", "per_user")

    def __init__(self, limit: int = 256 * 1024 * 1024, per_user: int | None = None) -> None:
        self.limit = limit
        self.per_user = limit if per_user is None else per_user
        self._used = 0
        self._of: Counter[str] = Counter()

    def take(self, count: int, user: str) -> None:
        """Raises NoSpace, and takes nothing, when it is full, or the user's part of it."""
        if self._used + count > self.limit:
            raise NoSpace(
                f"{NoSpace.ename}: the prompts that all clients are writing or have queued "
                f"would be more than {self.limit} bytes"
            )
        if self._of[user] + count > self.per_user:
            raise NoSpace(
                f"{NoSpace.ename}: the prompts that {user or 'one user'} is writing or has "
                f"queued would be more than {self.per_user} bytes"
            )
        self._used += count
        self._of[user] += count

    def give_back(self, count: int, user: str) -> None:
        self._used -= count
        self._of[user] -= count
        if not self._of[user]:
            del self._of[user]


class Clones:
    """How many cloned conversations each user has in a process."""

    __slots__ = ("_of", "limit")

    def __init__(self, limit: int = 10_000) -> None:
        self.limit = limit
        self._of: Counter[str] = Counter()

    def take(self, user: str) -> None:
        """Raises Busy, and takes nothing, when the user has as many as he may."""
        if self._of[user] >= self.limit:
            raise Busy(f"{Busy.ename}: {user or 'one user'} has {self.limit} conversations")
        self._of[user] += 1

    def give_back(self, user: str) -> None:
        self._of[user] -= 1
        if not self._of[user]:
            del self._of[user]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one conversation may hold."""

    prompt_bytes: int = 8 * 1024 * 1024
    """of one prompt or system prompt that is being written"""
    queued_prompts: int = 64
    """behind the running one"""
    history_bytes: int = 16 * 1024 * 1024
    """of all messages, MESSAGE_BYTES of each beside its text; older turns are forgotten, or
    with `overflow error` the next prompt is refused"""
    buffer: Buffer = field(default_factory=Buffer)
    """for what is written and not yet asked, shared with other conversations"""
    clones: Clones = field(default_factory=Clones)
    """shared with other conversations"""


class Turn:
    """One prompt and its answer, from submit to the end.  An engine `Listener`."""

    __slots__ = (
        "_ended",
        "error",
        "position",
        "prompt",
        "request",
        "size",
        "state",
        "stream",
        "usage",
    )

    def __init__(self, prompt: str, ended: Callable[[Turn], None]) -> None:
        self.prompt = prompt
        self.size = 0
        """bytes of the prompt, while it is queued in the conversation"""
        self.stream = Stream()
        self.state = State.QUEUED
        self.position = 0
        self.usage: Usage | None = None
        """when it is done"""
        self.request: Request | None = None
        """when it was given to the engine"""
        self.error: Exception | None = None
        self._ended = ended

    def progress(self, state: State, position: int) -> None:
        self.state = state
        self.position = position

    def tokens(self, text: bytes, count: int) -> None:
        self.state = State.DECODE
        if text:
            self.stream.append(text)

    def done(self, usage: Usage) -> None:
        self.state = State.IDLE
        self.usage = usage
        self._ended(self)
        self.stream.finish()

    def failed(self, error: Exception) -> None:
        self.state = State.IDLE
        self.error = error
        self._ended(self)
        self.stream.fail(error)


class Conversation:
    """See the module.  All methods are called on the event loop's thread."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings | None = None,
        limits: Limits | None = None,
        admit: Callable[[], None] = lambda: None,
        user: str = "",
    ) -> None:
        """`admit` raises why no new prompt is taken now; those that wait are not asked.
        `user` is whose conversation it is."""
        self.settings = settings or Settings()
        self.limits = limits or Limits()
        self.system = ""
        self.history: list[Message] = []
        self.newest: Turn | None = None
        """the turn submitted last, which `out` shows"""
        self.running: Turn | None = None
        self.last_usage: Usage | None = None
        self.last_error = ""
        """the full text of the last failure"""
        self.closed = False
        self._engine = engine
        self._admit = admit
        self.user = user
        self._history_bytes = 0
        self._queue: deque[Turn] = deque()
        self._one_shots: set[Turn] = set()

    # -- prompts ------------------------------------------------------------------

    def submit(self, data: bytes) -> None:
        """A prompt was written: run it after those before it.

        Never raises: a prompt that is refused becomes a turn that failed, so that
        `out` tells why and `status` keeps the text.
        """
        turn = Turn("", self._turn_over)
        self.newest = turn
        try:
            self._check_admission()
            self._check_history()
            turn.prompt = self._prompt_text(data)
            if len(self._queue) >= self.limits.queued_prompts:
                raise Busy
            self.limits.buffer.take(len(data), self.user)
            turn.size = len(data)
        except Error as e:
            turn.failed(e)
            return
        self._queue.append(turn)
        self._start_next()

    def ask(self, data: bytes) -> Turn:
        """A one-shot query with this conversation's settings and system prompt;
        history is neither used nor changed.  Raises what makes it impossible."""
        self._check_admission()
        turn = Turn(self._prompt_text(data), self._one_shot_over)
        self._give_to_engine(turn, history=False)
        self._one_shots.add(turn)
        return turn

    def cancel(self) -> None:
        """Stop the running turn; those queued behind it go on."""
        if self.running is not None:
            self.stop(self.running)

    def stop(self, turn: Turn) -> None:
        """Stop a turn of this conversation that the engine has."""
        if turn.request is not None:
            self._engine.cancel(turn.request)

    def reset(self) -> None:
        """Forget history and every turn; settings and system prompt stay."""
        running, self.running = self.running, None
        if running is not None:
            self.stop(running)
        queued, self._queue = self._queue, deque()
        for turn in queued:
            self.limits.buffer.give_back(turn.size, self.user)
            turn.failed(Interrupted("the conversation was reset"))
        self.history.clear()
        self._history_bytes = 0
        self.newest = None
        self.last_usage = None
        self.last_error = ""
        self._engine.forget(self)

    def close(self) -> None:
        """The conversation is gone: stop everything asked of it."""
        if not self.closed:
            self.reset()
            self.closed = True
            for turn in list(self._one_shots):
                self.stop(turn)

    def _check_admission(self) -> None:
        if self.closed:
            raise InvalidArgument("the conversation is closed")
        self._admit()

    def _prompt_text(self, data: bytes) -> str:
        if self.settings.mode == "chat":
            data = data.removesuffix(b"\n")
        return decode(data)

    def _start_next(self) -> None:
        while self.running is None and self._queue:
            turn = self.running = self._queue.popleft()
            self.limits.buffer.give_back(turn.size, self.user)
            try:
                self._give_to_engine(turn, history=True)
            except Error as e:
                self.running = None  # and the loop goes on to the next
                turn.failed(e)

    def _give_to_engine(self, turn: Turn, history: bool) -> None:
        turn.request = Request(
            self._render(turn.prompt, history),
            self.settings.params,
            conversation=self if history else None,
            overflow=self.settings.overflow,
            user=self.user,
        )
        self._engine.submit(turn.request, turn)

    def _render(self, prompt: str, history: bool) -> tuple[Message, ...] | str:
        if self.settings.mode == "complete":
            return prompt
        system = [Message("system", self.system)] if self.system else []
        before = self.history if history else []
        return (*system, *before, Message("user", prompt))

    def _turn_over(self, turn: Turn) -> None:
        if turn.error is not None:
            self.last_error = str(turn.error)
        if turn is not self.running:
            return  # refused, or reset meanwhile
        self.running = None
        if turn.usage is not None:
            self.last_usage = turn.usage
            assert turn.request is not None
            answer = turn.stream.data.decode()
            if not isinstance(turn.request.prompt, str) and answer:
                # a cancelled answer stays as far as it was seen
                self._remember([Message("user", turn.prompt), Message("assistant", answer)])
        self._start_next()

    def _remember(self, messages: list[Message]) -> None:
        """Append to the history, and forget the oldest turns that it has no room for."""
        self.history += messages
        self._history_bytes += _size(messages)
        if self.settings.overflow == "trim":
            while self._history_bytes > self.limits.history_bytes and self.history:
                oldest = 1
                while oldest < len(self.history) and self.history[oldest].role != "user":
                    oldest += 1
                self._history_bytes -= _size(self.history[:oldest])
                del self.history[:oldest]

    def _check_history(self) -> None:
        if self._history_bytes > self.limits.history_bytes:
            raise NoSpace(
                f"{NoSpace.ename}: the history is more than {self.limits.history_bytes} bytes; "
                "`reset` forgets it"
            )

    def _one_shot_over(self, turn: Turn) -> None:
        self._one_shots.discard(turn)
        if turn.usage is not None:
            self.last_usage = turn.usage
        if turn.error is not None:
            self.last_error = str(turn.error)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Whatever fails inside is the last error that `status` shows."""
        try:
            yield
        except Error as e:
            self.last_error = str(e)
            raise

    # -- texts --------------------------------------------------------------------

    def append_history(self, data: bytes) -> None:
        """Append the messages of `texts.parse_history`; all or nothing."""
        messages = texts.parse_history(decode(data))
        total = self._history_bytes + _size(messages)
        if total > self.limits.history_bytes:
            raise NoSpace(
                f"{NoSpace.ename}: history: {total} bytes would be more than "
                f"{self.limits.history_bytes}"
            )
        self.history += messages
        self._history_bytes = total

    def history_text(self) -> str:
        return texts.show_history(self.history)

    def set_system(self, data: bytes) -> None:
        """Replace the system prompt.  One trailing newline is dropped."""
        self.system = decode(data.removesuffix(b"\n"))

    def usage_text(self) -> str:
        """The last request that ended; empty before."""
        return texts.show_usage(self.last_usage) if self.last_usage is not None else ""

    @property
    def state(self) -> State:
        return self.running.state if self.running is not None else State.IDLE

    def status_text(self) -> str:
        """`attr value` lines: state, position in the engine's queue, prompts
        queued here, turns so far, last error."""
        lines = [
            f"state {self.state.value}",
            f"position {self.running.position if self.running is not None else 0}",
            f"queued {len(self._queue)}",
            f"turns {len(self.history) // 2}",
        ]
        if self.last_error:
            lines.append("error " + " ".join(self.last_error.splitlines()))
        return "\n".join(lines) + "\n"


MESSAGE_BYTES = 128
"""that a message is counted with beside its text, so that a million empty ones are not free"""


def _size(messages: Iterable[Message]) -> int:
    return sum(MESSAGE_BYTES + len(message.content.encode()) for message in messages)
