"""How a host was lost: what its process, or its address, says."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llambo9p.cluster import autopsy
from llambo9p.cluster.autopsy import Death, death_of
from llambo9p.cluster.host import Host
from llambo9p.cluster.launchers.base import End
from llambo9p.cluster.launchers.log import FileLog, end
from tests.files import story

from .harness import cluster, simulated_host


def lost(**attrs: Any) -> Any:
    """What is seen of a host."""
    seen = {"lost": True, "has_workers_file": True, "last_words": "", "process": None}
    return SimpleNamespace(**seen | attrs)


def process(how: End | None) -> Any:
    ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()
    if how is not None:
        ended.set_result(how)
    return SimpleNamespace(ended=ended)


@story
async def test_a_process_says_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autopsy, "END_S", 0.01)
    for crashed, by_itself in ((True, True), (None, False)):
        host = lost(process=process(End("why", crashed)))
        assert await death_of(host) == Death("why", by_itself)
    assert await death_of(lost(process=process(End("it was told to", False)))) is None
    assert await death_of(lost(process=process(None))) is None, "it lives, and is cut off"
    assert await death_of(lost(last_words="host is lost: x")) == Death("host is lost: x", True)


@story
async def test_what_was_unmounted_or_is_no_host_did_not_die() -> None:
    assert await death_of(lost(lost=False)) is None
    assert await death_of(lost(has_workers_file=False)) is None


@pytest.mark.parametrize("then", ["nobody", "another", "the same"])
@story
async def test_a_host_elsewhere_is_looked_for_at_its_address(then: str) -> None:
    async with cluster() as running, simulated_host(1, epoch=5) as host:
        await running.files.write("ctl", f"mount {host.address}")
        [known] = running.orchestrator._members.hosts
        assert isinstance(known, Host)
        known.lost = True
        if then != "the same":
            host.kill()
        if then == "another":
            async with simulated_host(1, epoch=6, at=host.address):
                death = await death_of(known)
        else:
            death = await death_of(known)
        gone = Death(f"nobody is at {host.address} any more", by_itself=False)
        assert death == (None if then == "the same" else gone)


@pytest.mark.parametrize(
    ("status", "crashed"),
    [
        (0, False),
        (1, True),
        (-signal.SIGABRT, True),
        (-signal.SIGSEGV, True),
        (-signal.SIGTERM, False),
        (-signal.SIGKILL, None),
        (None, None),
    ],
)
def test_a_status_says_whether_a_process_ended_by_itself(
    tmp_path: Path, status: int | None, crashed: bool | None
) -> None:
    (tmp_path / "log").write_text("llambo-worker: host is lost: a step\n")
    ended = end(status, FileLog(tmp_path / "log"))
    assert ended.crashed is crashed
    assert ("host is lost: a step" in ended.reason) == (status is not None and status != 0)
