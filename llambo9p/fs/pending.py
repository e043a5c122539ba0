"""A result that comes later, for one listener, who is told the moment it is there.

An asyncio Future tells its callbacks a turn of the event loop later, and each link of a
chain of Futures costs another turn; a read that is passed on to another server has four
of them.  What comes over the network comes inside a turn of the loop already, so a
`Pending` needs none.  It can be awaited as well, at a Future's cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

Listener = Callable[[Any, BaseException | None], None]
"""the result, or what went wrong; a cancellation is asyncio.CancelledError"""


def _nothing() -> None:
    """There is nothing to cancel."""


class Pending(Generic[_T]):
    """`cancel` makes it fail soon.  `made`, if given, makes the result of what `succeed`
    is called with."""

    __slots__ = ("_error", "_listener", "_made", "_result", "cancel", "over")

    def __init__(
        self, cancel: Callable[[], object] = _nothing, made: Callable[[Any], _T] | None = None
    ) -> None:
        self.cancel = cancel
        self.over = False
        self._made = made
        self._listener: Listener | None = None
        self._result: Any = None
        self._error: BaseException | None = None

    def succeed(self, result: Any) -> None:
        if self._made is not None and not self.over:
            try:
                result = self._made(result)
            except Exception as e:
                self._end(None, e)
                return
        self._end(result, None)

    def fail(self, error: BaseException) -> None:
        self._end(None, error)

    def _end(self, result: Any, error: BaseException | None) -> None:
        if self.over:
            return
        self.over = True
        self.cancel = _nothing  # it mostly knows this object: a cycle
        if self._listener is not None:
            self._listener(result, error)
        else:
            self._result, self._error = result, error

    def listen(self, listener: Listener) -> None:
        """Once; what is over already is told at once."""
        assert self._listener is None
        self._listener = listener
        if self.over:
            listener(self._result, self._error)

    def future(self) -> asyncio.Future[_T]:
        """For those who await, gather or wait for it."""
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

        def listener(value: _T, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(value)
            elif isinstance(error, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(error)

        self.listen(listener)
        future.add_done_callback(lambda future: self.cancel() if future.cancelled() else None)
        return future

    def __await__(self) -> Generator[Any, None, _T]:
        return self.future().__await__()
