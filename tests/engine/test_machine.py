"""Cores and memory of machines that are described by the files of their `/`."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from llambo9p.engine import machine

CORES = len(os.sched_getaffinity(0))
KIB, MIB = 1 << 10, 1 << 20
NO_LIMIT = 9223372036854771712
"""what version 1 says"""

MEMINFO = """MemTotal:       8000000 kB
MemFree:         500000 kB
MemAvailable:   4000000 kB
Mapped:          300000 kB
Shmem:           100000 kB
HugePages_Total:       0
"""


def root(directory: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return directory


def test_this_machine() -> None:
    assert 1 <= machine.usable_cores() <= CORES
    assert 0 < machine.available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")


def test_a_machine_without_limits(tmp_path: Path) -> None:
    at = root(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/user.slice"})
    assert machine.usable_cores(at) == CORES
    assert machine.available_memory(at) == (4000000 - 200000) * KIB


def test_where_nothing_is_known_nothing_is_limited(tmp_path: Path) -> None:
    assert machine.usable_cores(tmp_path) == CORES
    assert machine.available_memory(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", CORES), ("50000 100000", 1), ("100001 100000", min(2, CORES)), ("", CORES)],
)
def test_cores_of_version_2(tmp_path: Path, quota: str, cores: int) -> None:
    at = root(tmp_path, {"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": quota})
    assert machine.usable_cores(at) == cores


@pytest.mark.parametrize(("quota", "cores"), [(-1, CORES), (1, 1), (150000, min(2, CORES))])
def test_cores_of_version_1(tmp_path: Path, quota: int, cores: int) -> None:
    cgroup = "sys/fs/cgroup/cpu/docker/1"
    at = root(
        tmp_path,
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/docker/1\n0::/",
            f"{cgroup}/cpu.cfs_quota_us": quota,
            f"{cgroup}/cpu.cfs_period_us": 100000,
        },
    )
    assert machine.usable_cores(at) == cores


def test_a_limit_of_any_cgroup_above_holds(tmp_path: Path) -> None:
    at = root(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/cpu.max": "max 100000",
            "sys/fs/cgroup/a/cpu.max": "20000 100000",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            "sys/fs/cgroup/a/memory.max": 100 * MIB,
            "sys/fs/cgroup/a/memory.current": 30 * MIB,
            "sys/fs/cgroup/a/b/memory.max": "max",
        },
    )
    assert machine.usable_cores(at) == 1
    assert machine.available_memory(at) == 70 * MIB


def test_memory_of_version_2_counts_files_that_nobody_has_mapped(tmp_path: Path) -> None:
    stat = f"anon 5\ninactive_file {20 * MIB}\nactive_file {10 * MIB}\nfile_mapped {12 * MIB}\n"
    at = root(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": 100 * MIB,
            "sys/fs/cgroup/memory.current": 90 * MIB,
            "sys/fs/cgroup/memory.stat": stat,
        },
    )
    assert machine.available_memory(at) == (100 - 90 + 30 - 12) * MIB


@pytest.mark.parametrize(("limit", "left"), [(100 * MIB, 28), (10 * MIB, 0), (NO_LIMIT, None)])
def test_memory_of_version_1(tmp_path: Path, limit: int, left: int | None) -> None:
    cgroup = "sys/fs/cgroup/memory/docker/1"
    stat = {"inactive_file": 20, "active_file": 10, "mapped_file": 13, "shmem": 1}
    at = root(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/docker/1\n0::/",
            f"{cgroup}/memory.limit_in_bytes": limit,
            f"{cgroup}/memory.usage_in_bytes": 90 * MIB,
            f"{cgroup}/memory.stat": "\n".join(
                f"total_{name} {size * MIB}" for name, size in stat.items()
            ),
        },
    )
    expected = 3800000 * KIB if left is None else left * MIB
    assert machine.available_memory(at) == expected


def test_a_container_that_sees_only_its_own_cgroup_as_the_uppermost(tmp_path: Path) -> None:
    at = root(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu:/docker/1\n4:memory:/docker/1",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": 10000,
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 5 * MIB,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": MIB,
        },
    )
    assert machine.usable_cores(at) == 1
    assert machine.available_memory(at) == 4 * MIB


def test_the_cgroups_of_a_process() -> None:
    text = "12:cpu,cpuacct:/a:b\n4:memory:/m\n1:name=systemd:/\n0::/x\n"
    assert machine.cgroups(text) == {
        "cpu": "/a:b", "cpuacct": "/a:b", "memory": "/m", "name=systemd": "/", "": "/x"
    }  # fmt: skip
