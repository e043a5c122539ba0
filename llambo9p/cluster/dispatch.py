"""The orchestrator's engine: a request is answered by writing a worker's files.

For each conversation of the orchestrator that keeps history there is one
conversation on a worker, made by opening that worker's `clone`: the next turn goes
to the worker that holds its KV cache.  A one-shot gets a conversation of its own,
which ends with it.  Nothing is buffered: each Rread of the worker's `out` is passed
to the listener as it comes; what `tokens` and `logprobs` say of it comes a moment later,
many tokens at once.

A request whose worker is lost before its first token is sent to another, at most
`max_retries` times; after the first token it fails, saying so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ..conversation import settings, texts
from ..conversation.settings import Settings
from ..engine.base import (
    Listener,
    Load,
    Message,
    Request,
    SamplingParams,
    State,
    Token,
    Usage,
)
from ..errors import Busy, Error, NoSpace, NotSupported, WorkerLost
from ..net.client import RemoteOpen
from ..p9 import constants as c
from .balancer import Balancer
from .members import Members, Worker
from .remote import Mount

log = logging.getLogger(__name__)

_BYTES_PER_TOKEN = 4
"""rough, and only to compare loads"""
_FOLLOW_S = 0.25
"""between reads of `tokens`: they need not come as fast as the text"""


@dataclass(slots=True)
class Remote:
    """A conversation on a worker.  It ends when its `ctl`, the clone fid, is clunked."""

    worker: Worker
    mount: Mount
    """as the conversation's user sees the worker"""
    ctl: RemoteOpen
    number: str
    said: tuple[Message, ...] = ()
    """system prompt and history as the worker has them"""
    grammar: str = ""
    schema: str = ""
    """likewise"""

    def path(self, file: str) -> str:
        return f"{self.number}/{file}"

    def close(self) -> None:
        self.ctl.forget()
        self.mount.unuse()

    async def open(self, file: str, mode: int) -> RemoteOpen:
        return await self.mount.client.open(self.mount.fid, self.path(file), mode)

    async def put(self, file: str, data: bytes) -> None:
        """Write one of its files whole and submit it by Tclunk."""
        opened = await self.open(file, c.OWRITE | c.OTRUNC)
        try:
            await opened.write(data)
        except BaseException:
            opened.forget()
            raise
        await opened.clunk()


