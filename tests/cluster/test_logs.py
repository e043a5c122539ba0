"""`logs/`: what hosts and orchestrator say, and what a reader sees while logs begin anew."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from llambo9p.cluster.launchers import log as bounded
from llambo9p.cluster.launchers.base import Log
from llambo9p.cluster.launchers.log import LOG_BYTES, FileLog
from llambo9p.cluster.logs import OwnLog
from llambo9p.errors import Error, NotFound, PermissionDenied, Stale
from tests.files import files_of, story, until

from .harness import cluster
from .test_fleet import config, processes
from .test_users import shared


def rest(log: Log, position: int) -> bytes:
    """From there to the end, in reads of many sizes."""
    data = b""
    while more := log.read(position + len(data), 1 + len(data) % 7):
        assert isinstance(more, bytes)
        data += more
    return data


def test_who_reads_on_sees_a_log_that_moves_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "LOG_BYTES", 100)
    log = FileLog(tmp_path / "log")
    written = b""
    read = log.begin()
    with log.open() as file:
        for number in range(200):
            line = b"%d\n" % number
            file.write(line)
            file.flush()
            written += line
            log.bound()
            if number % 20 == 0:
                read += len(rest(log, read))
                assert read == len(written)
            assert rest(log, log.begin()) == written[log.begin() :]
            assert rest(log, read) == written[read:]
    assert log.begin() > 200


def test_what_is_gone_is_an_error_and_nothing_else(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "log")
    with pytest.raises(Error, match="cannot read the log .*: No such file"):
        log.read(0, 10)
    with log.open() as file:
        for _ in range(2):
            file.write(b"7 bytes" * LOG_BYTES)
            file.flush()
            log.bound()
        assert log.begin() == 7 * LOG_BYTES
        with pytest.raises(Stale, match="moved on"):
            log.read(log.begin() - 1, 10)
        assert log.read(log.begin(), 7) == b"7 bytes"
        file.write(b"more")
    (tmp_path / "log").write_bytes(b"")
    with pytest.raises(Stale, match="began anew"):
        log.read(14 * LOG_BYTES + 2, 10)


def test_our_own_log_keeps_whole_lines_of_the_newest() -> None:
    log = OwnLog(kept=100)
    logger = logging.Logger("test")
    logger.addHandler(log)
    lines = [f"line {number} é" for number in range(60)]
    whole = "".join(f"{line}\n" for line in lines).encode()
    for line in lines:
        logger.warning(line)
        kept = rest(log, log.begin())
        assert whole[log.begin() :].startswith(kept) and kept.startswith(b"line ")
        assert len(kept) <= 200
    assert len(kept) >= 100 and kept.endswith(whole[-20:])
    with pytest.raises(Stale):
        log.read(0, 10)
    logger.warning("%d", "no number")  # is told on stderr, and does not stop us


@story
async def test_a_log_is_read_while_its_host_lives_and_after() -> None:
    async with cluster(config()) as running:
        files = running.files
        assert await files.ls("logs") == ["orchestrator"]
        await files.write("ctl", "spawn --count 2 --type one")
        assert await files.ls("logs") == ["orchestrator", "host-0000"]
        assert "host-0000" in await files.read("nodes/worker-0001")
        log = await files.open("logs/host-0000")
        await files.ask("?", "worker-0000")
        said = b""
        while b"request over" not in said:
            said += await log.read(len(said))
        assert said.startswith(b"llambo-worker: ")
        await files.write("ctl", "kill worker-0000 worker-0001")
        await until(lambda: not processes(running))
        assert said.decode() in await files.read("logs/host-0000")


@story
async def test_a_host_that_does_not_start_leaves_its_log() -> None:
    async with cluster(config()) as running:
        with pytest.raises(Error, match="no such file"):
            await running.files.write("ctl", "spawn --type bad --count 1")
        assert "/nowhere.gguf: no such file" in await running.files.read("logs/host-0000")
        with pytest.raises(NotFound):
            await running.files.read("logs/host-0001")


@story
async def test_logs_are_for_administrators(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        with pytest.raises(PermissionDenied, match="logs is for the owner"):
            await place.alice.open("logs/orchestrator")
        assert await place.bob.read("logs/orchestrator") == ""
        with pytest.raises(PermissionDenied):
            await place.bob.open("logs/orchestrator", 1)


@story
async def test_workers_has_a_line_for_each_that_begins_like_their_host_s() -> None:
    async with cluster(config()) as running:
        files = running.files
        await files.write("ctl", "spawn --count 2 --type one")
        [host] = running.orchestrator._members.hosts
        async with files_of(host.address) as there:
            theirs = (await there.read("workers")).splitlines()
        ours = (await files.read("workers")).splitlines()
        assert len(ours) == len(theirs) == 2
        for line, name in zip(ours, ("worker-0000", "worker-0001"), strict=True):
            attrs = await files.attrs(f"nodes/{name}")
            first = "id state load queued requests tokens errors health circuit capacity host epoch"
            words = line.split(" ")
            assert words[:12] == [attrs[attr] for attr in first.split()]
            assert words[13:] == [attrs[attr] for attr in ("type", "addr", "model")]
            assert any(line.startswith(their) for their in theirs)
