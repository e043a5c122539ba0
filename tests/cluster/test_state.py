"""The state file: what it says, whose it is, and when it is written."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster import saver, state, state_file
from llambo9p.cluster.config import Resources
from llambo9p.cluster.launchers.base import HostSpec
from llambo9p.cluster.saver import Saver
from llambo9p.cluster.state import SavedHost, Started, State
from llambo9p.errors import Error
from tests.files import story, until

SPEC = HostSpec("host-0003", "tiny", Resources(threads=1), "simulated", count=2, first=3, epoch=7)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", fullmatch=True)
NUMBERS = st.integers(0, 2**63 - 1)
HOSTS = st.builds(
    SavedHost,
    address=st.sampled_from(["unix!/a b/c", "tcp!127.0.0.1!9000", "tls!host!1"]),
    epoch=st.none() | NUMBERS,
    types=st.lists(st.text(), max_size=2),
    model=st.text(),
    slots=NUMBERS,
    answers=st.booleans(),
    workers=st.dictionaries(st.text(), NAMES, max_size=3),
    expected=st.booleans(),
    drained=st.lists(st.text()),
    started=st.none() | st.builds(Started, st.just("local"), st.just(SPEC), st.text()),
)
STATES = st.builds(
    State,
    address=st.just("tcp!127.0.0.1!5640"),
    pid=NUMBERS,
    strategy=st.none() | st.text(),
    settings=st.dictionaries(st.text(), st.text(), max_size=3),
    hosts=st.lists(HOSTS, max_size=3),
)


# -- what it says -----------------------------------------------------------------


@given(STATES)
def test_what_is_dumped_is_parsed(saved: State) -> None:
    assert state.parse(state.dump(saved), "f") == saved


GOOD = json.loads(state.dump(State("tcp!127.0.0.1!5640", 1)))
WITH_HOST = State("tcp!h!1", 1, hosts=[SavedHost("tcp!h!1", 1, ["t"], "m", 1, True, {})])
[HOST] = json.loads(state.dump(WITH_HOST))["hosts"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "EOF"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (state.dump(State("tcp!127.0.0.1!5640", 1))[:-9], "Invalid JSON"),
        (json.dumps({"name": "left-pad"}).encode(), "address: Field required"),
        (json.dumps(GOOD | {"version": 2}).encode(), "version: "),
        (json.dumps(GOOD | {"address": "there"}).encode(), "address: .*bad address 'there'"),
        (json.dumps(GOOD | {"more": 1}).encode(), "more: "),
        (
            json.dumps(GOOD | {"hosts": [HOST | {"workers": {"a": "../x"}}]}).encode(),
            r"hosts.0.workers.a: .*bad name '../x'",
        ),
    ],
)
def test_what_is_damaged_or_foreign_is_told(data: bytes, why: str) -> None:
    with pytest.raises(Error, match=rf"^state file /f is damaged, or not ours: .*{why}.*move it"):
        state.parse(data, "/f")


# -- whose it is ------------------------------------------------------------------


def test_it_is_ours_alone_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert state_file.read(path) is None
    for data in (b"one", b"two"):
        state_file.write(path, data)
        assert state_file.read(path) == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["state"], "no temporary file is left"
    with pytest.raises(Error, match="cannot write state file /nowhere/at/all: No such file"):
        state_file.write(Path("/nowhere/at/all"), b"")


def test_no_link_is_followed_and_no_fifo_waited_for(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to("precious")
    os.mkfifo(tmp_path / "fifo")
    for name, why in (("link", "symbolic link"), ("fifo", "not a regular file")):
        with pytest.raises(Error, match=why):
            state_file.read(tmp_path / name)
        with pytest.raises(Error, match=why):
            state_file.write(tmp_path / name, b"x")
    (tmp_path / "state.lock").symlink_to("precious")
    with pytest.raises(Error, match="symbolic link"), state_file.locked(tmp_path / "state"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "link").is_symlink()


def test_what_is_of_others_is_left_alone(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        return
    path = tmp_path / "state"
    path.write_text("theirs")
    os.chown(path, 12345, -1)
    for use in (lambda: state_file.read(path), lambda: state_file.write(path, b"x")):
        with pytest.raises(Error, match="belongs to uid 12345, not to us"):
            use()
    assert path.read_text() == "theirs"


def test_one_has_it_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with state_file.locked(path):
        with (
            pytest.raises(Error, match=rf"running orchestrator \(pid {os.getpid()}\): stop it"),
            state_file.locked(path),
        ):
            pass
    with state_file.locked(path):
        pass


# -- when it is written -----------------------------------------------------------


class Disk:
    """Writes when it may."""

    def __init__(self) -> None:
        self.value = 0
        self.written: list[int] = []
        self.may_write = threading.Event()
        self.full = False

    def write(self, value: int) -> None:
        self.may_write.wait()
        if self.full:
            raise Error("the disk is full")
        self.written.append(value)


@story
async def test_many_changes_are_one_write_and_who_waits_is_told_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saver, "PAUSE_S", 1000.0)
    disk = Disk()
    keeping = Saver(lambda: disk.value, disk.write)
    first = asyncio.create_task(keeping.saved())
    await asyncio.sleep(0.01)
    assert not first.done()
    for disk.value in range(1, 100):
        keeping.changed()
    second = asyncio.create_task(keeping.saved())
    disk.may_write.set()
    await first
    await second
    assert disk.written[-1] == 99 and len(disk.written) <= 2
    disk.value = 100
    keeping.changed()
    await asyncio.sleep(0.01)
    assert disk.written[-1] == 99, "nobody waits for it"
    await keeping.saved()
    assert disk.written[-1] == 100
    await keeping.close()


@story
async def test_what_cannot_be_written_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saver, "AGAIN_S", 0.01)
    disk = Disk()
    disk.may_write.set()
    disk.full = True
    keeping = Saver(lambda: disk.value, disk.write)
    await keeping.saved()
    assert keeping.trouble == "the disk is full"
    disk.full = False
    await until(lambda: not keeping.trouble)
    assert disk.written == [0]
    await keeping.close()


@story
async def test_nothing_is_written_after_the_end() -> None:
    disk = Disk()
    keeping = Saver(lambda: disk.value, disk.write)
    waiting = asyncio.create_task(keeping.saved())
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(keeping.close())
    await asyncio.sleep(0.01)
    assert not closing.done(), "a write is under way"
    disk.may_write.set()
    await closing
    await waiting
    keeping.changed()
    await keeping.saved()
    assert disk.written == [0]
