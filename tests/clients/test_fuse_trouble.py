"""A FUSE mount when things go wrong: interrupts, a server that goes and comes back, a
bridge that is killed, and unmounting in each of these states."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llambo9p.engine.simulated import Gate
from llambo9p.p9 import messages as m
from tests.tools.cluster import llamboctl

from .mounts import Mount, Served, interrupt, mounted, needs_fuse, wait_until

pytestmark = needs_fuse


@pytest.fixture
def served() -> Iterator[Served]:
    """Its answers never come."""
    served = Served(2, Gate())
    yield served
    served.close()


@pytest.fixture
def mount(served: Served, tmp_path: Path) -> Iterator[Mount]:
    with mounted(tmp_path / "a mount", served.address) as mount:
        yield mount


def blocked_cat(mount: Mount, served: Served, file: str = "out") -> subprocess.Popen[bytes]:
    """A `cat` whose read the server has; one prompt before it."""
    mount.sh("echo Hello > prompt")
    before = served.pending(m.Tread)
    cat = mount.start("cat", f"{mount.path}/{file}")
    wait_until(lambda: served.pending(m.Tread) > before)
    return cat


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_blocked_read_dies_of_its_signal(mount, served, number):
    cat = blocked_cat(mount, served)
    assert interrupt(cat, number) == -number
    wait_until(lambda: served.pending(m.Tread) == 0)
    wait_until(lambda: served.fids() == 1)
    assert [request for request in served.requests() if request == "Tflush"] == ["Tflush"]


def test_a_blocked_write_dies_of_its_signal(mount, served):
    """A verb is done when the write returns; this one waits for a host that is mute."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        verb = f"mount tcp!127.0.0.1!{mute.getsockname()[1]}"
        writer = mount.start("bash", "-c", f"echo '{verb}' > '{mount.path}/ctl'")
        wait_until(lambda: served.pending(m.Twrite) == 1)
        assert interrupt(writer) == -signal.SIGINT
        wait_until(lambda: served.pending(m.Twrite) == 0)


@pytest.mark.parametrize("command", ["stat", "ls", "cat"])
def test_whatever_waits_for_a_mute_worker_dies_of_its_signal(mount, served, command):
    served.mute_host()
    waiting = mount.start(command, f"{mount.path}/worker-0000/status")
    wait_until(lambda: served.pending(m.Twalk) == 1)
    assert interrupt(waiting) == -signal.SIGINT
    assert "state" in mount.sh("cat status")


def test_blocked_readers_block_nobody(mount, served):
    cats = [blocked_cat(mount, served) for _ in range(30)]
    assert "state" in mount.sh("cat status; ls -l worker-0001 > /dev/null")
    for cat in cats:
        assert interrupt(cat) == -signal.SIGINT
    wait_until(lambda: served.fids() == 1)


def test_a_reader_that_is_stopped_reads_on(mount, served):
    """^Z and fg: the interrupted read is made again."""
    cat = blocked_cat(mount, served)
    cat.send_signal(signal.SIGSTOP)
    cat.send_signal(signal.SIGCONT)
    wait_until(lambda: served.pending(m.Tread) == 1)
    served.open_gate()
    assert cat.communicate(timeout=10)[0] == b"simulated: Hello"


def test_signals_at_any_moment_leave_nothing_behind(mount, served):
    script = """
        for i in $(seq 150); do
            for signal in INT KILL; do
                timeout -s $signal 0.0$((RANDOM % 9 + 1)) bash -c '
                    exec 3<>worker-0001/clone; read n <&3
                    echo hello > worker-0001/$n/prompt; ls -l worker-0001/$n
                    echo hello >&3; cat worker-0001/$n/out' > /dev/null 2>&1 &
            done
            [ $((i % 15)) = 0 ] && wait
        done; wait"""
    mount.run(script)
    wait_until(lambda: served.fids() == 1 and served.pending(m.Message) == 0)
    assert not [name for name in os.listdir(mount.path / "worker-0001") if name.isdigit()]