class ClusterEngine:
    """An `Engine` over the healthy workers of `members`."""

    def __init__(
        self, members: Members, balancer: Balancer, *, max_retries: int, queue: int
    ) -> None:
        self._members = members
        self._balancer = balancer
        self._max_retries = max_retries
        self._queue = queue
        self._tasks: dict[Request, asyncio.Task[Usage]] = {}
        self._remotes: dict[Hashable, Remote] = {}

    # -- Engine -------------------------------------------------------------------

    def submit(self, request: Request, listener: Listener) -> None:
        if request.embed:
            raise NotSupported("a cluster cannot embed: workers do, whose models differ")
        if not len(self._balancer):
            raise WorkerLost("no healthy worker; start some: spawn --count N --type T")
        if len(self._tasks) >= self._queue:
            raise Busy
        loop = asyncio.get_running_loop()
        started = loop.time()
        task = loop.create_task(self._answer(request, _Passed(listener)))
        self._tasks[request] = task

        def over(task: asyncio.Task[Usage]) -> None:
            del self._tasks[request]
            if task.cancelled():
                self.forget(request.conversation)
                total = (loop.time() - started) * 1000
                listener.done(Usage(total_ms=total, finish_reason="cancelled"))
            elif (error := task.exception()) is not None:
                self.forget(request.conversation)
                listener.failed(error if isinstance(error, Exception) else Error(repr(error)))
            else:
                listener.done(task.result())

        task.add_done_callback(over)

    def cancel(self, request: Request) -> None:
        task = self._tasks.get(request)
        if task is not None:
            task.cancel()

    def forget(self, conversation: Hashable) -> None:
        remote = self._remotes.pop(conversation, None)
        if remote is not None:
            remote.close()

    @property
    def load(self) -> Load:
        workers = self._members.workers.values()
        return Load(
            slots=sum(w.capacity for w in workers),
            active=len(self._tasks),
            queued=0,
            pending_prefill=0,
            pending_decode=sum(self._balancer.pending(w.name) for w in workers),
        )

    # -- a request ----------------------------------------------------------------

    async def _answer(self, request: Request, passed: _Passed) -> Usage:
        cost = _cost(request)
        tried: list[str] = []
        while True:
            remote = await self._remote_for(request, tried)
            name = remote.worker.name
            self._balancer.started(name, cost)
            try:
                return await self._ask(remote, request, passed)
            except (WorkerLost, Busy) as e:
                self.forget(request.conversation)
                tried.append(name)
                if passed.any:
                    raise WorkerLost(f"{name} was lost in the middle of the answer: {e}") from e
                if len(tried) > self._max_retries:
                    raise
            finally:
                self._balancer.finished(name, cost)
                if request.conversation is None:
                    remote.close()

    async def _remote_for(self, request: Request, tried: list[str]) -> Remote:
        """The conversation's own remote if its worker is healthy, else a new one on
        the worker that the balancer chooses.  Failures are added to `tried`."""
        remote = self._remotes.get(request.conversation)
        if remote is not None:
            worker = remote.worker
            mounted = self._members.workers.get(worker.name) is worker
            if mounted and worker.state not in ("lost", "draining"):
                return remote
            self.forget(request.conversation)
        while True:
            name = self._choose(request, frozenset(tried))
            if name is None:
                raise WorkerLost("no healthy worker is left")
            worker = self._members.workers[name]
            try:
                remote = await _clone(worker, request.user)
            except (WorkerLost, Busy):
                tried.append(name)
                if len(tried) > self._max_retries:
                    raise
                continue
            if request.conversation is not None:
                self._remotes[request.conversation] = remote
            return remote

    def _choose(self, request: Request, tried: frozenset[str]) -> str | None:
        def offer(apart: frozenset[str]) -> str | None:
            name = self._balancer.choose(tried | apart)
            return name if name not in tried else self._balancer.choose(tried)

        return offer(frozenset()) if request.place is None else request.place(offer)

    async def _ask(self, remote: Remote, request: Request, passed: _Passed) -> Usage:
        await remote.ctl.write(_ctl_text(request).encode())
        await self._constrain(remote, request.params)
        if request.answer:
            lines = "".join(f"{token}\n" for token in request.answer)
            await remote.put("tokens", lines.encode())
        if isinstance(request.prompt, str):
            prompt = request.prompt.encode()
        else:
            *before, last = request.prompt
            await self._bring_up_to(remote, tuple(before))
            prompt = _kept(last.content)
        await remote.put("prompt", prompt)
        passed.begin()
        answer = bytearray()
        following: contextlib.AbstractAsyncContextManager[None] = contextlib.nullcontext()
        if request.conversation is not None:  # of others nobody can read them
            following = _Following(remote, request, passed)
        async with await remote.open("out", c.OREAD) as out, following:
            async for data in out.chunks():
                answer += data
                passed.bytes(data)
        passed.end()
        async with await remote.open("usage", c.OREAD) as file:
            usage = texts.parse_usage((await file.read_all()).decode())
        if usage.finish_reason == "cancelled":  # not by us: this task would have ended
            raise WorkerLost(f"{WorkerLost.ename}: {remote.worker.name} stopped answering")
        if not isinstance(request.prompt, str) and answer:
            remote.said = (*request.prompt, Message("assistant", answer.decode()))
        return usage

    async def _constrain(self, remote: Remote, params: SamplingParams) -> None:
        """Give the worker's conversation the grammar or schema that answers must follow;
        there, too, one of them replaces the other, and what is blank is none."""
        if (remote.grammar, remote.schema) == (params.grammar, params.schema):
            return
        if params.grammar:
            await remote.put("grammar", params.grammar.encode())
        elif params.schema:
            await remote.put("schema", params.schema.encode())
        else:
            await remote.put("grammar" if remote.grammar else "schema", b"\n")
        remote.grammar, remote.schema = params.grammar, params.schema

    async def _bring_up_to(self, remote: Remote, before: tuple[Message, ...]) -> None:
        """Make the worker's conversation know exactly `before`."""
        if remote.said == before:
            return
        system, history = _split(before)
        if remote.said:
            await remote.ctl.write(b"reset\n")
        known_system, _ = _split(remote.said)
        if system != known_system:
            await remote.put("system", _kept(system))
        if history:
            await remote.put("history", texts.show_history(history).encode())
        remote.said = before


async def _clone(worker: Worker, user: str) -> Remote:
    """A new conversation of the user's on the worker; of the owner's on a host that does
    not know users."""
    mount = worker.mounts.get(user, worker.mount)
    if mount.refusal is not None:
        mount = worker.mount
    await mount.attach()
    mount.use()
    ctl: RemoteOpen | None = None
    try:
        ctl = await mount.client.open(mount.fid, "clone", c.ORDWR)
        return Remote(worker, mount, ctl, (await ctl.read(0)).decode().strip())
    except BaseException:
        if ctl is not None:
            ctl.forget()
        mount.unuse()
        raise


