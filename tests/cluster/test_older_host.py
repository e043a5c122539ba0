"""An orchestrator that knows a setting more than its host, which is older."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llambo9p.conversation import files, settings
from llambo9p.errors import Error
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from tests.files import story

from .harness import cluster, simulated_host

NEW = "min_p"


def grow_older(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversations that are made from now on know nothing of the setting."""

    def show(of: settings.Settings) -> str:
        lines = settings.show(of).splitlines(keepends=True)
        return "".join(line for line in lines if line.split()[0] != NEW)

    known = [setting for setting in settings.SETTINGS if setting.name != NEW]
    old = SimpleNamespace(SETTINGS=known, show=show, change=settings.change)
    monkeypatch.setattr(files, "settings", old)


@story
async def test_only_the_conversations_that_use_the_setting_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with simulated_host() as host, cluster() as running:
        await running.files.write("ctl", f"mount {host.address}")
        with_it, without = [await running.files.open("clone", c.ORDWR) for _ in range(2)]
        await with_it.write(b"min_p 0.5")
        grow_older(monkeypatch)
        for _ in range(3):
            assert await running.files.ask("hello") == "simulated: hello"
            assert await running.files.ask("hello", "1") == "simulated: hello"
            with pytest.raises(Error, match="unknown verb min_p"):
                await running.files.ask("hello", "0")
        await without.write(b"temperature 0.5")
        assert await running.files.ask("hello", "1") == "simulated: hello"
        await with_it.write(b"min_p 0.05")
        assert await running.files.ask("hello", "0") == "simulated: hello"


@story
async def test_only_what_differs_is_told() -> None:
    async with simulated_host() as host, cluster() as running:
        told: list[str] = []

        def trace(way: str, msg: m.Message) -> None:
            if way == "->" and isinstance(msg, m.Twrite) and b"request_id" in msg.data:
                told.append(msg.data.decode())

        host.server.trace = trace
        await running.files.write("ctl", f"mount {host.address}")
        clone = await running.files.open("clone", c.ORDWR)
        await clone.write(b"request_id one\ntemperature 0.5\nstop a 'b c'")
        await running.files.ask("1", "0")
        await clone.write(b"request_id two\ntemperature 0.7")
        await running.files.ask("2", "0")
        assert len(told) == 2
        label = next(line for line in told[0].splitlines() if line.startswith("cache_label "))
        assert told[0] == f"temperature 0.5\nstop a 'b c'\nrequest_id one\n{label}\n"
        assert told[1] == "temperature 0.7\nrequest_id two\n"
