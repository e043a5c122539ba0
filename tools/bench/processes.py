"""What Linux says of a process: memory, CPU time, children.

CPU time is that of `schedstat` (CONFIG_SCHED_INFO, which distributions have): what `stat`
says is counted in ticks of 10 ms.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Cpu(NamedTuple):
    """Seconds of CPU time so far."""

    main: float
    """of the main thread, which is the event loop of ours"""
    others: float
    """of all other threads"""


def memory(pid: int) -> int:
    """Bytes that are resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def cpu(pid: int) -> Cpu:
    main = others = 0.0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        seconds = int((thread / "schedstat").read_text().split()[0]) / 1e9
        if int(thread.name) == pid:
            main = seconds
        else:
            others += seconds
    return Cpu(main, others)


def children(pid: int) -> list[int]:
    """The processes that it started and that run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # state and ppid come after the name in parentheses
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            pass  # it ended
    return found
