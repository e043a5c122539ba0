"""What a child process can do, by name.  Each job takes and returns what JSON can hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llambo9p.engine.sandbox import template

JOBS: dict[str, Callable[..., Any]] = {"render": template.render}
