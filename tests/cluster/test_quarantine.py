"""Which requests a death is held against."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llambo9p.cluster import quarantine
from llambo9p.cluster.autopsy import Death
from llambo9p.cluster.quarantine import Quarantine
from llambo9p.cluster.turns import Turns
from llambo9p.engine.base import Request
from tests.files import story


class FakeHost(SimpleNamespace):
    __hash__ = object.__hash__


def lost_host(*requests: Request) -> Any:
    """It had one slot, and was told of these."""
    turns: Turns[Request] = Turns()
    for request in requests:
        turns.told(request, "alice", 0.0, 0, 1)
    return FakeHost(lost=True, address="host", turns=turns)


@story
async def test_a_suspect_that_waits_for_its_turn_may_have_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def died(host: Any) -> Death:
        return Death("SIGABRT", True)

    monkeypatch.setattr(quarantine, "death_of", died)
    found = Quarantine(None, lambda request: 0)  # type: ignore[arg-type]
    suspect, running, waiting = (Request(name) for name in ("suspect", "running", "waiting"))

    async def dies(host: Any) -> None:
        noting = found.death_of(host, False)
        assert noting is not None
        await noting

    await dies(lost_host(suspect, waiting))
    assert found.has(suspect) and not found.has(waiting)
    await dies(lost_host(running, waiting, suspect))
    assert found.has(running) and not found.has(waiting)
    assert found._suspects.deaths(suspect) == 2
