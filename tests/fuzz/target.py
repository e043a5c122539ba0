"""One input, run against framing, messages and `ServerConn`, and everything that must hold.

Whatever the script: only `ProtocolError` leaves `receive`; what `observer` says of
replies; when every call has ended, no message is without a reply, each fid holds its
file once and each open fid its open; after `lost` nothing is held, no fid and no request
is left; and the server has logged no bug.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections import deque
from collections.abc import Generator
from typing import Any

from llambo9p import errors
from llambo9p.p9.fid import Request
from llambo9p.p9.framing import ProtocolError
from llambo9p.p9.server import Limits, ServerConn

from .observer import Observer
from .script import Op, Script, unpack
from .tree import Site

LIMITS = [
    Limits(msize=8192),
    Limits(msize=8192, fids=4),
    Limits(msize=8192, requests=3, unsent=512),
    Limits(msize=256, unsent=1),
]
SITE = Site()


class Bugs(logging.Handler):
    """What the server logs as an error is a bug of ours."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.record: logging.LogRecord | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.record = self.record or record

    def check(self) -> None:
        record, self.record = self.record, None
        if record is not None:
            raise AssertionError(record.getMessage()) from (record.exc_info or [None, None])[1]


BUGS = Bugs()
logging.getLogger("llambo9p").addHandler(BUGS)


class Call:
    """A request that is awaited: what a task of asyncio would be."""

    def __init__(self, shell: Shell, request: Request) -> None:
        assert request.awaitable is not None
        self._shell = shell
        self._request = request
        self._running: Generator[Any, None, Any] = request.awaitable.__await__()
        self.cancelled = False
        request.cancel = self.cancel
        self._go(None)

    def cancel(self) -> None:
        self.cancelled = True

    def settle(self, how: int) -> None:
        """The call goes on; the tree may fail, and may do either although it was
        cancelled."""
        self._go(errors.Error("the tree fails") if how == 1 else None)

    def learn(self) -> None:
        """Of its cancellation."""
        self._go(CancelledError())

    def _go(self, error: BaseException | None) -> None:
        conn, calls = self._shell.conn, self._shell.calls
        if self in calls:
            calls.remove(self)
        try:
            if error is None:
                next(self._running)
            else:
                self._running.throw(error)
        except StopIteration as e:
            conn.complete(self._request, e.value)
        except (Exception, CancelledError) as e:
            conn.fail(self._request, e)
        else:
            calls.append(self)


class Shell:
    """Does what `net.server` does, one step of the script after the other."""

    def __init__(self, settings: int) -> None:
        self.observer = Observer(tracing=settings & 28 == 4)
        self.conn = ServerConn(
            SITE.attach, limits=LIMITS[settings & 3], trace=self.observer.seen
        )
        self.observer.conn = self.conn
        self.calls: list[Call] = []
        self.closed = False
        self._held = False
        """the client does not read its replies"""
        self._arriving: deque[bytes] = deque()

    def send(self, data: bytes) -> None:
        self._arriving.append(data)
        self._proceed()

    def settle(self, arg: int) -> None:
        if self.calls:
            self.calls[(arg & 31) % len(self.calls)].settle(arg >> 5)
            self._proceed()

    def turn(self) -> None:
        for call in [call for call in self.calls if call.cancelled]:
            call.learn()
        self._proceed()

    def hold(self) -> None:
        self._held = not self._held
        self._proceed()

    def lose(self) -> None:
        """The replies that have not left are lost, too."""
        if not self.closed:
            self.closed = True
            self._handle(self.conn.lost)

    def _proceed(self) -> None:
        """Until there is nothing to do that needs no event."""
        while True:
            for request in self.conn.take_started():
                Call(self, request)
            if self._held or self.closed:
                return
            self.observer.came(self.conn.data_to_send())
            if self.conn.stalled:
                self._go_on(self.conn.resume)
            elif self._arriving:
                self._receive(self._arriving.popleft())
            elif not self.conn._started and not self.conn._out:
                return

    def _receive(self, data: bytes) -> None:
        self.observer.sent(data)
        self._go_on(self.conn.receive, data)

    def _go_on(self, action: Any, *args: Any) -> None:
        try:
            self._handle(action, *args)
        except ProtocolError:
            self.observer.broken()
            self.observer.came(self.conn.data_to_send())
            self.lose()

    def _handle(self, action: Any, *args: Any) -> None:
        self.observer.handling = True
        try:
            action(*args)
        finally:
            self.observer.handling = False

    def finish(self) -> None:
        """Every call ends, the connection is lost, and nothing may be left."""
        if self._held:
            self.hold()
        self._end_calls()
        if not self.closed:
            self.observer.all_answered()
            assert not self.conn.requests
            fids = self.conn.fids.values()
            assert sum(SITE.books.held.values()) == len(fids), "a file is held by no fid"
            handles = {fid.handle for fid in fids if fid.handle is not None}
            assert SITE.books.opens == handles, "an open is held by no fid"
            self.lose()
        self._end_calls()
        self.observer.ended()
        assert not self.conn.fids and not self.conn.requests
        assert not SITE.books.held and not SITE.books.opens

    def _end_calls(self) -> None:
        """Those that were cancelled learn it, the others have a result."""
        while self.calls:
            call = self.calls[0]
            if call.cancelled:
                call.learn()
            else:
                call.settle(0)
            self._proceed()


def run(script: Script) -> None:
    """Raises whatever shows a bug."""
    SITE.books.held.clear()
    SITE.books.opens.clear()
    BUGS.record = None
    shell = Shell(script.settings)
    for step in script.steps:
        match step.op:
            case Op.SEND:
                shell.send(step.data)
            case Op.SETTLE:
                shell.settle(step.arg)
            case Op.TURN:
                shell.turn()
            case Op.HOLD:
                shell.hold()
            case Op.LOST:
                shell.lose()
    shell.finish()
    BUGS.check()


def run_bytes(raw: bytes) -> None:
    run(unpack(raw))
