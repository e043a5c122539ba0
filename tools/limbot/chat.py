"""A conversation that outlives its connection.

`Chat` keeps on our side what the conversation is made of, its settings, system prompt and
history, and works on a clone at the cluster's root that has the same.  When the connection
is lost it clones anew, puts everything back, and what was being answered goes on from its
tokens.

All methods block and belong to one thread, which no signal may reach; but for `stop` and
`hang_up`, which another one calls meanwhile.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from py9p.constants import ORDWR

from llambo9p.conversation.history import show as show_history
from llambo9p.conversation.settings import Settings
from llambo9p.conversation.settings import show as show_settings
from llambo9p.engine.base import Message
from llambo9p.engine.sampling import INTEGERS
from llambo9p.net.backoff import Backoff

from .. import show
from ..asking import put_text
from ..failure import Failure
from ..remote import Unreachable
from ..tree import OpenFile, Tree
from .answer import Answer

T = TypeVar("T")

_FIRST_S, _LONGEST_S = 0.2, 3.0
"""between two attempts to connect"""

_QUEUE_S = 2.0
"""between two looks at the queue"""

DEFAULTS = show.words(show_settings(Settings()))
"""the settings of a conversation that was told nothing, by name"""

_GONE = "the cluster is gone; waiting for it (`llamboctl init`), ^C gives up"


class _Clone(NamedTuple):
    tree: Tree
    ctl: OpenFile
    directory: str
    settings: dict[str, str]
    """that it was told"""


class Chat:
    def __init__(
        self,
        connect: Callable[[], Tree],
        settings: Mapping[str, str],
        texts: Mapping[str, str] | None = None,
        sources: Mapping[str, str] | None = None,
        notice: Callable[[str], None] = lambda text: None,
        patience: float = math.inf,
        queued: Callable[[int], None] | None = None,
    ) -> None:
        """`settings` are those of `ctl` that shall not have their defaults, `texts` those that
        are written to files of the conversation, as its system prompt, and `sources` what errors
        call these.  A lost cluster is
        waited for `patience` seconds; without any nothing is prepared for it, either.  `queued`
        is told, until the answer begins, the prompt's place in the queue: once, and whenever
        only half as many are before it."""
        self.settings = dict(settings)
        self.texts = dict(texts or {})
        self._sources = dict(sources or {})
        self.history: list[Message] = []
        self.asked = ""
        """the last prompt of this conversation, whatever became of it"""
        self.stopping = threading.Event()
        """set by `stop`; whoever calls the next method clears it before"""
        self._connect = connect
        self._notice = notice
        self._patience = patience
        self._queued = queued
        self._clone: _Clone | None = None
        self._history_differs = False
        """the clone's, from ours"""

    # -- its life -----------------------------------------------------------------

    def open(self) -> None:
        """Raises Failure; later there is more patience."""
        self._clone = self._furnish(self._connect())

    def close(self) -> None:
        clone, self._clone = self._clone, None
        if clone is not None:
            with contextlib.suppress(Unreachable):
                clone.ctl.__exit__(None)
            clone.tree.close()

    def stop(self) -> None:
        """End the running answer, or the waiting for the cluster."""
        self.stopping.set()
        clone = self._clone
        if clone is not None:
            with contextlib.suppress(Failure):
                clone.ctl.write(b"cancel\n")

    def hang_up(self) -> None:
        """For a cluster that does not even react to `stop`."""
        self.stopping.set()
        clone = self._clone
        if clone is not None:
            clone.tree.close()

    # -- what can be done ---------------------------------------------------------

    def ask(
        self, prompt: str, show: Callable[[bytes], None], after: Answer | None = None
    ) -> Answer:
        """`show` is given the answer as it comes; what was shown of one that is stopped is
        remembered.  It goes on `after` what there is of it.  Raises Failure when there is none."""
        self.asked = prompt = prompt.removesuffix("\n")
        differs = lambda: self._notice("it cannot go on; this is another answer:")  # noqa: E731
        answer = Answer(show, differs, after)
        allowed = int(self.max_tokens) if after is None else self.most_after(after)
        while (clone := self._connected()) is not None:
            answer.begin()
            try:
                self._read(clone, prompt, answer, str(allowed))
                break
            except Unreachable:
                self._lost()
                if not self._patience:
                    raise
            except Failure as e:
                if not answer.given:
                    raise Failure(e.message.removeprefix(f"{clone.directory}/out: ")) from None
                answer.given = b""  # those of another model
        if answer.text:
            self.history += [Message("user", prompt), Message("assistant", answer.text)]
        return answer

    @property
    def system(self) -> str:
        """The system prompt."""
        return self.texts.get("system", "")

    def set_system(self, text: str) -> None:
        self._sources.pop("system", None)
        texts = {**self.texts, "system": text}
        self._change("texts", texts, lambda clone: self._put_text(clone, "system"))

    @property
    def max_tokens(self) -> str:
        """Of an answer."""
        return self.settings.get("max_tokens", DEFAULTS["max_tokens"])

    def can_go_on(self, answer: Answer) -> bool:
        """Whether it is the newest of this conversation, and did not end by itself."""
        cut = answer.stopped or answer.usage.get("finish_reason") == "length"
        ours = [Message("user", self.asked), Message("assistant", answer.text)]
        return cut and bool(answer.tokens) and self.history[-2:] == ours

    def most_after(self, answer: Answer) -> int:
        """How many tokens it may have when it goes on: as many again as one may have."""
        return min(answer.tokens.count(b"\n") + int(self.max_tokens), INTEGERS["max_tokens"][1])

    def more(self, cut: Answer, show: Callable[[bytes], None]) -> Answer:
        """Go on with an answer that `can_go_on`, from its tokens; `show` is given what is new.
        The conversation has one turn then, as if it had never been cut.  Raises Failure, and then
        the turn is as it was."""
        history, self.history = self.history, self.history[:-2]
        self._history_differs = True
        try:
            answer = self.ask(self.asked, show, cut)
            self._history_differs = answer.stopped  # perhaps before it had gone on
            return answer
        finally:
            if len(self.history) < len(history):
                self.history, self._history_differs = history, True

    def set(self, name: str, value: str) -> None:
        """A setting, in the words that `ctl` takes."""
        self._change("settings", {**self.settings, name: value}, self._put_settings)

    def set_history(self, messages: Sequence[Message]) -> None:
        self._change("history", list(messages), self._put_history)
        prompts = [message.content for message in messages if message.role == "user"]
        self.asked = prompts[-1] if prompts else ""

    def read(self, path: str) -> str:
        """Any file of the tree; nothing when it was stopped."""
        return self._do(lambda clone: clone.tree.text(path)) or ""

    def read_own(self, name: str) -> str:
        """A file of the conversation; nothing when it was stopped."""
        return self._do(lambda clone: clone.tree.text(f"{clone.directory}/{name}")) or ""

    # -- the clone ----------------------------------------------------------------

    def _connected(self) -> _Clone | None:
        """The clone, made anew if the last one was lost; None when we are stopped before."""
        backoff = Backoff(_FIRST_S, _LONGEST_S)
        until = time.monotonic() + self._patience
        told = False
        while self._clone is None and not self.stopping.is_set():
            try:
                tree = self._connect()
                with contextlib.suppress(Unreachable):
                    self._clone = self._furnish(tree)
                    self._notice("connected again")
                    break
            except Failure as e:
                if time.monotonic() >= until:
                    raise
                if not told:
                    told = True
                    gone = isinstance(e, Unreachable)
                    self._notice(_GONE if gone else f"{e.message}; trying again, ^C gives up")
            self.stopping.wait(backoff.next())
        return None if self.stopping.is_set() else self._clone

    def _lost(self) -> None:
        clone, self._clone = self._clone, None
        if clone is not None:
            clone.tree.close()

    def _do(self, act: Callable[[_Clone], T]) -> T | None:
        """On whatever clone there is then; None when we are stopped before."""
        while (clone := self._connected()) is not None:
            try:
                return act(clone)
            except Unreachable:
                self._lost()
        return None

    def _change(self, name: str, value: object, put: Callable[[_Clone], None]) -> None:
        """Here and there, or nowhere when the cluster refuses it."""
        before = getattr(self, name)
        setattr(self, name, value)
        try:
            self._do(put)
        except Failure:
            setattr(self, name, before)
            self._do(put)
            raise

    def _furnish(self, tree: Tree) -> _Clone:
        """A new clone that is as ours was."""
        try:
            ctl = tree.open("clone", ORDWR).__enter__()
            clone = _Clone(tree, ctl, b"".join(ctl.chunks()).decode().strip(), {})
            if self.settings:
                self._put_settings(clone)
            for name in self.texts:
                self._put_text(clone, name)
            self._history_differs = bool(self.history)
            if self.history:
                self._put_history(clone)
            return clone
        except BaseException:
            tree.close()
            raise

    def _put_settings(self, clone: _Clone) -> None:
        lines = [f"{name} {value}\n" for name, value in self.settings.items()]
        clone.ctl.write("".join(lines).encode())
        clone.settings.update(self.settings)

    def _put_text(self, clone: _Clone, name: str) -> None:
        # nothing written would change nothing; the newline is not part of it
        text = _encode(self.texts.get(name, "") + "\n")
        put_text(clone.tree, clone.directory, name, text, self._sources.get(name, name))

    def _put_history(self, clone: _Clone) -> None:
        clone.ctl.write(b"reset\n")
        self._history_differs = False
        if self.history:
            lines = show_history(self.history)
            clone.tree.write(f"{clone.directory}/history", lines.encode())

    def _read(self, clone: _Clone, prompt: str, answer: Answer, allowed: str) -> None:
        tree, ctl, directory, told = clone
        if self._history_differs:
            self._put_history(clone)
        if told.get("max_tokens", DEFAULTS["max_tokens"]) != allowed:
            ctl.write(f"max_tokens {allowed}\n".encode())
            told["max_tokens"] = allowed
        if answer.given:
            tree.write(f"{directory}/tokens", answer.given)
        tree.write(f"{directory}/prompt", _encode(prompt))
        if self.stopping.is_set():
            # what `stop` wrote may have come before the prompt
            ctl.write(b"cancel\n")
        with (
            tree.open(f"{directory}/out") as out,
            self._following(clone, answer),
            self._in_queue(clone) as begun,
        ):
            for piece in out.chunks():
                begun()
                answer.add(piece)
        answer.end()
        # without it the answer is as good
        try:
            answer.usage = show.words(tree.text(f"{directory}/usage"))
        except Unreachable:
            self._lost()

    @contextlib.contextmanager
    def _in_queue(self, clone: _Clone) -> Iterator[Callable[[], None]]:
        """Tell of the place in the queue, but nothing once it was said that the answer has
        begun."""
        if self._queued is None:
            yield lambda: None
            return
        queue = _Queue(clone, self._queued)
        thread = threading.Thread(target=queue.watch, daemon=True)
        thread.start()
        try:
            yield queue.leave
        finally:
            queue.leave()

    @contextlib.contextmanager
    def _following(self, clone: _Clone, answer: Answer) -> Iterator[None]:
        """Note the answer's tokens, from which it can go on elsewhere."""
        if not self._patience:
            yield
            return
        with clone.tree.open(f"{clone.directory}/tokens") as tokens:
            thread = threading.Thread(target=_follow, args=(tokens, answer), daemon=True)
            thread.start()
            try:
                yield
            except Failure:
                raise  # and `tokens` fails, too
            except BaseException:
                clone.tree.close()  # nobody reads the rest
                raise
            finally:
                thread.join()


class _Queue:
    """Looks at a prompt's place; on a thread of its own."""

    def __init__(self, clone: _Clone, tell: Callable[[int], None]) -> None:
        self._clone = clone
        self._tell = tell
        self._left = threading.Event()
        self._telling = threading.Lock()

    def leave(self) -> None:
        if not self._left.is_set():
            with self._telling:
                self._left.set()

    def watch(self) -> None:
        told = math.inf
        while not self._left.wait(_QUEUE_S):
            try:
                status = show.words(self._clone.tree.text(f"{self._clone.directory}/status"))
            except Failure:  # which the reader of `out` tells
                return
            position = int(status.get("position", "0"))
            if not 0 < position <= told / 2:
                continue
            with self._telling:
                if not self._left.is_set():
                    told = position
                    self._tell(position)


def _follow(tokens: OpenFile, answer: Answer) -> None:
    with contextlib.suppress(Failure):  # which the reader of `out` tells
        answer.follow(tokens.chunks())


def _encode(text: str) -> bytes:
    """What is no text the cluster refuses, saying where."""
    return text.encode("utf-8", "surrogateescape")
