"""The longest turn of an event loop, in seconds that its thread spent on a processor.

A busy machine makes turns longer, and their processor time hardly.  Clients that are to be no part
of it run on threads of their own, with plain sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from llambo9p.net.address import Address
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.framing import Framer

LIMIT = 0.25
"""that no turn may take"""


class Turns:
    longest = 0.0
    count = 0


@contextlib.contextmanager
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    """Measures asyncio's own loop, which must be the one that runs.  The garbage collector is off
    meanwhile: it looks at all that the test has made, in whatever turn that is."""
    turns = Turns()
    gc.collect()
    gc.disable()
    run_once = asyncio.BaseEventLoop._run_once  # type: ignore[attr-defined]

    def measuring(loop: asyncio.BaseEventLoop) -> None:
        before = time.thread_time()
        run_once(loop)
        turns.longest = max(turns.longest, time.thread_time() - before)
        turns.count += 1

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.BaseEventLoop, "_run_once", measuring)
        try:
            yield turns
        finally:
            gc.enable()


class RawClient:
    """Says what it is told to, and reads replies only when it is told to."""

    def __init__(self, address: Address, msize: int = 128 * 1024) -> None:
        self._sock = socket.create_connection((address.host, address.port))
        self._framer = Framer(1 << 20)
        self._frames: list[bytes] = []
        self.say(m.Tversion(c.NOTAG, msize, "9P2000"), m.Tattach(0, 0, c.NOFID, "", ""))
        self.hear(2)

    def say(self, *msgs: m.Message) -> None:
        self._sock.sendall(b"".join(msg.pack() for msg in msgs))

    def hear(self, count: int) -> list[bytes]:
        """So many replies."""
        while len(self._frames) < count:
            data = self._sock.recv(1 << 20)
            assert data, "the connection was closed"
            self._frames += self._framer.feed(data)
        heard, self._frames = self._frames[:count], self._frames[count:]
        return heard

    def ask(self, *msgs: m.Message) -> list[bytes]:
        self.say(*msgs)
        return self.hear(len(msgs))

    def close(self) -> None:
        self._sock.close()


async def apart(function: Callable[..., Any], *args: Any) -> Any:
    """Run it on a thread of its own."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(function(*args))
        except BaseException as e:
            done.set_exception(e)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        return await asyncio.wrap_future(done)
    finally:
        thread.join()
