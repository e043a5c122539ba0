"""A model's chat template, rendered in a child process.

Owns the children of one model.  A chat is rendered by the first that is free; users take turns.
"""

from __future__ import annotations

from typing import Any

from llambo9p.engine.pool import Pool
from llambo9p.engine.sandbox.limits import Limits
from llambo9p.engine.sandbox.process import ChildProcess
from llambo9p.errors import InvalidArgument

CHILDREN = 2
LIMITS = Limits(nice=0)
"""a prompt waits for it, and it takes a fraction of a millisecond"""


class Template:
    """`render` may be called on any thread; it waits for the child."""

    def __init__(
        self, template: str, variables: dict[str, str], limits: Limits = LIMITS
    ) -> None:
        """`variables` are what the template sees beside the messages."""
        self._template = template
        self._variables = variables
        self._pool = Pool("render", CHILDREN, lambda: ChildProcess(limits), ChildProcess.close)

    def render(self, messages: list[dict[str, Any]]) -> str:
        """Raises `InvalidArgument` with what the template says, or with the limit that it went
        beyond."""
        try:
            text: str = self._pool.submit(
                lambda child: child.do(
                    "render",
                    template=self._template,
                    messages=messages,
                    variables=self._variables,
                )
            ).result()
        except InvalidArgument as error:
            raise InvalidArgument(f"the chat template refused: {error}") from error
        return text

    def close(self) -> None:
        self._pool.close()
