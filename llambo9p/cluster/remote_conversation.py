"""A conversation on a worker, as the orchestrator uses it: by writing and reading its files.

It knows what the worker's conversation has been told, and tells it only what is new:
the next turn finds system prompt, history and KV cache there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple

from ..conversation import history, said, settings, texts
from ..conversation.settings import Settings
from ..engine.base import Message, Request, SamplingParams, State, Usage
from ..engine.structured.constraint import Kind
from ..errors import Error
from ..net.client import RemoteOpen
from ..p9 import constants as c
from ..p9.words import shown
from .host import Worker
from .labels import Labels
from .remote import Mount

_PIECE_BYTES = 1 << 17
"""of a history that are made and sent at a time"""


class Told(NamedTuple):
    """What a worker tells of a request."""

    state: State
    position: int
    """in the worker's queue"""
    progress: int
    """a number that grows when the request got further"""


@dataclass(slots=True)
class RemoteConversation:
    """It ends when its `ctl`, the clone fid, is clunked.  Every method raises Error."""

    worker: Worker
    mount: Mount
    """as the conversation's user sees the worker"""
    ctl: RemoteOpen
    number: str
    labels: Labels
    said: tuple[Message, ...] = ()
    """system prompt and history as the worker has them"""
    settings: dict[str, str] = field(default_factory=dict)
    """lines of its `ctl`, by their first word, as the worker has them"""
    constraint: tuple[Kind, str] | None = None
    """the grammar, schema or regular expression that the worker has"""

    @classmethod
    async def make(cls, worker: Worker, user: str, labels: Labels) -> RemoteConversation:
        """A new one of the user's; of the owner's on a host that does not know users, where
        `labels` keep the users' cells apart."""
        mount = worker.mounts.get(user, worker.mount)
        if mount.refusal is not None:
            mount = worker.mount
        await mount.attach()
        mount.use()
        ctl: RemoteOpen | None = None
        try:
            ctl = await mount.client.open(mount.fid, "clone", c.ORDWR)
            try:
                number = said.whole(said.text(await ctl.read(0)).strip())
            except ValueError as e:
                raise Error(f"{worker.name}'s clone file is not understood: {e}") from e
            made = cls(worker, mount, ctl, str(number), labels)
            if worker.host.settings is None:
                worker.host.settings = _lines(await made._read("ctl"))
            made.settings = _DEFAULTS | worker.host.settings
            return made
        except BaseException:
            if ctl is not None:
                ctl.forget()
            mount.unuse()
            raise

    def close(self) -> None:
        self.ctl.forget()
        self.mount.unuse()

    async def ask(self, request: Request, answer: tuple[int, ...]) -> None:
        """Let the worker answer, beginning with the tokens `answer`."""
        await self._set(_ctl_text(request, self._label(request)))
        await self._constrain(request.params)
        if answer:
            await self._put("tokens", "".join(f"{token}\n" for token in answer).encode())
        if isinstance(request.prompt, str):
            prompt = request.prompt.encode()
        else:
            *before, last = request.prompt
            await self._bring_up_to(tuple(before))
            prompt = _kept(last.content)
        await self._put("prompt", prompt)

    def _label(self, request: Request) -> str:
        """By which the host keeps the user's cells from others', if it knows no users, or those
        that this user keeps apart."""
        if request.label or self.worker.host.address.net == "tcp":
            return self.labels.of(request.user, request.label or "")
        return ""

    async def open_answer(self, logprobs: bool) -> list[RemoteOpen]:
        """`out`, `tokens`, and `logprobs` if wanted, open for reading."""
        names = ("out", "tokens", "logprobs") if logprobs else ("out", "tokens")
        loop = asyncio.get_running_loop()
        opening = [loop.create_task(self._open(name)) for name in names]
        try:
            return await asyncio.gather(*opening)
        except BaseException:
            for each in opening:
                each.cancel()
                each.add_done_callback(_forget)
            raise

    async def usage(self) -> Usage:
        """Of the answer that has ended."""
        return texts.parse_usage(await self._read("usage"))

    async def state(self) -> Told:
        """What `status` tells of the answer."""
        attrs = said.attributes(await self._read("status"))
        try:
            return Told(
                State(attrs["state"]),
                said.whole(attrs["position"], said.MANY),
                said.whole(attrs["progress"]),
            )
        except (KeyError, ValueError) as e:
            raise Error(f"the worker's status file is not understood: {shown(str(e))}") from e

    async def _open(self, file: str) -> RemoteOpen:
        return await self.mount.client.open(self.mount.fid, f"{self.number}/{file}", c.OREAD)

    async def _read(self, file: str) -> str:
        data = await self.mount.client.get(self.mount.fid, f"{self.number}/{file}")
        try:
            return said.text(data)
        except ValueError as e:
            raise Error(f"the worker's {file} file is not understood: {e}") from e

    async def _put(self, file: str, data: bytes) -> None:
        """Write a file whole and submit it by Tclunk."""
        await self.mount.client.put(self.mount.fid, f"{self.number}/{file}", data)

    async def _put_history(self, messages: tuple[Message, ...]) -> None:
        """Write a history, which may be megabytes, a piece at a time."""
        path = f"{self.number}/history"
        file = await self.mount.client.open(self.mount.fid, path, c.OWRITE | c.OTRUNC)
        try:
            part = bytearray()
            for piece in history.pieces(messages):
                part += piece
                if len(part) >= _PIECE_BYTES:
                    await file.write(bytes(part))
                    part.clear()
            await file.write(bytes(part))
        except BaseException:
            file.forget()
            raise
        await file.clunk()

    async def _set(self, ctl: str) -> None:
        """Only what differs is told: a host that is older than we are, and knows a setting
        less, then answers all who leave it at its default."""
        wanted = _lines(ctl)
        news = {name: line for name, line in wanted.items() if self.settings.get(name) != line}
        if news:
            await self.ctl.write("".join(f"{line}\n" for line in news.values()).encode())
            self.settings |= news

    async def _constrain(self, params: SamplingParams) -> None:
        """Let answers be held to the grammar, schema or regular expression; one of them
        replaces the others on the worker, too, and what is blank is none."""
        wanted = params.constraint
        constraint = None if wanted is None else (wanted.kind, wanted.text)
        if self.constraint == constraint:
            return
        if constraint is not None:
            kind, text = constraint
            await self._put(kind, text.encode())
        elif self.constraint is not None:
            await self._put(self.constraint[0], b"\n")
        self.constraint = constraint

    async def _bring_up_to(self, before: tuple[Message, ...]) -> None:
        """Make the worker's conversation know exactly `before`."""
        if self.said == before:
            return
        system, turns = _split(before)
        if self.said:
            await self.ctl.write(b"reset\n")
        known_system, _ = _split(self.said)
        if system != known_system:
            await self._put("system", _kept(system))
        if turns:
            await self._put_history(turns)
        self.said = before


def _forget(opening: asyncio.Task[RemoteOpen]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().forget()


def _lines(ctl: str) -> dict[str, str]:
    """The lines of a `ctl` by their first word."""
    return {line.partition(" ")[0]: line for line in ctl.splitlines()}


_DEFAULTS = _lines(settings.show(Settings()))


def _ctl_text(request: Request, label: str) -> str:
    """The request's settings as `ctl` takes them."""
    return settings.show(
        Settings(
            request.params,
            mode="complete" if isinstance(request.prompt, str) else "chat",
            overflow=request.overflow,
            priority=request.priority,
            type=request.node_type,
            request_id=request.id,
            cache_label=label,
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
