"""`llamboctl mount` and `unmount` as a person runs them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llambo9p.mount import mounting
from tests.clients.mounts import needs_fuse

from .cluster import ScriptedCluster, llamboctl


class Mounts:
    """A cluster and a state file, and llamboctl with both."""

    def __init__(self, directory: Path) -> None:
        self.cluster = ScriptedCluster()
        self.state = directory / "state"
        self.directory = directory / "some where"
        self.log = Path(f"{self.state}.mount{str(self.directory).replace('/', '-')}.log")

    def run(self, *args: str) -> subprocess.CompletedProcess[bytes]:
        return llamboctl(*args, LLAMBO_ADDR=self.cluster.address, LLAMBO_STATE=str(self.state))

    def out(self, *args: str) -> None:
        """It does what it is told and says nothing."""
        done = self.run(*args)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

    def error(self, *args: str) -> str:
        done = self.run(*args)
        assert (done.returncode, done.stdout) == (1, b"")
        [line] = done.stderr.decode().splitlines()
        return line.removeprefix("llamboctl: ")


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    made = Mounts(tmp_path)
    yield made
    if mounting.mounted(made.directory):
        mounting.unmount(made.directory)
    made.cluster.close()


@needs_fuse
def test_mount_and_unmount(mounts):
    mounts.out("mount", str(mounts.directory))
    assert (mounts.directory / "status").read_text() == "workers 1\nstrategy random\n"
    assert mounts.log.read_text().startswith("llamboctl: INFO: connected to tcp!127.0.0.1!")
    assert mounts.error("mount", str(mounts.directory)) == (
        f"{mounts.directory} is mounted already; "
        f"`llamboctl unmount {mounts.directory}` unmounts it"
    )
    mounts.out("unmount", str(mounts.directory))
    assert os.listdir(mounts.directory) == []
    assert mounts.error("unmount", str(mounts.directory)) == (
        f"{mounts.directory} is not mounted by llamboctl"
    )


@needs_fuse
def test_a_directory_may_be_named_by_a_link_or_from_here(mounts, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path)
    mounts.out("mount", f"{tmp_path}/link/some where")
    monkeypatch.chdir(tmp_path)
    mounts.out("unmount", "some where")


@needs_fuse
def test_unmounting_what_is_in_use(mounts):
    mounts.out("mount", str(mounts.directory))
    with open(mounts.directory / "status") as used:
        done = mounts.run("unmount", str(mounts.directory))
        assert (done.returncode, done.stdout) == (0, b"")
        said = f"{mounts.directory} is still in use: it ends with its last user\n"
        assert done.stderr.decode() == said
        assert os.listdir(mounts.directory) == []
        assert used.read() == "workers 1\nstrategy random\n"


def test_what_cannot_be_mounted_is_one_line(mounts, tmp_path):
    (tmp_path / "file").write_text("")
    assert mounts.error("mount", str(tmp_path)) == f"cannot mount on {tmp_path}: it is not empty"
    assert mounts.error("mount", f"{tmp_path}/file") == (
        f"cannot mount on {tmp_path}/file: Not a directory"
    )
    assert mounts.error("mount", f"{tmp_path}/file/below") == (
        f"cannot mount on {tmp_path}/file/below: Not a directory"
    )
    assert mounts.error("mount", "/proc/below") == (
        "cannot make /proc/below: No such file or directory; name a directory of yours"
    )
    nobody = "tcp!127.0.0.1!1"
    assert mounts.error("mount", str(mounts.directory), "--addr", nobody) == (
        f"cannot connect to {nobody}: Connection refused"
    )
    assert not mounting.mounted(mounts.directory)


@needs_fuse
def test_other_users_come_in_when_they_are_let(mounts):
    mounts.out("mount", str(mounts.directory), "--allow-other")
    [line] = [
        line for line in Path("/proc/self/mounts").read_text().splitlines()
        if str(mounts.directory).replace(" ", "\\040") in line
    ]  # fmt: skip
    assert "allow_other" in line and "default_permissions" in line
    mounts.out("unmount", str(mounts.directory))


def test_the_kernels_client_is_used_only_alone(mounts):
    done = mounts.run("mount", "--kernel", "--foreground", str(mounts.directory))
    assert done.returncode == 2
    assert b"--kernel goes with neither" in done.stderr


def test_the_kernels_client_is_used_where_there_is_one(mounts):
    done = mounts.run("mount", "--kernel", str(mounts.directory))
    if "\t9p\n" not in Path("/proc/filesystems").read_text():
        assert b"this kernel has no 9P file system" in done.stderr
    elif os.geteuid() != 0:
        assert b"only root can mount with --kernel" in done.stderr
    else:
        assert (mounts.directory / "status").read_text() == "workers 1\nstrategy random\n"
        mounts.out("unmount", str(mounts.directory))
