"""A shell: what lasts from one command line to the next, and ^C in between.

py9p cannot be interrupted, so a command line runs on threads that signals do not reach.  The
main thread waits for its end, and on ^C cancels it: the command ends and the shell does not.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Self

from llambo9p.net.address import Address

from .builtins import COMMANDS
from .connections import Calls, Interrupted, Job, Pools
from .interpreter import Context, Interpreter
from .namespace import Namespace, View
from .streams import Descriptor, Output
from .syntax import Script

_WAKE_S = 0.2


class Shell:
    """A context, at whose end cloned conversations go."""

    def __init__(self, address: Address, arguments: Sequence[str] = ()) -> None:
        """Raises Failure if nobody answers there."""
        self.namespace = Namespace(address)
        self.directory = "/"
        self.variables = {str(i): word for i, word in enumerate(arguments, 1)}
        self.variables |= {"*": " ".join(arguments), "status": ""}
        self.pools = Pools()
        self._held = contextlib.ExitStack()
        self._held.callback(self.pools.close)
        self._interpreter = Interpreter(COMMANDS)
        self.pools.give_back(self.pools.take(address))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._held.close()

    def run(self, script: Script) -> None:
        """Raises Failed, Exit, BrokenPipeError when nobody reads what it prints, and
        KeyboardInterrupt once all has ended after ^C."""
        over: SimpleQueue[bool] = SimpleQueue()
        result: Future[None] = Future()

        def run() -> None:
            try:
                self._run(script, job)
                result.set_result(None)
            except BaseException as e:
                result.set_exception(e)
            over.put(True)

        def hear(number: int, frame: object) -> None:
            over.put(False)  # which a signal handler may do

        before = signal.getsignal(signal.SIGINT)
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, hear)
        try:
            with Job(self.pools) as job:
                threading.Thread(target=run, daemon=True).start()
                while not _heard(over):
                    job.cancel()
        finally:
            signal.signal(signal.SIGINT, before)
        if job.cancelled or isinstance(result.exception(), Interrupted):
            raise KeyboardInterrupt
        result.result()

    def _run(self, script: Script, job: Job) -> None:
        output = Output(1)
        with Calls(job) as calls:
            context = Context(
                namespace=self.namespace,
                view=View(self.namespace, calls),
                job=job,
                source=Descriptor(0, job),
                sink=output,
                held=self._held,
                variables=self.variables,
                directory=self.directory,
            )
            try:
                self._interpreter.run(script, context)
            finally:
                self.directory = context.directory
                if not job.cancelled:
                    output.end_line()


def _heard(over: SimpleQueue[bool]) -> bool:
    """The next of it.  A signal may be another thread's, which does not wake this one, and
    it is handled only here: so this one wakes by itself."""
    while True:
        with contextlib.suppress(Empty):
            return over.get(timeout=_WAKE_S)
