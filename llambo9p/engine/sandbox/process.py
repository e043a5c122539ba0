"""One child process, as its parent sees it: a job goes in, a result or an error comes out.

Rules it keeps:
- The child is started when there is a job and none lives, and ended when a job takes longer
  than it may.  One that ended is replaced for the next job.
- An error of a job is an `InvalidArgument`: what the user or the model's author wrote is wrong.
- One thread at a time may use it.  It may block for `Limits.wall` seconds.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from typing import Any

from llambo9p.engine.sandbox import messages
from llambo9p.engine.sandbox.limits import Limits
from llambo9p.errors import Error, InvalidArgument

_READ = 1 << 16
_MAX_REPLY = 128 << 20
"""bytes; a rendered chat is the longest"""


class _Ended(Exception):
    """The child did not answer: it has ended, or was too slow."""


class ChildProcess:
    """See the module.  `close` ends the child."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None

    def do(self, job: str, **arguments: Any) -> Any:
        """The result of a job.  Raises `InvalidArgument` with the reason of the job itself, or
        with the limit that it went beyond."""
        process = self._alive()
        message = messages.encode({"job": job, "cpu": self.limits.cpu, **arguments})
        try:
            reply = self._exchange(process, message)
        except _Ended:
            process.kill()
            status = process.wait()
            self._forget()
            raise InvalidArgument(self.limits.explain(status)) from None
        except BaseException:
            self.close()  # half a message may be on its way
            raise
        if "error" in reply:
            raise InvalidArgument(reply["error"])
        return reply["result"]

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()

    def _forget(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.stdout.close()

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._forget()
        if self._process is None:
            limits = self.limits
            words = [str(n) for n in (limits.memory, limits.stack, limits.nice)]
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", f"{__package__}.child", *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,  # ^C is for the parent alone
                )
            except OSError as e:
                raise Error(f"no process can be started to work on it: {e}") from e
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], message: bytes) -> dict[str, Any]:
        """Send a message and receive one.  Raises `_Ended`."""
        assert process.stdin is not None and process.stdout is not None
        to, of = process.stdin.fileno(), process.stdout.fileno()
        end = time.monotonic() + self.limits.wall
        poll = select.poll()
        poll.register(of, select.POLLIN)
        poll.register(to, select.POLLOUT)
        left = memoryview(message)
        came = bytearray()
        while True:
            ready = dict(poll.poll(max(0.0, end - time.monotonic()) * 1000))
            if not ready:
                raise _Ended
            if left and ready.get(to):
                try:
                    left = left[os.write(to, left) :]
                except BrokenPipeError:
                    raise _Ended from None
                if not left:
                    poll.unregister(to)
            if ready.get(of):
                data = os.read(of, _READ)
                came += data
                if not data or len(came) > _MAX_REPLY:
                    raise _Ended
                reply = messages.decode(came)
                if reply is not None:
                    return reply
