"""A shell: what lasts from one command line to the next, and ^C in between.

py9p cannot be interrupted, so a command line runs on threads that signals do not reach.  The
main thread waits for its end, and on ^C cancels it: the command ends and the shell does not.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Self

from llambo9p.net.address import Address

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
        failure: list[BaseException] = []
        over = threading.Event()
        output = Output(1)

        def run() -> None:
            try:
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
                        output.end_line()
            except BaseException as e:
                failure.append(e)
            finally:
                over.set()

        interrupted = False
        with Job(self.pools) as job:
            threading.Thread(target=run, daemon=True).start()
            while not over.is_set():
                try:
                    over.wait()
                except KeyboardInterrupt:
                    interrupted = True
                    job.cancel()
        if interrupted or isinstance(next(iter(failure), None), Interrupted):
            raise KeyboardInterrupt
        if failure:
            raise failure[0]