def test_a_lost_server_is_an_error_and_a_new_one_is_found(mount, served):
    cat = blocked_cat(mount, served)
    held = os.open(mount.path / "status", os.O_RDONLY)
    shell = subprocess.Popen(
        ["bash", "-c", 'cd "$0/worker-0001"; echo; read; cat status', mount.path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert shell.stdout is not None and shell.stdout.readline() == b"\n"
    served.stop()
    try:
        assert cat.communicate(timeout=5)[0] == b""
        assert cat.returncode == 1
        for script in ("ls", "cat status", "echo x > prompt", "stat worker-0000"):
            began = time.monotonic()
            assert "Input/output error" in mount.run(script).stderr
            assert time.monotonic() - began < 2
        with pytest.raises(OSError) as failed:
            os.read(held, 100)
        assert failed.value.errno == errno.EIO
    finally:
        served.start()
    wait_until(lambda: mount.run("ls").returncode == 0)
    assert "worker-0001" in mount.sh("ls; echo again > prompt").split()
    with pytest.raises(OSError) as failed:
        os.read(held, 100)
    assert failed.value.errno == errno.EIO
    os.close(held)
    assert b"state" in shell.communicate(b"\n", timeout=5)[0]
    wait_until(lambda: served.fids() == 1)


def test_a_storm_of_stats_is_no_storm_of_connections(mount, served):
    attempts = []

    class Refusing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            attempts.append(time.monotonic())

    class Place(socketserver.TCPServer):
        allow_reuse_address = True

    served.stop()
    with Place((served.address.host, served.address.port), Refusing) as place:
        thread = threading.Thread(target=place.serve_forever, args=(0.01,))
        thread.start()
        try:
            assert mount.run("for i in $(seq 300); do [ -e $i ]; done; ls").returncode != 0
        finally:
            place.shutdown()
            thread.join()
    assert attempts
    assert all(later - earlier > 0.4 for earlier, later in itertools.pairwise(attempts))
    served.start()


def test_a_read_blocks_and_the_tree_is_unmounted(mount, served):
    cat = blocked_cat(mount, served)
    assert not unmount(mount)
    assert not mount.is_mounted()
    assert os.listdir(mount.path) == []
    assert mount.process.poll() is None
    assert interrupt(cat) == -signal.SIGINT
    assert mount.process.wait(10) == 0


def test_unmounting_without_a_server(mount, served):
    served.stop()
    try:
        assert unmount(mount)
        assert mount.process.wait(10) == 0
    finally:
        served.start()


def test_unmounting_when_the_bridge_does_not_answer(mount, served):
    mount.process.send_signal(signal.SIGSTOP)
    cat = mount.start("cat", f"{mount.path}/status")
    try:
        unmount(mount)  # idle or not: `cat` may have begun or not
        assert not mount.is_mounted()
    finally:
        mount.process.send_signal(signal.SIGCONT)
    cat.communicate(timeout=5)
    assert mount.process.wait(10) == 0


def test_unmounting_after_the_bridge_was_killed(mount, served):
    cat = blocked_cat(mount, served)
    mount.process.kill()
    mount.process.wait()
    assert cat.communicate(timeout=5)[0] == b""
    assert cat.returncode == 1
    assert "Transport endpoint is not connected" in mount.run("ls").stderr
    assert unmount(mount)
    assert os.listdir(mount.path) == []
    with mounted(mount.path, served.address) as again:
        assert "worker-0000" in again.sh("ls").split()


def unmount(mount: Mount) -> bool:
    """By the program; whether it found the tree idle."""
    done = llamboctl("unmount", str(mount.path))
    assert (done.returncode, done.stdout) == (0, b"")
    return done.stderr == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_bridge_that_is_told_to_end_unmounts(mount, served, number):
    cat = blocked_cat(mount, served)
    mount.process.send_signal(number)
    assert mount.process.wait(10) == 0
    assert not mount.is_mounted()
    assert cat.communicate(timeout=5)[0] == b""
    wait_until(lambda: served.connections() == 0)
