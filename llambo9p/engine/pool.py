"""Threads that do the jobs of users by turns: work that may take long, off everybody's way.

Owns its threads, which start when there is work and end with `close`.

Rules it keeps:
- Users take turns: after a job of one user comes a job of the next user who has one.
- One user occupies at most `per_user` threads, so that the others find a free one.
- The jobs of one user begin in the order of their arrival.
- A job that was cancelled before it began is not done.
- A job may itself ask for a thread's state (`make` gives each thread one): a child process, say.

It must never hold its lock while a job runs.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

S = TypeVar("S")
R = TypeVar("R")

_starting = threading.Lock()
"""`threading.stack_size` is of the process: one pool at a time starts a thread"""


class Pool(Generic[S]):
    """At most `threads` threads; `make` makes the state of one, `end` ends it.

    `stack` is the size of a thread's stack in bytes (0: the system's), `nice` is added to a
    thread's nice value where the system allows that (Linux).
    """

    def __init__(
        self,
        name: str,
        threads: int,
        make: Callable[[], S],
        end: Callable[[S], None] = lambda state: None,
        *,
        per_user: int | None = None,
        stack: int = 0,
        nice: int = 0,
    ) -> None:
        self._name = name
        self._most = threads
        self._per_user = threads if per_user is None else per_user
        self._make = make
        self._end = end
        self._stack = stack
        self._nice = nice
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._free = 0
        """threads that wait for a job"""
        self._waiting: dict[str, deque[tuple[Future[Any], Callable[[S], Any]]]] = {}
        """by user; the user whose turn it is comes first"""
        self._running: dict[str, int] = {}
        """jobs that run, by user"""
        self._closed = False

    def submit(self, job: Callable[[S], R], user: str = "") -> Future[R]:
        """Have `job` done by a thread, with the thread's state.  The future has what the job
        returns or raises; it is done on the thread.  Nothing is done after `close`."""
        future: Future[R] = Future()
        with self._changed:
            if self._closed:
                future.cancel()
                return future
            self._waiting.setdefault(user, deque()).append((future, job))
            if self._free:
                self._changed.notify()
            elif len(self._threads) < self._most:
                self._start()
        return future

    def close(self) -> None:
        """Cancel what waits, and wait for what runs."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, {}
            self._changed.notify_all()
            threads = self._threads
        for jobs in waiting.values():
            for future, _ in jobs:
                future.cancel()
        for thread in threads:
            thread.join()

    def _start(self) -> None:
        thread = threading.Thread(
            target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True
        )
        with _starting:
            before = threading.stack_size(self._stack)
            try:
                thread.start()
            finally:
                threading.stack_size(before)
        self._threads.append(thread)

    def _work(self) -> None:
        if self._nice and hasattr(os, "setpriority"):
            # Linux: of this thread alone
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        state = self._make()
        try:
            while (taken := self._take()) is not None:
                user, future, job = taken
                if future.set_running_or_notify_cancel():
                    _do(future, job, state)
                # not kept until the next job
                del taken, future, job
                self._over(user)
        finally:
            self._end(state)

    def _take(self) -> tuple[str, Future[Any], Callable[[S], Any]] | None:
        """The next job, and whose it is; None at the end."""
        with self._changed:
            while not self._closed:
                for user in self._waiting:
                    if self._running.get(user, 0) < self._per_user:
                        return user, *self._pop(user)
                self._free += 1
                self._changed.wait()
                self._free -= 1
            return None

    def _pop(self, user: str) -> tuple[Future[Any], Callable[[S], Any]]:
        """The user's next job; the user goes to the end of the line."""
        jobs = self._waiting.pop(user)
        taken = jobs.popleft()
        if jobs:
            self._waiting[user] = jobs
        self._running[user] = self._running.get(user, 0) + 1
        return taken

    def _over(self, user: str) -> None:
        with self._changed:
            self._running[user] -= 1
            if not self._running[user]:
                del self._running[user]


def _do(future: Future[R], job: Callable[[S], R], state: S) -> None:
    try:
        result = job(state)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
