"""A text that is refused, as programs notice it that do not see what Tclunk says: on a FUSE mount
by close(2), on Linux's v9fs by fsync(2), and on any mount by the next prompt."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import mounts
from .mounted import Mount
from .mounts import mounted, needs_fuse

PLACES = ".", "worker-0000"
"""the orchestrator's own conversation, and one that it passes on"""
TEXTS = {
    "system": (b"be brief\n", b"be \xff\n", "not UTF-8"),
    "grammar": (b'root ::= "a"\n', b"root ::=\n b", "rule `b` is used"),
    "history": (b'{"role": "user", "content": "x"}\n', b"{}\n", "history line 1"),
}
GOOD, BAD, _ = TEXTS["system"]


@pytest.fixture(scope="module")
def served() -> Iterator[mounts.Served]:
    served = mounts.Served()
    yield served
    served.close()


@pytest.fixture(scope="module")
def fuse(
    served: mounts.Served, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[mounts.Mount]:
    with mounted(tmp_path_factory.mktemp("fuse"), served.address) as mount:
        yield mount


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    for name, (_, text, _) in TEXTS.items():
        (tmp_path / name).write_bytes(text)
    return tmp_path


@needs_fuse
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", TEXTS)
def test_close_on_a_fuse_mount_tells(
    fuse: mounts.Mount, bad: Path, place: str, name: str
) -> None:
    good, text, why = TEXTS[name]
    (fuse.path / place / name).write_bytes(good)
    before = (fuse.path / place / name).read_bytes()
    with pytest.raises(OSError) as refused:
        (fuse.path / place / name).write_bytes(text)
    assert refused.value.errno == errno.EINVAL
    for command in (f"cp {bad}/{name} {name}", f"cat {bad}/{name} >{name}"):
        done = fuse.run(f"cd {place} && {command}")
        assert (done.returncode, "Invalid argument" in done.stderr) == (1, True), done
    # a shell does not look at what its own close(2) says
    shell = fuse.run(f'cd {place} && x=$(cat {bad}/{name}; echo .) && echo "${{x%.}}" >{name}')
    assert shell.returncode == 0
    assert (fuse.path / place / name).read_bytes() == before
    done = fuse.run(f"cd {place} && echo x >prompt && cat out")
    assert done.stdout == ""
    assert why in fuse.sh(f"cd {place} && grep ^error status")
    fuse.sh(f"cd {place} && echo reset >ctl && echo >system && echo >grammar && echo y >prompt")
    assert fuse.sh(f"cat {place}/out") == "simulated: y"


@needs_fuse
def test_a_prompt_of_several_writers_is_one_and_asked_about_once(
    fuse: mounts.Mount, served: mounts.Served
) -> None:
    fuse.sh("echo reset >worker-0001/ctl")
    served.requests()
    fuse.sh("cd worker-0001 && { echo one; echo two | cat; (echo three); env echo four; } >prompt")
    assert fuse.sh("cat worker-0001/out") == "simulated: four"
    assert "turns 1\n" in fuse.sh("cat worker-0001/status")
    assert served.requests().count("Twstat") == 1


@needs_fuse
def test_fsync_and_ftruncate_on_a_fuse_mount(fuse: mounts.Mount) -> None:
    path = fuse.path / "worker-0002" / "system"
    path.write_bytes(GOOD)
    with path.open("r+b", buffering=0) as file:
        file.write(BAD)
        with pytest.raises(OSError) as refused:
            os.fsync(file.fileno())
        assert refused.value.errno == errno.EINVAL
        file.truncate(0)
        os.fsync(file.fileno())
        file.write(b"be kind")
        assert path.read_bytes() == GOOD
    assert path.read_bytes() == b"be kind\n"


REFUSED = r"""
cd {place}
printf '\377' >/tmp/bad
printf 'be brief\n' >system
cp /tmp/bad system; echo $?
cat system
echo x >prompt
cat out 2>/dev/null || echo no answer
grep -o 'not UTF-8' status | head -1
dd if=/tmp/bad of=system conv=fsync,notrunc 2>/dev/null || echo told
cat system
: >system
echo y >prompt
cat out system
echo reset >ctl
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_what_the_kernel_tells(mount: Mount, place: str) -> None:
    done = mount.sh(REFUSED.format(place=place).replace("set -e", ""))
    assert done == (
        "0\nbe brief\nno answer\nnot UTF-8\ntold\nbe brief\nsimulated: y"
    )
