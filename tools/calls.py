"""9P calls that ^C does not break.

py9p's client does not survive an exception in the middle of a call.  So a call runs on a
thread that exceptions of signals do not reach, while the main thread waits for its end and
hears ^C.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

import click

T = TypeVar("T")

_OVER = 0
"""which is no signal's number"""


def apart(call: Callable[[], T], interrupt: Callable[[int], None] | None = None) -> T:
    """What `call` returns or raises.  The n-th ^C meanwhile makes `interrupt(n)` run, on a
    thread of its own; without one it raises click.Abort and leaves the call behind."""
    result: Future[T] = Future()
    hears, tells = socket.socketpair()
    tells.setblocking(False)

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as e:
            result.set_exception(e)
        with contextlib.suppress(OSError):  # it was left behind
            tells.send(bytes((_OVER,)))

    with hears, tells, _signals_told_to(tells):
        threading.Thread(target=run, daemon=True).start()
        interrupts: list[threading.Thread] = []
        while True:
            told = hears.recv(64)
            for _ in range(told.count(signal.SIGINT)):
                if interrupt is None:
                    raise click.Abort
                thread = threading.Thread(
                    target=interrupt, args=(len(interrupts) + 1,), daemon=True
                )
                interrupts.append(thread)
                thread.start()
            if _OVER in told:
                break
        for thread in interrupts:
            thread.join()
    return result.result()


@contextlib.contextmanager
def _signals_told_to(sock: socket.socket) -> Iterator[None]:
    """Their numbers; also when the kernel gives a signal to another thread, which would not
    wake this one.  ^C does nothing else meanwhile, unless it is ignored anyway."""
    before = signal.getsignal(signal.SIGINT)
    fd = signal.set_wakeup_fd(sock.fileno(), warn_on_full_buffer=False)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.set_wakeup_fd(fd)
