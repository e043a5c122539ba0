"""A conversation behind a real server, on the simulated engine, and clients of it.

Owns what the tests of `conversation/` and `worker/` share.  One simulated token is one
byte.  With a `Gate` every decoded byte needs one `gate.allow()`, so a test says how far
an answer is: the first step takes in a prompt of at most 64 tokens and samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from llambo9p.conversation.clone import CloneFile
from llambo9p.conversation.conversation import Conversation
from llambo9p.conversation.files import add_conversation_files, ctl_commands
from llambo9p.conversation.limits import Limits
from llambo9p.engine.runner import Runner
from llambo9p.engine.simulated import Gate, SimulatedRunner
from llambo9p.engine.thread import DecodeThread
from llambo9p.fs.ctl import Commands
from llambo9p.fs.tree import Directory, Tree
from llambo9p.net.address import Address
from llambo9p.net.server import Attach, Server
from llambo9p.net.server import Limits as ServerLimits
from llambo9p.p9 import constants as c
from llambo9p.p9 import server as p9
from tests.files import ANYWHERE, Files, files_of, until


@dataclass
class Served:
    """A tree that is served: its engine, and where."""

    engine: DecodeThread
    runner: Runner
    server: Server
    address: Address

    def connect(self, aname: str = "") -> contextlib.AbstractAsyncContextManager[Files]:
        """One more client."""
        return files_of(self.address, aname)

    async def idle(self) -> None:
        """Until the engine has no request: every slot is free."""
        await until(lambda: self.engine.load.active + self.engine.load.queued == 0)


@contextlib.asynccontextmanager
async def served(
    attach: Callable[[DecodeThread], Attach],
    *,
    gate: Gate | None = None,
    slots: int | None = None,
    max_queue: int = 64,
    msize: int = c.DEFAULT_MSIZE,
    address: Address = ANYWHERE,
    runner: Runner | None = None,
    **runner_options: Any,
) -> AsyncIterator[Served]:
    """Start the engine, serve what `attach` makes of it; stop both."""
    runner = runner or SimulatedRunner(gate=gate, **runner_options)
    engine = DecodeThread(runner, slots=slots, max_queue=max_queue)
    await engine.start()
    server = Server(attach(engine), limits=ServerLimits(p9.Limits(msize=msize)))
    address = await server.listen(address)
    try:
        yield Served(engine, runner, server, address)
    finally:
        if gate is not None:
            gate.open()
        await server.close()
        await engine.stop()


@dataclass
class Place(Served):
    """A conversation's directory with `clone`, and one client of it."""

    conversation: Conversation
    files: Files


@contextlib.asynccontextmanager
async def conversing(limits: Limits | None = None, **options: Any) -> AsyncIterator[Place]:
    """Serve one conversation, without a worker; `options` are those of `served`."""
    root = Directory(Tree(), "/")
    made: list[Conversation] = []

    def attach(engine: DecodeThread) -> Attach:
        conversation = Conversation(engine, limits=limits)
        made.append(conversation)
        commands = Commands(ctl_commands(conversation), conversation.noting)
        add_conversation_files(root, conversation, commands)
        root.add(CloneFile(root, lambda: Conversation(engine, limits=limits)))
        return lambda user, aname: root

    async with served(attach, **options) as s, s.connect() as files:
        yield Place(s.engine, s.runner, s.server, s.address, made[0], files)
