"""A conversation: its settings, history, and the turns asked of it.

It owns the order of things: prompts run one after the other, the history grows by
a turn when its answer is complete, and the newest turn is the one that `out`
shows.  What answers is an `Engine`; nothing here knows which kind.  There are no
files here either: `files.py` shows a conversation as a directory.

A turn's answer is in streams: readers come and go, early or late, and none of them
holds up the engine.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..engine.base import Engine, Message, Request, SamplingParams, State, Usage
from ..errors import Busy, Error, Interrupted, InvalidArgument, NoSpace
from ..fs.ctl import decode
from . import history as history_text
from . import texts
from .limits import Limits
from .settings import Settings
from .turn import Turn
from .whole_texts import CONSTRAINT, HISTORY, SYSTEM, TOKENS, WholeTexts

_ERROR_CHARS = 4_000
"""of an error that are kept for `status`"""


class Conversation:
    """See the module.  All methods are called on the event loop's thread."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings | None = None,
        limits: Limits | None = None,
        admit: Callable[[], None] = lambda: None,
        user: str = "",
        shares: bool = True,
    ) -> None:
        """`admit` raises why no new prompt is taken now; those that wait are not asked.
        `user` is whose conversation it is; its requests that have no label `share` cells of the
        KV cache with the user's others, or with none."""
        self.settings = settings or Settings()
        self.limits = limits or Limits()
        self.texts = WholeTexts(
            self.limits, user, engine.check, lambda: self.settings.params, self._texts_checked
        )
        self._delayed: list[Turn] = []
        """one-shot queries that wait for a check of a text"""
        self.history: list[Message] = []
        self.newest: Turn | None = None
        """the turn submitted last, which `out` shows"""
        self.running: Turn | None = None
        self.last_usage: Usage | None = None
        self.last_error = ""
        """the full text of the last failure"""
        self.last_request = ""
        """the id of the one that was given to the engine last"""
        self.closed = False
        self._engine = engine
        self._admit = admit
        self._shares = shares
        self.user = user
        self.history_bytes = 0
        """of `history`, as the quota of what is kept has them"""
        self._forgotten = 0
        """turns that `history` had, of this conversation"""
        self._queue: deque[Turn] = deque()
        self._one_shots: set[Turn] = set()

    # -- prompts ------------------------------------------------------------------

    def submit(self, data: bytes) -> None:
        """A prompt was written: run it after those before it.

        Never raises: a prompt that is refused becomes a turn that failed, so that
        `out` tells why and `status` keeps the text.
        """
        turn = self._new_turn("", self._turn_over)
        before, self.newest = self.newest, turn
        if before is not None and before.is_over:
            before.forget()
        try:
            prompt = self._admitted(data)
            self.limits.buffer.take(len(data), self.user)
        except Error as e:
            self.texts.forget_tokens()
            turn.failed(e)
            return
        turn.prompt = prompt
        turn.given, size = self.texts.use_tokens()
        turn.size = len(data) + size
        self._queue.append(turn)
        self._start_next()

    def check_prompt(self, data: bytes) -> None:
        """Raises what `submit` would refuse the prompt for; nothing changes."""
        self._admitted(data)
        if not self.texts.is_checking:
            self.texts.refusals.check()

    def _admitted(self, data: bytes) -> str:
        """The text of a prompt that may be asked now."""
        self._check_admission()
        self._check_history()
        prompt = self._prompt_text(data)
        if len(self._queue) >= self.limits.queued_prompts:
            raise Busy
        return prompt

    def ask(self, data: bytes) -> Turn:
        """A one-shot query with this conversation's settings and system prompt;
        history is neither used nor changed.  Raises what makes it impossible."""
        self._check_admission()
        turn = self._new_turn(self._prompt_text(data), self._one_shot_over)
        turn.size = len(data)
        if self.texts.is_checking:
            self.limits.buffer.take(turn.size, self.user)
            self._delayed.append(turn)
        else:
            self._give_query(turn)
        self._one_shots.add(turn)
        return turn

    def embed(self, data: bytes) -> Turn:
        """The embedding of a text, as `ask`; nothing of the conversation is used.  One
        trailing newline is dropped."""
        self._check_admission()
        turn = self._new_turn(decode(data.removesuffix(b"\n")), self._one_shot_over)
        turn.size = len(data)
        with self._held(turn, history=False):
            request = Request(turn.prompt, user=self.user, embed=True, id=self._request_id())
            self._submit(turn, request)
        self._one_shots.add(turn)
        return turn

    def cancel(self) -> None:
        """Stop the running turn; those queued behind it go on."""
        if self.running is not None:
            self.stop(self.running)

    def stop(self, turn: Turn, why: Error | None = None) -> None:
        """Stop a turn of this conversation that the engine has; `why`, unless the user wants
        it."""
        if turn.request is not None:
            turn.cut = why
            self._engine.cancel(turn.request)
        elif turn in self._delayed:
            self._delayed.remove(turn)
            self.limits.buffer.give_back(turn.size, self.user)
            turn.failed(why or Interrupted())

    def reset(self, why: Error | None = None) -> None:
        """Forget history and every turn; settings and system prompt stay.  `why`, unless the
        user wants it."""
        running, self.running = self.running, None
        if running is not None:
            self.stop(running, why)
        queued, self._queue = self._queue, deque()
        for turn in queued:
            self.limits.buffer.give_back(turn.size, self.user)
            turn.failed(why or Interrupted("the conversation was reset"))
        self.history.clear()
        self._forgotten = 0
        self._forget_bytes(self.history_bytes)
        self.texts.forget_tokens()
        self.texts.refusals.forget(TOKENS, HISTORY)
        newest, self.newest = self.newest, None
        if newest is not None and newest.is_over:
            newest.forget()
        self.last_usage = None
        self.last_error = ""
        self.last_request = ""
        self._engine.forget(self)

    def close(self, why: Error | None = None) -> None:
        """The conversation is gone: stop everything asked of it; `why`, unless the user wants
        it."""
        if not self.closed:
            self.reset(why)
            self.texts.close()
            self.closed = True
            for turn in list(self._one_shots):
                self.stop(turn, why)

    def _new_turn(self, prompt: str, ended: Callable[[Turn], None]) -> Turn:
        return Turn(prompt, ended, self.limits.kept, self.user)

    def _check_admission(self) -> None:
        self.check_open()
        self._admit()

    def check_open(self) -> None:
        """Raises InvalidArgument when it is closed."""
        if self.closed:
            raise InvalidArgument("the conversation is closed")

    def _prompt_text(self, data: bytes) -> str:
        if self.settings.mode == "chat":
            data = data.removesuffix(b"\n")
        return decode(data)

    def _start_next(self) -> None:
        while self.running is None and self._queue and not self.texts.is_checking:
            turn = self.running = self._queue.popleft()
            self.limits.buffer.give_back(turn.size, self.user)
            try:
                self._give_to_engine(turn, history=True)
            except Error as e:
                self.running = None  # and the loop goes on to the next
                turn.failed(e)

    def _give_query(self, turn: Turn) -> None:
        self._give_to_engine(turn, history=False)

    def _give_to_engine(self, turn: Turn, history: bool) -> None:
        self.texts.refusals.check(*(() if history else (SYSTEM, CONSTRAINT)))
        with self._held(turn, history):
            request = Request(
                self._render(turn.prompt, history),
                self._params(history),
                conversation=self if history else None,
                overflow=self.settings.overflow,
                priority=self.settings.priority,
                node_type=self.settings.type,
                user=self.user,
                label=self.settings.cache_label or ("" if self._shares else None),
                answer=turn.given,
                id=self._request_id(),
            )
            self._submit(turn, request)

    @contextlib.contextmanager
    def _held(self, turn: Turn, history: bool) -> Iterator[None]:
        """Inside, the turn is given to the engine.  What was asked is kept from now on, and
        the history that it goes on from makes room for it.  Raises NoSpace; a turn that is
        refused, by whomever, holds nothing."""
        turn.hold()
        try:
            if history:
                self._trim_history()
            self._check_kept()
            yield
        except BaseException:
            turn.forget()
            raise

    def _request_id(self) -> str:
        return self.settings.request_id or f"{random.getrandbits(48):012x}"

    def _submit(self, turn: Turn, request: Request) -> None:
        self.last_request = request.id
        self.limits.requests.take(1, self.user)
        try:
            self._engine.submit(request, turn)
        except BaseException:
            self.limits.requests.give_back(1, self.user)
            raise
        turn.request = request

    def _params(self, is_shown: bool) -> SamplingParams:
        params = self.texts.constrained(self.settings.params)
        return params if is_shown else replace(params, logprobs=0)

    def _engine_done(self, turn: Turn) -> None:
        if turn.request is not None:
            self.limits.requests.give_back(1, self.user)
        if turn is not self.newest:
            turn.forget()
        if turn.error is not None:
            self.last_error = str(turn.error)[:_ERROR_CHARS]

    def _render(self, prompt: str, history: bool) -> tuple[Message, ...] | str:
        if self.settings.mode == "complete":
            return prompt
        system = [Message("system", self.texts.system)] if self.texts.system else []
        before = self.history if history else []
        return (*system, *before, Message("user", prompt))

    def _turn_over(self, turn: Turn) -> None:
        prompt = turn.prompt
        self._engine_done(turn)
        if turn is not self.running:
            return  # refused, or reset meanwhile
        self.running = None
        if turn.usage is not None:
            trimmed = turn.usage.trimmed_turns + self._forgotten
            self.last_usage = replace(turn.usage, trimmed_turns=trimmed)
            assert turn.request is not None
            answer = turn.stream.data.decode()
            if not isinstance(turn.request.prompt, str) and answer:
                # a cancelled answer stays as far as it was seen
                self._remember([Message("user", prompt), Message("assistant", answer)])
        self._start_next()

    def _remember(self, messages: list[Message]) -> None:
        """Append to the history, whether or not there is room."""
        size = history_text.size(messages)
        self.history += messages
        self.history_bytes += size
        self.limits.kept.add(size, self.user)
        self._trim_history()

    def _trim_history(self) -> None:
        """Forget the oldest turns that there is no room for; where that is what the user keeps
        elsewhere, `status` says so."""
        if self.settings.overflow == "trim":
            while self.history and self._history_is_full:
                if self.history_bytes <= self.limits.history_bytes:
                    self.last_error = "turns were forgotten: the user's histories are too long"
                over = self.history_bytes - self.limits.history_bytes
                self._forget_oldest(max(over, self.limits.kept.excess(self.user)))

    def _forget_oldest(self, count: int) -> None:
        """Forget as many of the oldest turns as have `count` bytes, and one at least."""
        oldest = size = 0
        while oldest < len(self.history) and (size < count or not oldest):
            self._forgotten += 1
            size += history_text.size(self.history[oldest : oldest + 1])
            oldest += 1
            while oldest < len(self.history) and self.history[oldest].role != "user":
                size += history_text.size(self.history[oldest : oldest + 1])
                oldest += 1
        del self.history[:oldest]
        self._forget_bytes(size)

    def _forget_bytes(self, count: int) -> None:
        self.history_bytes -= count
        self.limits.kept.give_back(count, self.user)

    @property
    def _history_is_full(self) -> bool:
        limits = self.limits
        return self.history_bytes > limits.history_bytes or limits.kept.is_over(self.user)

    def _check_history(self) -> None:
        if self.settings.overflow == "trim":
            return
        if self.history_bytes > self.limits.history_bytes:
            raise NoSpace(
                f"{NoSpace.ename}: the history is more than {self.limits.history_bytes} bytes; "
                "`reset` forgets it"
            )
        self._check_kept()

    def _check_kept(self) -> None:
        """Raises NoSpace when the user must give something back."""
        if self.limits.kept.is_over(self.user):
            self.limits.kept.take(0, self.user)

    def _one_shot_over(self, turn: Turn) -> None:
        self._engine_done(turn)
        self._one_shots.discard(turn)
        if turn.usage is not None:
            self.last_usage = turn.usage

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Whatever fails inside is the last error that `status` shows."""
        try:
            yield
        except Error as e:
            self.last_error = str(e)[:_ERROR_CHARS]
            raise

    # -- history -------------------------------------------------------------------

    def append_history(self, written: Callable[[], tuple[list[Message], int]]) -> None:
        """Append the messages that `written` gives, with their `history.size`; all or none.
        Raises what it raises, and NoSpace; the refusal stands, then, until some are appended or
        the history is reset."""
        refusals = self.texts.refusals
        number = refusals.begin()
        try:
            messages, size = self._fitting(written)
            self.limits.kept.add(size, self.user)
        except Error as e:
            refusals.refuse(HISTORY, number, e)
            raise
        self.history += messages
        self.history_bytes += size
        refusals.accept(HISTORY, number)

    def check_history(self, written: Callable[[], tuple[list[Message], int]]) -> None:
        """Raises what `append_history` would; nothing changes."""
        self._fitting(written)

    def _fitting(
        self, written: Callable[[], tuple[list[Message], int]]
    ) -> tuple[list[Message], int]:
        """What `written` gives, if there is room for it in the conversation."""
        self.check_open()
        messages, size = written()
        if not messages:
            return messages, size
        total = self.history_bytes + size
        if total > self.limits.history_bytes:
            raise NoSpace(
                f"{NoSpace.ename}: history: {total} bytes would be more than "
                f"{self.limits.history_bytes}"
            )
        self.limits.kept.check(size, self.user)
        return messages, size

    # -- texts ---------------------------------------------------------------------

    def _texts_checked(self) -> None:
        """What waited for a check goes to the engine."""
        delayed, self._delayed = self._delayed, []
        for turn in delayed:
            self.limits.buffer.give_back(turn.size, self.user)
            try:
                self._give_query(turn)
            except Error as e:
                turn.failed(e)
        self._start_next()

    # -- what is shown ------------------------------------------------------------

    def usage_text(self) -> str:
        """The last request that ended; empty before."""
        return texts.show_usage(self.last_usage) if self.last_usage is not None else ""

    @property
    def state(self) -> State:
        return self.running.state if self.running is not None else State.IDLE

    def status_text(self) -> str:
        """`attr value` lines: state, position in the engine's queue, a number that grows when
        the running request gets further, prompts queued here, turns so far, those that the last
        answer did not know any more, the newest request's id, last error."""
        running = self.running
        lines = [
            f"state {self.state.value}",
            f"position {running.position if running is not None else 0}",
            f"progress {running.progress_in(self._engine) if running is not None else 0}",
            f"queued {len(self._queue)}",
            f"turns {len(self.history) // 2}",
            f"trimmed_turns {self.last_usage.trimmed_turns if self.last_usage else 0}",
        ]
        if self.last_request:
            lines.append(f"request {self.last_request}")
        if self.last_error:
            lines.append("error " + " ".join(self.last_error.splitlines()))
        return "\n".join(lines) + "\n"
