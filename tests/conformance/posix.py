"""The half of the conformance suite that goes through system calls on a mount point.

A test module says what is mounted: a class that inherits `OfFiles`, or `OfTree` for a
tree of ours, and has a fixture `place`.  `OfFiles` asks for nothing that an ordinary
directory would not give.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from .subjects import ANSWER, Roles


@dataclass
class Place:
    """What is mounted at `path`; the calls are those of `Subject`, from any thread."""

    path: Path
    ask: Callable[[], None]
    feed: Callable[[], None]
    end: Callable[[], None]
    roles: Roles

    def __truediv__(self, path: str) -> Path:
        return self.path / path


@contextlib.contextmanager
def fails(*numbers: int) -> Iterator[None]:
    with pytest.raises(OSError) as failed:
        yield
    assert failed.value.errno in numbers, failed.value


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def contents(path: Path) -> bytes:
    """As cat(1) reads."""
    data = b""
    with opened(path, os.O_RDONLY) as fd:
        while piece := os.read(fd, 1 << 16):
            data += piece
    return data


class OfFiles:
    """What holds for any directory with files of these roles."""

    def test_a_listing_agrees_with_stat(self, place: Place) -> None:
        for directory in (place.path, place / place.roles.directory):
            with os.scandir(directory) as entries:
                found = {entry.name: (entry.inode(), entry.is_dir()) for entry in entries}
            assert found and sorted(found) == sorted(os.listdir(directory))
            for name, (inode, is_dir) in found.items():
                of = os.stat(directory / name)
                assert (of.st_ino, stat.S_ISDIR(of.st_mode)) == (inode, is_dir)
                assert of.st_ino == os.lstat(directory / name).st_ino, "it is the same again"

    def test_a_directory_is_listed_again_from_its_start(self, place: Place) -> None:
        with opened(place.path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            first = sorted(os.listdir(fd))
            os.lseek(fd, 0, os.SEEK_SET)
            assert sorted(os.listdir(fd)) == first

    def test_dotdot_leads_back(self, place: Place) -> None:
        directory = place / place.roles.directory
        assert os.path.samestat(os.stat(directory / ".."), os.stat(place.path))
        assert os.path.samestat(os.stat(directory / "."), os.stat(directory))
        assert contents(directory / ".." / place.roles.leaf)

    def test_what_is_not_there_has_its_errno(self, place: Place) -> None:
        text = place / place.roles.text
        for path, number in (
            (place / "nope", errno.ENOENT),
            (place / place.roles.directory / "nope", errno.ENOENT),
            (place / "nope" / "nope", errno.ENOENT),
            (text / "nope", errno.ENOTDIR),
            (text / "..", errno.ENOTDIR),
        ):
            with fails(number):
                os.stat(path)
            with fails(number):
                os.open(path, os.O_RDONLY)
        with fails(errno.ENOTDIR):
            os.listdir(text)
        with fails(errno.EISDIR):
            os.open(place / place.roles.directory, os.O_WRONLY)
        with opened(place.path, os.O_RDONLY) as fd, fails(errno.EISDIR):
            os.read(fd, 10)

    def test_a_file_is_read_from_any_offset_to_its_end(self, place: Place) -> None:
        path = place / place.roles.leaf
        text = contents(path)
        assert text
        with opened(path, os.O_RDONLY) as fd:
            assert os.pread(fd, 2, 1) == text[1:3]
            assert b"".join(iter(lambda: os.read(fd, 1), b"")) == text
            assert os.read(fd, 10) == b""
            assert os.pread(fd, 10, len(text)) == os.pread(fd, 10, 1 << 40) == b""
            assert os.lseek(fd, 1, os.SEEK_SET) == 1
            assert os.read(fd, 1 << 20) == text[1:]
            with fails(errno.EBADF):
                os.write(fd, b"x")

    def test_what_is_written_is_there_after_close(self, place: Place) -> None:
        path = place / place.roles.system
        for flags in (os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_TRUNC):
            with opened(path, flags) as fd:
                assert os.write(fd, b"be brief") == 8
            assert contents(path).rstrip() == b"be brief"
        with opened(path, os.O_WRONLY) as fd, fails(errno.EBADF):
            os.read(fd, 1)

    def test_a_truncate_empties_a_text(self, place: Place) -> None:
        path = place / place.roles.system
        for empty in (lambda: os.truncate(path, 0), lambda: path.open("wb").close()):
            path.write_bytes(b"be brief")
            empty()
            assert contents(path) == b""

    def test_a_read_waits_and_gives_what_comes(self, place: Place) -> None:
        place.ask()
        path = place / place.roles.stream
        with ThreadPoolExecutor(1) as other, opened(path, os.O_RDONLY) as fd:
            for byte in ANSWER[:3]:
                waiting = other.submit(os.read, fd, 1 << 16)
                contents(place / place.roles.leaf)  # nobody else waits for it
                assert not waiting.done()
                place.feed()
                assert waiting.result() == bytes([byte])
            place.end()
            assert b"".join(iter(lambda: os.read(fd, 1 << 16), b"")) == ANSWER[3:]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_a_waiting_read_is_interrupted(self, place: Place, number: int) -> None:
        place.ask()
        path = place / place.roles.stream
        command = ["env", "--default-signal=INT", "cat", path]
        cat = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert cat.stdout is not None
        with cat.stdout:
            place.feed()
            assert os.read(cat.stdout.fileno(), 10) == ANSWER[:1]
            cat.send_signal(number)
            assert cat.wait(5) == -number
        assert contents(place / place.roles.leaf), "and what is left works"


class OfTree(OfFiles):
    """What holds for a tree of ours besides."""

    def test_synthetic_files_have_no_length(self, place: Place) -> None:
        for path in (place.roles.text, place.roles.ctl, place.roles.directory):
            assert os.stat(place / path).st_size == 0
        assert not os.stat(place / place.roles.text).st_mode & 0o222

    def test_an_answer_can_be_read_again(self, place: Place) -> None:
        place.ask()
        place.end()
        path = place / place.roles.stream
        assert contents(path) == contents(path) == ANSWER
        with opened(path, os.O_RDONLY) as fd:
            assert os.pread(fd, 100, 5) == ANSWER[5:]

    def test_files_are_opened_as_their_modes_say(self, place: Place) -> None:
        for path in (place.roles.text, place.roles.stream):
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
                with fails(errno.EACCES):
                    os.open(place / path, flags)
        with opened(place / place.roles.ctl, os.O_RDWR):
            pass

    def test_nothing_is_made_renamed_or_removed(self, place: Place) -> None:
        before = sorted(os.listdir(place.path))
        text, new = place / place.roles.text, place / "new"
        refused = (errno.EACCES, errno.EPERM)
        for call in (
            lambda: os.open(new, os.O_WRONLY | os.O_CREAT),
            lambda: os.mkdir(new),
            lambda: os.unlink(text),
            lambda: os.rmdir(place / place.roles.directory),
            lambda: os.rename(text, new),
            lambda: os.symlink("x", new),
            lambda: os.chmod(text, 0o777),
            lambda: os.chown(text, 1, 1),
        ):
            with fails(*refused):
                call()
        assert sorted(os.listdir(place.path)) == before
        with fails(errno.EEXIST):
            os.open(text, os.O_RDONLY | os.O_CREAT | os.O_EXCL)

    def test_a_bad_verb_fails_its_write_and_changes_nothing(self, place: Place) -> None:
        path = place / place.roles.ctl
        before = contents(path)
        for flags in (0, os.O_TRUNC, os.O_APPEND):
            with opened(path, os.O_WRONLY | flags) as fd:
                with fails(errno.EINVAL):
                    os.write(fd, b"max_tokens 7\nno_such_verb\n")
                assert contents(path) == before
        with opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
            os.write(fd, b"max_tokens 7\n")
            assert b"max_tokens 7\n" in contents(path), "before the close"
