"""9P calls that ^C does not break.

py9p's client does not survive an exception in the middle of a call.  So a call runs on a
thread that signals do not reach, while the main thread waits for its end and hears ^C.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

import click

T = TypeVar("T")


def apart(call: Callable[[], T], interrupt: Callable[[int], None] | None = None) -> T:
    """What `call` returns or raises.  The n-th ^C meanwhile makes `interrupt(n)` run, on a
    thread of its own; without one it raises click.Abort and leaves the call behind."""
    over: SimpleQueue[bool] = SimpleQueue()
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as e:
            result.set_exception(e)
        over.put(True)

    def hear(number: int, frame: object) -> None:
        over.put(False)  # which a signal handler may do

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, hear)
    try:
        threading.Thread(target=run, daemon=True).start()
        interrupts: list[threading.Thread] = []
        while not over.get():
            if interrupt is None:
                raise click.Abort
            thread = threading.Thread(target=interrupt, args=(len(interrupts) + 1,), daemon=True)
            interrupts.append(thread)
            thread.start()
        for thread in interrupts:
            thread.join()
        return result.result()
    finally:
        signal.signal(signal.SIGINT, before)
