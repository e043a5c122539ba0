"""What a child process can do, by name.  Each job takes and returns what JSON can hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llambo9p.engine.sandbox import template
from llambo9p.engine.structured import grammars
from llambo9p.engine.structured.constraint import Constraint


def check(**constraint: Any) -> str:
    """A `Constraint`, compiled and tried; its grammar."""
    return grammars.check(Constraint(**constraint))


JOBS: dict[str, Callable[..., Any]] = {"check": check, "render": template.render}