class _Following(contextlib.AbstractAsyncContextManager[None]):
    """While an answer is read: its tokens, passed on every `_FOLLOW_S` seconds and at the end
    of the answer."""

    def __init__(self, remote: Remote, request: Request, passed: _Passed) -> None:
        self._remote = remote
        self._request = request
        self._passed = passed
        self._ended = asyncio.Event()

    async def __aenter__(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # not told that it ended as well: Python 3.11's wait_for may take that for the end
            # of its own wait, and forget that it was cancelled
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.exception()  # that of `out` is told
            return
        self._ended.set()
        await self._task

    async def _follow(self) -> None:
        async with contextlib.AsyncExitStack() as files:
            token_lines = await self._lines(files, "tokens")
            logprob_lines = None
            if self._request.params.logprobs:
                logprob_lines = await self._lines(files, "logprobs")
            left = len(self._request.answer)
            """tokens that we gave: they have no logprobs"""
            while lines := await token_lines.more():
                tokens = []
                for line in lines:
                    token = _token(line)
                    if logprob_lines is not None and left <= 0:
                        try:
                            token = _with_logprobs(token, await logprob_lines.one())
                        except NoSpace as e:
                            log.warning("%s: logprobs: %s", self._remote.worker.name, e)
                            logprob_lines = None
                    left -= 1
                    tokens.append(token)
                self._passed.tokens(tokens)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), _FOLLOW_S)

    async def _lines(self, files: contextlib.AsyncExitStack, name: str) -> _Lines:
        return _Lines(await files.enter_async_context(await self._remote.open(name, c.OREAD)))


class _Lines:
    """The lines of a file that blocks at its end."""

    def __init__(self, file: RemoteOpen) -> None:
        self._chunks = file.chunks()
        self._rest = b""
        self._read: deque[str] = deque()

    async def more(self) -> list[str]:
        """What there is after the last ones, at least one; none at the end."""
        while not self._read:
            data = await anext(self._chunks, b"")
            if not data:
                return []
            *whole, self._rest = (self._rest + data).split(b"\n")
            self._read += (line.decode() for line in whole)
        lines = list(self._read)
        self._read.clear()
        return lines

    async def one(self) -> str:
        """The next one; empty at the end."""
        if not self._read:
            self._read += await self.more()
        return self._read.popleft() if self._read else ""


def _token(line: str) -> Token:
    try:
        token, end = map(int, line.split())
    except ValueError:
        raise Error(f"the worker's tokens file is not understood: {line[:40]!r}") from None
    return Token(token, end)


def _with_logprobs(token: Token, line: str) -> Token:
    logprobs = texts.parse_logprobs(line)
    if logprobs.chosen.id != token.id:
        raise Error(f"the worker's logprobs are of {logprobs.chosen.id}, its token is {token.id}")
    return token._replace(logprobs=logprobs)


class _Passed:
    """Passes bytes on as whole characters; an Rread may end inside one.  Tokens wait for the
    first of them: until then another worker may be asked, which has tokens of its own."""

    __slots__ = ("_half", "_listener", "_waiting", "any")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._half = b""
        self._waiting: list[Token] = []
        self.any = False

    def begin(self) -> None:
        """A worker is asked, perhaps after another."""
        assert not self.any
        self._waiting.clear()

    def bytes(self, data: bytes) -> None:
        if not self.any:
            self.any = True
            self._listener.progress(State.DECODE, 0)
        data = self._half + data
        whole = len(data) - _incomplete(data)
        self._half = data[whole:]
        waiting, self._waiting = self._waiting, []
        self._listener.tokens(data[:whole], waiting)

    def tokens(self, tokens: Sequence[Token]) -> None:
        if self.any:
            self._listener.tokens(b"", tokens)
        else:
            self._waiting += tokens

    def end(self) -> None:
        if self._half:
            raise Error("the worker's answer ends inside a UTF-8 character")
        if self._waiting:
            self._listener.tokens(b"", self._waiting)


def _incomplete(data: bytes) -> int:
    """How many bytes at the end begin a character that is not complete."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4
        return back if byte >= 0xC0 and length > back else 0
    return 0


def _cost(request: Request) -> int:
    """About how many tokens a request is."""
    if isinstance(request.prompt, str):
        size = len(request.prompt)
    else:
        size = sum(len(message.content) for message in request.prompt)
    return size // _BYTES_PER_TOKEN + request.params.max_tokens


def _ctl_text(request: Request) -> str:
    """The request's settings as `ctl` takes them."""
    return settings.show(
        Settings(
            request.params,
            mode="complete" if isinstance(request.prompt, str) else "chat",
            overflow=request.overflow,
            priority=request.priority,
        )
    )


def _kept(text: str) -> bytes:
    """The text as it is written to a file that drops one newline at its end, and takes
    nothing written for nothing meant."""
    return (text + "\n" if not text or text.endswith("\n") else text).encode()


def _split(messages: tuple[Message, ...]) -> tuple[str, tuple[Message, ...]]:
    """The system prompt ("" for none) and the turns after it."""
    if messages and messages[0].role == "system":
        return messages[0].content, messages[1:]
    return "", messages
