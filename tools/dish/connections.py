"""Connections for commands that run beside each other, and their end by ^C.

py9p blocks and cannot be interrupted, so a command that is to be stopped has its connections
hung up.  A `Job` is a command line while it runs; each of its threads has a `Calls` of its own:
one connection a server, kept in the `Pools` for the next when it is done with.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Self

from llambo9p.net.address import Address

from ..remote import Remote

_IDLE = 32
"""connections to one server that are kept for later"""


class Interrupted(Exception):
    """The job was cancelled."""


class Pools:
    """Connections that nobody uses now."""

    def __init__(self) -> None:
        self._idle: dict[Address, list[Remote]] = defaultdict(list)

    def take(self, address: Address) -> Remote:
        """Raises Failure."""
        idle = self._idle[address]
        with contextlib.suppress(IndexError):  # other threads take, too
            while True:
                remote = idle.pop()
                if not remote.was_hung_up():
                    return remote
                remote.close()
        return Remote(address)

    def give_back(self, remote: Remote) -> None:
        """With nothing outstanding and no file open."""
        idle = self._idle[remote.address]
        if len(idle) < _IDLE:
            idle.append(remote)
        else:
            remote.close()

    def close(self) -> None:
        for idle in self._idle.values():
            while idle:
                idle.pop().close()


class Job:
    """What is to be ended when it is cancelled, by any thread.  A part of another job is
    cancelled with it, or alone."""

    def __init__(self, pools: Pools, parent: Job | None = None) -> None:
        self.pools = pools
        self.cancelled = False
        self._parent = parent
        self._parts: set[Job] = set()
        self._lock = threading.Lock()
        self._busy: set[Remote] = set()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self.wake, self._waker = os.pipe()
        """`wake` can be read once the job is cancelled"""
        self._over = False

    def part(self) -> Job:
        return Job(self.pools, self)

    def __enter__(self) -> Self:
        if self._parent is not None:
            with self._parent._lock:
                self._parent._parts.add(self)
            if self._parent.cancelled:
                self.cancel()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._parent is not None:
            with self._parent._lock:
                self._parent._parts.discard(self)
        with self._lock:
            self._over = True
            os.close(self.wake)
            os.close(self._waker)

    def check(self) -> None:
        """Raises Interrupted."""
        if self.cancelled:
            raise Interrupted

    def cancel(self) -> None:
        """Hang up, and let programs know as ^C does; they may take their time, so again
        ends those that are left."""
        with self._lock:
            if self._over:
                return
            how = signal.SIGTERM if self.cancelled else signal.SIGINT
            self.cancelled = True
            os.write(self._waker, b"x")
            for remote in self._busy:
                remote.close()
            for process in self._processes:
                process.send_signal(how)
            parts = list(self._parts)
        for part in parts:
            part.cancel()

    def connection(self, address: Address) -> Remote:
        """Raises Interrupted, Failure."""
        self.check()
        remote = self.pools.take(address)
        with self._lock:
            self._busy.add(remote)
            if not self.cancelled:
                return remote
        self.release(remote)
        raise Interrupted

    def keep(self, remote: Remote) -> None:
        """It outlives the job."""
        with self._lock:
            self._busy.discard(remote)

    def release(self, remote: Remote, usable: bool = False) -> None:
        self.keep(remote)
        if usable and not self.cancelled:
            self.pools.give_back(remote)
        else:
            remote.close()

    @contextlib.contextmanager
    def running(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        with self._lock:
            self._processes.add(process)
            if self.cancelled:
                process.send_signal(signal.SIGINT)
        try:
            yield
        finally:
            with self._lock:
                self._processes.discard(process)


class Calls:
    """One thread's connections."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._remotes: dict[Address, Remote] = {}

    def to(self, address: Address) -> Remote:
        """Raises Interrupted, Failure."""
        self._job.check()
        remote = self._remotes.get(address)
        if remote is None:
            remote = self._remotes[address] = self._job.connection(address)
        return remote

    def keep(self, address: Address) -> None:
        """The connection there outlives these calls and their job."""
        self._job.keep(self._remotes.pop(address))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        """After an error files may be open that must not be clunked, which would submit
        what was half written to them: the server hears of a lost connection."""
        while self._remotes:
            self._job.release(self._remotes.popitem()[1], usable=exc_type is None)
