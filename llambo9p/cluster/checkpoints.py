"""Copies of the state, which `save` and `restore` know by name: where they lie, and who may say
a path instead.

They lie in one directory beside the state file, `STATE.checkpoints`, which is the owner's alone
(0700).  An administrator who is not the owner says a name.  A name has no `/`, begins with no dot,
and is a regular file of the owner in that directory: no link is followed, and a copy is replaced
as a whole (`state_file`).  So an administrator can make the owner's process write and read nothing
but copies that it wrote itself, at most `MOST` of them.  The owner may also say an absolute path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidArgument, NoSpace, NotFound
from ..fs.user import User
from . import state, state_file
from .state import State

MOST = 100
"""copies in the directory"""
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,63}", re.ASCII)


def directory(state_path: Path) -> Path:
    return Path(f"{state_path}.checkpoints")


def check_name(name: str) -> str:
    """The name, when a copy may have it.  Raises InvalidArgument."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"bad name {name[:40]!r} of a checkpoint: use letters, digits, '_', '.' and '-', at "
            "most 64 in all, no dot at the beginning"
        )
    return name


class Checkpoints:
    """Of the cluster whose state file is at `state_path`.  The files are read and written on a
    thread."""

    def __init__(self, state_path: Path) -> None:
        self._state_path = state_path

    def path(self, words: Sequence[str], user: User, verb: str) -> Path:
        """Where a verb's [FILE] is: the state file when there is none.  Raises PermissionDenied
        for a path that the user may not say, and InvalidArgument."""
        if not words:
            return self._state_path
        (word,) = words
        if "/" not in word:
            return directory(self._state_path) / check_name(word)
        user.check_owner(f"{verb} with a path", f"use a name, for a file in {self._shown}")
        if not word.startswith("/") or "\0" in word:
            raise InvalidArgument(f"{word[:200]!r} is not an absolute path")
        return Path(word)

    def save(self, path: Path, saved: State) -> None:
        """Where nothing is, or what was saved before.  Raises Error, and leaves what was there."""
        ours = directory(self._state_path)
        if path.parent == ours:
            state_file.make_private(ours)
            if not path.exists() and len(os.listdir(ours)) >= MOST:
                raise NoSpace(
                    f"{NoSpace.ename}: {ours} has {MOST} checkpoints: save under one of their "
                    "names, or let the owner remove some"
                )
        load(path)
        write(path, saved)

    def read(self, path: Path) -> State:
        """Raises Error, NotFound when there is none."""
        before = load(path)
        if before is None:
            raise NotFound(f"{NotFound.ename}: {path}")
        return before

    @property
    def _shown(self) -> str:
        return directory(self._state_path).name


def load(path: Path) -> State | None:
    """What was saved there, None if nothing was.  Raises Error."""
    data = state_file.read(path)
    return None if data is None else state.parse(data, str(path))


def write(path: Path, saved: State) -> None:
    state_file.write(path, state.dump(saved))
