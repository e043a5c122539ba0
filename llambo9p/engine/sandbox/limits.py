"""What a child process may use for one job, and what its end says."""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one child.  A job that goes beyond them ends the child."""

    cpu: float = 2.0
    """seconds of CPU time for one job, of all the child's threads together"""
    wall: float = 20.0
    """seconds for one job by the clock; more than `cpu`, as the machine may be busy"""
    memory: int = 1 << 30
    """bytes of address space of the child"""
    stack: int = 64 << 20
    """bytes of the stack that a job runs on"""
    nice: int = 10
    """added to the nice value: decoding goes first"""

    def explain(self, status: int) -> str:
        """Why a child that ended with `status` (as `Popen.returncode` has it) did not do its
        job; a clause that begins with "it"."""
        mib = self.memory >> 20
        by_signal = {
            signal.SIGPROF: f"it takes more than {self.cpu:g} s of CPU time",
            signal.SIGSEGV: "it is nested too deeply",
            signal.SIGABRT: f"it is nested too deeply, or takes more than {mib} MiB",
            signal.SIGKILL: f"it takes more than {self.wall:g} s, or more memory than there is",
        }
        name = by_signal.get(signal.Signals(-status)) if status < 0 else None
        return name or f"it ended the process that worked on it (status {status})"
