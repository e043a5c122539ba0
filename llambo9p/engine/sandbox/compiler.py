"""Users' grammars, schemas and regular expressions, checked before anybody else reads them.

Owns the child processes that check, and what they said of the texts of late.

Rules it keeps:
- Users take turns, and one user has at most one child at work.
- A text is checked once, as long as the cache has it; a refusal is kept like a success.
- Nothing of a text is compiled in this process.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import asdict

from llambo9p.engine.pool import Pool
from llambo9p.engine.sandbox.limits import Limits
from llambo9p.engine.sandbox.process import ChildProcess
from llambo9p.engine.structured.constraint import Constraint
from llambo9p.errors import InvalidArgument

CHILDREN = 4
CACHE_BYTES = 16 << 20
"""of texts and their grammars"""
CACHED = 512
"""texts"""


class Compiler:
    """`check` may be called on any thread."""

    def __init__(self, children: int = CHILDREN, limits: Limits | None = None) -> None:
        self._pool = Pool(
            "check", children, lambda: ChildProcess(limits), ChildProcess.close, per_user=1
        )
        self._lock = threading.Lock()
        self._known: OrderedDict[Constraint, str | InvalidArgument] = OrderedDict()
        """the grammar of each text or why there is none; the least recently used first"""
        self._bytes = 0

    def check(self, constraint: Constraint, user: str) -> Future[None]:
        """As `grammar`, where only the errors matter."""
        checked: Future[None] = Future()

        def over(grammar: Future[str]) -> None:
            if grammar.cancelled():
                checked.cancel()
            elif (error := grammar.exception()) is not None:
                checked.set_exception(error)
            else:
                checked.set_result(None)

        self.grammar(constraint, user).add_done_callback(over)
        return checked

    def grammar(self, constraint: Constraint, user: str) -> Future[str]:
        """llguidance's grammar of it.  The future raises `InvalidArgument` with what is wrong;
        it is cancelled after `close`."""
        known = self._cached(constraint)
        if known is None:
            return self._pool.submit(lambda child: self._work(constraint, child), user)
        future: Future[str] = Future()
        if isinstance(known, str):
            future.set_result(known)
        else:
            future.set_exception(InvalidArgument(str(known)))
        return future

    def close(self) -> None:
        """End the children, as soon as each is through with its job."""
        self._pool.close()

    def _cached(self, constraint: Constraint) -> str | InvalidArgument | None:
        with self._lock:
            known = self._known.get(constraint)
            if known is not None:
                self._known.move_to_end(constraint)
            return known

    def _work(self, constraint: Constraint, child: ChildProcess) -> str:
        known = self._cached(constraint)  # another may have asked the same meanwhile
        if known is None:
            try:
                known = str(child.do("check", **asdict(constraint)))
            except InvalidArgument as error:
                known = _refusal(constraint, error)
            self._keep(constraint, known)
        if isinstance(known, InvalidArgument):
            raise InvalidArgument(str(known))
        return known

    def _keep(self, constraint: Constraint, known: str | InvalidArgument) -> None:
        with self._lock:
            if constraint in self._known:
                return
            self._known[constraint] = known
            self._bytes += _size(constraint, known)
            while len(self._known) > CACHED or self._bytes > CACHE_BYTES:
                self._bytes -= _size(*self._known.popitem(last=False))


def _refusal(constraint: Constraint, error: InvalidArgument) -> InvalidArgument:
    """Its text begins with the kind, whoever said it."""
    text = str(error)
    kind = constraint.kind
    return InvalidArgument(text if text.startswith(kind) else f"{kind}: {text}")


def _size(constraint: Constraint, known: str | InvalidArgument) -> int:
    return len(constraint.text) + len(str(known))
