"""Reads the files of a worker's answer while it grows: `out`, `tokens`, and `logprobs` if wanted.

Each file has one Tread on its way; the next is sent before what came is looked at.  What
the worker says of a step comes in one segment, so text and tokens of it are passed on
together, in the same turn of the event loop.  There is no task here: a read's listener is
all that a token costs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..errors import NoSpace
from ..fs.pending import Pending
from ..net.client import RemoteOpen, ignore
from .splice import Splice

log = logging.getLogger(__name__)


class Following:
    """From the constructor to `stop`.  `pass_on` is called whenever `splice` has got more that
    can be passed on; `ended` is done when all files have ended, or with what went wrong."""

    def __init__(
        self,
        splice: Splice,
        pass_on: Callable[[], None],
        out: RemoteOpen,
        tokens: RemoteOpen,
        logprobs: RemoteOpen | None = None,
    ) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended.add_done_callback(ignore)
        self.reads = 0
        """that were answered"""
        self._splice = splice
        self._pass_on = pass_on
        self._files = [out, tokens] if logprobs is None else [out, tokens, logprobs]
        self._logprobs = logprobs
        self._reading: dict[RemoteOpen, Pending[bytes]] = {}
        self._read(out, len(splice.text), splice.add_text)
        self._read(tokens, 0, splice.add_tokens)
        if logprobs is not None:
            self._read(logprobs, 0, splice.add_logprobs)

    def stop(self) -> None:
        """Nothing is called any more; the files are closed."""
        self.ended.cancel()
        for reading in list(self._reading.values()):
            reading.cancel()
        for file in self._files:
            file.forget()

    def _read(self, file: RemoteOpen, offset: int, take: Callable[[bytes], None]) -> None:
        def came(data: bytes, error: BaseException | None) -> None:
            del self._reading[file]
            if not self.ended.done():
                try:
                    self._came(file, offset, take, data, error)
                except Exception as e:
                    self.ended.set_exception(e)

        reading = self._reading[file] = file.ask(offset)
        reading.listen(came)

    def _came(
        self,
        file: RemoteOpen,
        offset: int,
        take: Callable[[bytes], None],
        data: bytes,
        error: BaseException | None,
    ) -> None:
        if isinstance(error, NoSpace) and file is self._logprobs:
            log.warning("%s", error)
            self._splice.end_logprobs()
            data = b""
        elif error is not None:
            raise error
        self.reads += 1
        if data:
            self._read(file, offset + len(data), take)
            take(data)
        self._pass_on()
        if not self._reading and not self.ended.done():
            self.ended.set_result(None)
