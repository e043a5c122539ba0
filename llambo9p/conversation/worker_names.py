"""What workers are called, by their host and in a cluster: `worker-0000` and on.  Pure."""

from __future__ import annotations

import re

MAX_WORKERS = 10_000
"""of a host, and of a cluster: names have four digits"""
_NUMBERED = re.compile(r"worker-(\d{4,9})", re.ASCII)


def worker_name(number: int) -> str:
    return f"worker-{number:04d}"


def number_of(name: str) -> int | None:
    """The number of a worker; None for a name of another kind."""
    numbered = _NUMBERED.fullmatch(name)
    return int(numbered[1]) if numbered else None
