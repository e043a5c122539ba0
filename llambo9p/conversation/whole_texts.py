"""The texts of a conversation that are replaced whole: `system`, `grammar`, `schema`, `regex`,
and `tokens` that the next answer begins with.

Owns which text is in force, and what the quotas count for it.

Rules it keeps:
- A text is checked, then replaced.  One that is refused changes nothing, but its refusal stands
  in the way of prompts (see `refusals`).
- `grammar`, `schema` and `regex` are one text with three names: at most one is not empty.  They
  are checked elsewhere, and prompts wait for that.
- Tokens are used up by the next prompt, whatever becomes of it.

It must not know the conversation's turns, nor files.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from ..engine.base import SamplingParams
from ..engine.structured.constraint import KINDS, Constraint, Kind
from ..errors import Error, InvalidArgument
from ..fs.ctl import decode
from ..p9.node import Maybe
from . import texts
from .limits import Limits
from .refusals import Refusals

Name: TypeAlias = Literal["system", "tokens"] | Kind
# as `Refusals` knows them
SYSTEM, TOKENS, HISTORY = "system", "tokens", "history"
CONSTRAINT = "grammar, schema or regex"


class WholeTexts:
    """See the module.  All methods are called on the event loop's thread."""

    def __init__(
        self,
        limits: Limits,
        user: str,
        check: Callable[[Constraint, str], Future[None]],
        params: Callable[[], SamplingParams],
        checked: Callable[[], None],
    ) -> None:
        """`check` says whether an engine can keep the user to a text with the `params` there are
        now, and `checked` is called when the last text under way has been checked."""
        self.system = ""
        self.constraint: tuple[Kind, str] | None = None
        self.refusals = Refusals()
        self._tokens: tuple[int, ...] = ()
        self._token_bytes = 0
        """that they were written as, which the quota of the buffer has"""
        self._checking = 0
        """texts that are checked now"""
        self._closed = False
        self._limits = limits
        self._user = user
        self._check = check
        self._params = params
        self._checked = checked

    @property
    def is_checking(self) -> bool:
        return self._checking > 0

    def shown(self, name: Name) -> str:
        """The text as its file shows it; `tokens` has none."""
        if name == "system":
            return self.system + "\n" if self.system else ""
        if self.constraint is not None and self.constraint[0] == name:
            return self.constraint[1]
        return ""

    def constrained(self, params: SamplingParams) -> SamplingParams:
        """The same, held to the grammar, schema or regular expression."""
        only: dict[str, Any] = {} if self.constraint is None else dict([self.constraint])
        return replace(params, **only)

    def use_tokens(self) -> tuple[tuple[int, ...], int]:
        """What the next answer begins with, and the bytes of the buffer's quota that whoever
        takes it must give back."""
        taken = self._tokens, self._token_bytes
        self._tokens, self._token_bytes = (), 0
        return taken

    def forget_tokens(self) -> None:
        _, size = self.use_tokens()
        self._limits.buffer.give_back(size, self._user)

    def close(self) -> None:
        self.forget_tokens()
        self._set_system("")
        self._set_constraint(None)
        self._closed = True

    # -- writing ------------------------------------------------------------------

    def check(self, name: Name, data: bytes) -> Maybe[None]:
        """Raises what `write` would refuse the text for; nothing changes."""
        self._check_open()
        if name == "tokens":
            texts.parse_tokens(decode(data))
        elif name == "system":
            if (longer := _longer(self.system, _system(data))) > 0:
                self._limits.kept.check(longer, self._user)
        elif (text := decode(data)).strip():
            return self._check_constraint(name, text, len(data))
        return None

    def write(self, name: Name, written: Callable[[], bytes]) -> Maybe[None]:
        """Replace the text by what `written` gives, or raises; blank is none, and one trailing
        newline of `system` is dropped.  Raises InvalidArgument with what is wrong, or NoSpace;
        then everything is as it was, but for the refusal."""
        number = self.refusals.begin()
        with self._refusing(name, number):
            data = written()
            self._check_open()
            if name == "system":
                self._set_system(_system(data))
            elif name == "tokens":
                self._set_tokens(texts.parse_tokens(decode(data)), len(data))
            elif (text := decode(data)).strip():
                checking = self._check_constraint(name, text, len(data))
                self._checking += 1
                return asyncio.ensure_future(self._constrain(checking, name, text, number))
            elif self.constraint is not None and self.constraint[0] == name:
                self._set_constraint(None)
            self.refusals.accept(_known_as(name), number)
        return None

    async def _constrain(
        self, checking: Awaitable[None], kind: Kind, text: str, number: int
    ) -> None:
        try:
            with self._refusing(kind, number):
                await checking
                self._check_open()
                if not self.refusals.is_superseded(CONSTRAINT, number):
                    self._set_constraint((kind, text))
                    self.refusals.accept(CONSTRAINT, number)
        finally:
            self._checking -= 1
            if not self._checking:
                self._checked()

    @contextlib.contextmanager
    def _refusing(self, name: Name, number: int) -> Iterator[None]:
        try:
            yield
        except Error as e:
            self.refusals.refuse(_known_as(name), number, e)
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidArgument("the conversation is closed")

    # -- constraints --------------------------------------------------------------

    def _check_constraint(self, kind: Kind, text: str, size: int) -> Awaitable[None]:
        only: dict[str, Any] = {kind: text}
        constraint = replace(self._params(), **only).constraint
        assert constraint is not None
        self._limits.buffer.take(size, self._user)
        try:
            checking = asyncio.wrap_future(self._check(constraint, self._user))
        except BaseException:
            self._limits.buffer.give_back(size, self._user)
            raise
        checking.add_done_callback(
            lambda _: self._limits.buffer.give_back(size, self._user)
        )
        return checking

    def _set_constraint(self, constraint: tuple[Kind, str] | None) -> None:
        before = "" if self.constraint is None else self.constraint[1]
        self._keep(before, "" if constraint is None else constraint[1])
        self.constraint = constraint

    def _set_system(self, system: str) -> None:
        self._keep(self.system, system)
        self.system = system

    def _keep(self, before: str, text: str) -> None:
        """Count a text instead of the one before."""
        longer = _longer(before, text)
        if longer > 0:
            self._limits.kept.take(longer, self._user)
        else:
            self._limits.kept.give_back(-longer, self._user)

    # -- tokens -------------------------------------------------------------------

    def _set_tokens(self, tokens: tuple[int, ...], size: int) -> None:
        size = size if tokens else 0
        longer = size - self._token_bytes
        if longer > 0:
            self._limits.buffer.take(longer, self._user)
        else:
            self._limits.buffer.give_back(-longer, self._user)
        self._tokens, self._token_bytes = tokens, size


def _known_as(name: Name) -> str:
    """By `Refusals`."""
    return CONSTRAINT if name in KINDS else name


def _system(data: bytes) -> str:
    return decode(data.removesuffix(b"\n"))


def _longer(before: str, text: str) -> int:
    """By how many bytes."""
    return len(text.encode()) - len(before.encode())
