"""A shell: what lasts from one command line to the next, and ^C in between.

py9p cannot be interrupted, so a command line runs on threads that signals do not reach.  The
main thread waits for its end, and on ^C cancels it: the command ends and the shell does not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Self

from llambo9p.net.address import Address

from ..calls import apart
from .builtins import COMMANDS
from .connections import Calls, Interrupted, Job, Pools
from .interpreter import Context, Interpreter
from .namespace import Namespace, View
from .streams import Descriptor, Output
from .syntax import Script


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
        with Job(self.pools) as job:
            try:
                apart(lambda: self._run(script, job), lambda number: job.cancel())
            except BaseException as e:
                if not (job.cancelled or isinstance(e, Interrupted)):
                    raise
                raise KeyboardInterrupt from None
            if job.cancelled:
                raise KeyboardInterrupt

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
