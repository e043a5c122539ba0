"""The `driver` as the orchestrator sees it: a child process that is asked, and may end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from asyncio.subprocess import PIPE, Process
from typing import Any, Self

from ....errors import Error, from_ename
from ..log import FileLog

_LINE_BYTES = 16 << 20
"""that a reply may have"""


class RayGone(Error):
    """Ray is not there, or went away while it was asked."""


class DriverProcess:
    """Make it with `start`.  `gone` is done, with the reason in words, when it has ended."""

    def __init__(self, process: Process, log: FileLog) -> None:
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._process = process
        self._log = log
        self._numbers = itertools.count()
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, log: FileLog) -> Self:
        """What it and Ray print goes to the log.  Raises Error."""
        with log.open() as stderr:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", f"{__package__}.driver"),
                    stdin=PIPE,
                    stdout=PIPE,
                    stderr=stderr,
                    limit=_LINE_BYTES,
                    start_new_session=True,  # ^C is for the parent alone
                )
            except OSError as e:
                raise Error(f"the process that speaks with Ray cannot start: {e.strerror}") from e
        return cls(process, log)

    async def ask(self, verb: str, **arguments: Any) -> Any:
        """Whoever is cancelled cancels it there.  Raises Error, RayGone when the process ended."""
        if self.gone.done():
            raise RayGone(self.gone.result())
        number = next(self._numbers)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        self._send({"id": number, "verb": verb, "with": arguments})
        try:
            return await reply
        except asyncio.CancelledError:
            self._send({"cancel": number})
            raise
        finally:
            del self._replies[number]

    async def close(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.wait([self._reading])

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        why = ""
        async for line in self._process.stdout:
            reply = json.loads(line)
            why = reply.get("gone", why)
            waiting = self._replies.get(reply.get("id"))
            if waiting is None or waiting.done():
                continue
            if "error" in reply:
                waiting.set_exception(from_ename(reply["error"], reply["errno"]))
            else:
                waiting.set_result(reply["result"])
        status = await self._process.wait()
        why = why or f"the process that speaks with it ended with {status}, see {self._log.path}"
        self.gone.set_result(f"Ray is gone: {why}")
        for waiting in self._replies.values():
            if not waiting.done():
                waiting.set_exception(RayGone(self.gone.result()))
