"""`llm/`: a directory's numbered conversations as the `/n/llm` of Infernode's agents, so that these
find here what they know.  It is a view: `llm/N` and `N` are one conversation.

| file | read | write |
|---|---|---|
| `new` | makes a conversation, and is its number and a newline | |
| `N/ask` | the newest answer, whole, ending in a newline; waits for it | a prompt |
| `N/stream` | the newest answer as it comes, whatever the offset; end of file after each answer | |
| `N/system` | as `system` everywhere | |
| `N/temperature`, `N/maxtokens` | the setting | the setting |
| `N/context` | the history, JSON | |
| `N/usage` | `tokens of the last prompt and its answer/tokens of a context` | |
| `N/ctl` | nothing | `reset`, `close`, `autocompact 0` |

Rules kept here, which are Infernode's:
- A conversation that `new` made lives until `close`, whether or not anything of it is open.  At
  most `MOST` of a user's do; one that nobody has used for `UNUSED_S` then gives way.
- What is written to `ask` is one prompt until anything of the conversation is read, or the fid is
  clunked: Inferno's kernel sends in several Twrites what is longer than 8 KB.  White space
  around it is dropped, and a blank prompt asks nothing.
- What went wrong is read of `ask` as a text, `Error: ...`.  Everywhere else it is an error, so an
  end of file of `stream` means that the answer is whole.

Source: Infernode's llmsrv.b, and its clients in appl/veltro and appl/cmd/lucibridge.b.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

from ..errors import Busy, InvalidArgument, PermissionDenied
from ..fs.ctl import Action, Command, Commands, CtlFile, decode
from ..fs.file import OpenFile
from ..fs.tree import Directory, OpenSnapshot, SyntheticFile, Tree
from ..p9.node import Maybe
from . import settings
from .clone import Clone, Clones
from .conversation import Conversation
from .files import whole_text_file
from .turn import Turn
from .written import OpenKept, Written

MOST = 128
"""conversations of a user that nothing but `close` ends"""
UNUSED_S = 3600.0


class Session:
    """A conversation as this view has it."""

    def __init__(self, clone: Clone[Conversation]) -> None:
        self.clone = clone
        self.conversation = clone.conversation
        self.asking: dict[OpenAsk, None] = {}
        """who has written what is not asked yet, the first one first"""
        self.is_kept = False
        """it lives until it is closed"""
        self._used = 0.0
        self.touch()

    def touch(self) -> None:
        """Somebody used it."""
        self._used = asyncio.get_running_loop().time()

    def used_at(self) -> float:
        """When it was used last, by the event loop's clock: now, while a file of it is open or it
        answers."""
        if self.clone.uses.count > self.is_kept or self.conversation.running is not None:
            self.touch()
        return self._used

    def keep(self) -> None:
        self.is_kept = True
        self.clone.uses.retain()

    def newest(self) -> Turn | None:
        """The newest turn, when what was written is asked.  Raises Error when it is closed."""
        self.touch()
        while self.asking:
            next(iter(self.asking)).submit()
        self.conversation.check_open()
        return self.conversation.newest


def _answer(turn: Turn) -> bytes:
    """All of it, or what went wrong."""
    if turn.error is not None:
        text = f"Error: {turn.error}".encode()
    else:
        text = turn.stream.data
    return text if text.endswith(b"\n") else text + b"\n"


class OpenAsk(OpenFile):
    """A prompt that is written, and the newest answer."""

    def __init__(self, session: Session) -> None:
        self._session = session
        conversation = session.conversation
        self._written = Written("ask", conversation.limits.prompt_bytes, conversation)

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        self._session.touch()
        with self._session.conversation.noting():
            self._written.extend(data)
        if data:
            self._session.asking[self] = None
        return len(data)

    def submit(self) -> None:
        """What was written, if anything was."""
        if self in self._session.asking:
            del self._session.asking[self]
            prompt = self._written.take().strip()
            if prompt:
                self._session.conversation.submit(prompt)

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        turn = self._session.newest()
        if turn is None:
            return b""
        if not turn.stream.finished:
            return self._read_later(turn, offset, count)
        return _answer(turn)[offset : offset + count]

    async def _read_later(self, turn: Turn, offset: int, count: int) -> bytes:
        while not turn.stream.finished:
            await turn.stream.wait(_END)
        return _answer(turn)[offset : offset + count]

    def clunk(self) -> Maybe[None]:
        try:
            self.submit()
        finally:
            self.drop()
        return None

    def drop(self) -> None:
        self._session.asking.pop(self, None)
        self._written.discard()


_END = 1 << 62
"""where no answer reaches"""


class OpenAnswers(OpenFile):
    """`stream`: one answer after the other, from a cursor of its own."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._turn: Turn | None = None
        self._cursor = 0

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        newest = self._session.newest()
        if self._turn is None or (self._turn is not newest and self._turn.is_over):
            self._turn, self._cursor = newest, 0
        return self._rest(count)

    def _rest(self, count: int) -> Maybe[bytes]:
        turn = self._turn
        if turn is None:
            return b""
        if self._cursor >= len(turn.stream) and not turn.stream.finished:
            return self._read_later(turn, count)
        data = turn.stream.read(self._cursor, count)
        assert isinstance(data, bytes)
        self._cursor += len(data)
        return data

    async def _read_later(self, turn: Turn, count: int) -> bytes:
        await turn.stream.wait(self._cursor)
        data = self._rest(count) if turn is self._turn else b""
        return data if isinstance(data, bytes) else await data


