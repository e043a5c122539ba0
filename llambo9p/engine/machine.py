"""What this process may use of its machine: cores, and memory that is available.

A container's or a service's limits are its cgroup's and those of every cgroup above it, of
version 1 (a tree for each controller) or 2 (one tree).  Where a file is missing there is no
limit.  `root` is the machine's `/`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
_CGROUPS = Path("sys/fs/cgroup")


def usable_cores(root: Path = ROOT) -> int:
    """The cores that this process may run on, no more than its CPU quota pays for."""
    cores = float(len(os.sched_getaffinity(0)))
    for directory in _directories(root, ""):
        quota, _, period = _text(directory / "cpu.max").partition(" ")
        cores = min(cores, _cores(quota, period))
    for directory in _directories(root, "cpu"):
        quota = _text(directory / "cpu.cfs_quota_us")
        cores = min(cores, _cores(quota, _text(directory / "cpu.cfs_period_us")))
    return max(1, math.ceil(cores))


def available_memory(root: Path = ROOT) -> float:
    """Bytes that this process can have while nobody else has to give up what it uses.

    Unlike MemAvailable it does not count files that somebody has mapped: a host's weights
    are such a file, and without them in memory it decodes nothing.
    """
    machine = numbers(_text(root / "proc/meminfo"))
    mapped = max(machine.get("Mapped", 0) - machine.get("Shmem", 0), 0)
    available = (machine.get("MemAvailable", math.inf) - mapped) * 1024
    for directory in _directories(root, ""):
        available = min(available, _left(directory, "memory.max", "memory.current", ""))
    for directory in _directories(root, "memory"):
        left = _left(directory, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        available = min(available, left)
    return max(available, 0)


def cgroups(text: str) -> dict[str, str]:
    """/proc/self/cgroup: controller -> path of our cgroup; `""` is version 2's tree."""
    paths = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def numbers(text: str) -> dict[str, int]:
    """Lines of a name and a number, as in /proc/meminfo and memory.stat."""
    lines = (line.replace(":", " ").split() for line in text.splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}


def _directories(root: Path, controller: str) -> Iterator[Path]:
    """Our cgroup and those above it.  A container may not see all of them: then the
    uppermost that it does see is its own."""
    path = cgroups(_text(root / "proc/self/cgroup")).get(controller)
    if path is None:
        return
    top = root / _CGROUPS / controller
    if not controller and (top / "unified").is_dir():
        top /= "unified"
    here = Path(path.lstrip("/"))
    for part in (here, *here.parents):
        yield top / part


def _cores(quota: str, period: str) -> float:
    """CPU time over real time."""
    if not quota.isdecimal() or not period.isdecimal():  # "max", or -1
        return math.inf
    return int(quota) / int(period)


def _left(directory: Path, limit: str, usage: str, prefix: str) -> float:
    """What a cgroup's limit leaves, its page cache counted as `available_memory` does."""
    most = _text(directory / limit)
    if not most.isdecimal():  # "max"
        return math.inf
    used = numbers(_text(directory / "memory.stat"))
    files = sum(used.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
    mapped = used.get(f"{prefix}mapped_file", used.get("file_mapped", 0))
    mapped = max(mapped - used.get(f"{prefix}shmem", 0), 0)
    return int(most) - int(_text(directory / usage) or 0) + max(files - mapped, 0)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
