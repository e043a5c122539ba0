"""A guard of the event loop: it counts and logs turns that took long, with what they did.

A timer of the loop says every `BEAT_S` seconds that the loop goes on.  A turn is long when that
timer comes `LONG_S` seconds too late.  Meanwhile a thread of the guard has looked at what the
loop's thread was doing: which connection and message of which file, or which callback.  Nothing is
added to the way of a message; the guard costs 20 short wake-ups a second.

A process that was stopped, or a machine that slept, is no long turn: the loop's thread then used no
processor, and the guard's thread did not run either.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ..p9.fid import Fid, Request
from ..p9.messages import Message
from ..p9.on_fid import read_at_once
from ..p9.server import ServerConn
from ..p9.words import shown
from .server import Connection

log = logging.getLogger(__name__)

BEAT_S = 0.1
LONG_S = 0.25
_LOOK_S = 0.12
"""that a beat is late when the guard looks"""

_HANDLE = ServerConn._handle.__code__
_READ = read_at_once.__code__
_OF_CONNECTION = {
    Connection.handle.__code__,
    Connection._pending_done.__code__,
    Connection._future_done.__code__,
    Connection.connection_lost.__code__,
}


class Guard:
    """Of the loop that calls `start`."""

    def __init__(self) -> None:
        self.count = 0
        """long turns so far"""
        self.seconds = 0.0
        """that they took together"""
        self._due = 0.0
        """when the next beat is to come"""
        self._cpu = 0.0
        """processor time of the loop's thread at the last beat"""
        self._seen = ""
        """what the loop did when the guard looked last, since the last beat"""
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._schedule()
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()
        self._thread.join()

    @contextlib.contextmanager
    def guarding(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()

    def _schedule(self) -> None:
        self._seen = ""
        self._cpu = time.thread_time()
        self._due = time.monotonic() + BEAT_S
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def _beat(self) -> None:
        late = time.monotonic() - self._due
        if late >= LONG_S:
            cpu = time.thread_time() - self._cpu
            if self._seen or cpu >= late / 2:
                self.count += 1
                self.seconds += late
                log.warning(
                    "a turn of the event loop took %.2f s, %.2f s of them on a processor: %s",
                    late,
                    cpu,
                    self._seen or "the guard could not see what it did",
                )
        self._schedule()

    def _watch(self) -> None:
        while not self._stopped.wait(BEAT_S):
            if time.monotonic() - self._due >= _LOOK_S:
                frame = sys._current_frames().get(self._watched)
                if frame is not None:
                    self._seen = what(frame)


def what(frame: FrameType | None) -> str:
    """What is done in a frame and those that called it: a connection, its message and the file of
    that, as far as they are known, and the innermost function."""
    inner = outer = ""
    message = connection = None
    while frame is not None:
        code = frame.f_code
        name = f"{code.co_qualname} at {code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        inner = inner or name
        if "/asyncio/" not in code.co_filename:
            outer = name if frame.f_back is not None else outer
        if code is _HANDLE and message is None:
            message = _of_message(frame.f_locals)
        elif code is _READ and message is None:
            message = "Tread" + _of_fid(frame.f_locals.get("fid"))
        elif code in _OF_CONNECTION and connection is None:
            connection = _of_connection(frame.f_locals)
        frame = frame.f_back
    done = [words for words in (connection, message) if words]
    return ", ".join(done or [f"callback {outer}"] if outer else done) + f", in {inner}"


def _of_message(names: dict[str, Any]) -> str:
    msg, fid = names.get("msg"), names.get("fid")
    if not isinstance(msg, Message):
        return ""
    if fid is None and isinstance(names.get("self"), ServerConn):
        fid = names["self"].fids.get(getattr(msg, "fid", -1))
    return type(msg).__name__ + _of_fid(fid)


def _of_fid(fid: Fid | None) -> str:
    name = getattr(fid.node, "name", "") if fid is not None else ""
    return f" of {shown(str(name))}" if name else ""


def _of_connection(names: dict[str, Any]) -> str:
    connection, request = names.get("self"), names.get("request")
    words = shown(repr(connection))
    if isinstance(request, Request) and not hasattr(request, "there"):
        words += f", the end of {type(request.msg).__name__}{_of_fid(request.fid)}"
    return words