class OpenSetting(OpenSnapshot):
    """A setting of `ctl`, in a file of its own; what is written counts at once."""

    def __init__(self, conversation: Conversation, name: str, shown: str) -> None:
        """`shown` is how it is read."""
        now = getattr(conversation.settings.params, name)
        super().__init__(shown.format(now).encode())
        self._conversation = conversation
        self._name = name

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        conversation = self._conversation
        with conversation.noting():
            if word := decode(data).strip():
                spec = next(each for each in settings.SETTINGS if each.name == self._name)
                value = spec.read([word])
                conversation.settings = settings.change(conversation.settings, self._name, value)
        return len(data)


class LlmFile(SyntheticFile):
    """A file of `llm/`, which `make` opens."""

    def __init__(self, tree: Tree, name: str, perm: int, make: Callable[[], OpenFile]) -> None:
        super().__init__(tree, name, perm)
        self._make = make

    def open(self, mode: int) -> Maybe[OpenFile]:
        if not self.allows(mode):
            raise PermissionDenied
        return self._make()


class OpenNew(OpenFile):
    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        """Each at the start makes one."""
        if offset:
            return b""
        if count < _ID_BYTES:
            raise InvalidArgument(f"new: a read must have room for {_ID_BYTES} bytes")
        return f"{self._make()}\n".encode()


_ID_BYTES = 20


class LlmDirectory(Directory):
    """The view of `clones`, of a user's; `context` is how many tokens a prompt and its answer may
    have, 0 when nobody knows."""

    def __init__(self, clones: Clones[Conversation], context: Callable[[], int]) -> None:
        super().__init__(clones.directory.tree, "llm", 0o500)
        self._clones = clones
        self._context = context
        self._sessions: dict[str, Session] = {}
        clones.made.append(self._made)
        self.add(LlmFile(self.tree, "new", 0o400, lambda: OpenNew(self._new)))

    def _new(self) -> str:
        """The number of a new one.  Raises Busy."""
        kept = [session for session in self._sessions.values() if session.is_kept]
        if len(kept) >= MOST:
            unused = min(kept, key=lambda session: session.used_at())
            if unused.used_at() > asyncio.get_running_loop().time() - UNUSED_S:
                raise Busy(
                    f"{Busy.ename}: llm: you have {MOST} conversations; write close to the ctl "
                    "of one that nobody needs"
                )
            unused.clone.close()
        clone = self._clones.new()
        self._sessions[clone.number].keep()
        return clone.number

    def _made(self, clone: Clone[Conversation]) -> None:
        session = self._sessions[clone.number] = Session(clone)
        view = Directory(self.tree, clone.number, 0o500, lambda view: self._furnish(view, session))
        view.opens = clone.uses
        self.add(view)
        clone.closed.append(lambda: self._closed(clone.number))

    def _closed(self, number: str) -> None:
        self.discard(number)
        del self._sessions[number]

    def _furnish(self, view: Directory, session: Session) -> None:
        conversation, clone = session.conversation, session.clone

        def add(name: str, perm: int, make: Callable[[], OpenFile]) -> None:
            def opened() -> OpenFile:
                session.touch()
                return make()

            view.add(LlmFile(self.tree, name, perm, opened))

        def add_setting(name: str, shown: str, of: str) -> None:
            add(name, 0o600, lambda: OpenSetting(conversation, of, shown))

        add("ask", 0o600, lambda: OpenAsk(session))
        add("stream", 0o400, lambda: OpenAnswers(session))
        view.add(whole_text_file(self.tree, conversation, "system"))
        add_setting("temperature", "{:.2f}\n", "temperature")
        add_setting("maxtokens", "{}\n", "max_tokens")
        add("context", 0o400, lambda: OpenKept(_context(conversation), conversation))
        add("usage", 0o400, lambda: OpenSnapshot(self._usage(conversation)))
        verbs = Commands(_verbs(clone), conversation.noting)
        view.add(CtlFile(self.tree, "ctl", lambda: "", verbs, 0o600))

    def _usage(self, conversation: Conversation) -> bytes:
        usage = conversation.last_usage
        tokens = 0 if usage is None else usage.prompt_tokens + usage.completion_tokens
        return f"{tokens}/{self._context()}\n".encode()


def _context(conversation: Conversation) -> bytes:
    turns = [{"role": turn.role, "content": turn.content} for turn in conversation.history]
    return json.dumps(turns, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _verbs(clone: Clone[Conversation]) -> list[Command]:
    def autocompact(words: Sequence[str]) -> Action:
        if words != ["0"]:
            raise InvalidArgument("autocompact must be 0: nothing is compacted here")
        return lambda: None

    return [
        Command("reset", "", 0, 0, lambda words: clone.conversation.reset),
        Command("close", "", 0, 0, lambda words: clone.close),
        Command("autocompact", "0", 1, 1, autocompact),
    ]
