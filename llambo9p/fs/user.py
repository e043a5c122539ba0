"""Who a client is, and what names and numbers mean on this machine.

A `User` is only ever what was authenticated (see `net.security`); trees are given one
when they are attached, and show it what is its own.  An administrator is the owner of
the process, or somebody whom the configuration names.
"""

from __future__ import annotations

import functools
import os
import pwd
from dataclasses import dataclass

from ..errors import PermissionDenied
from ..p9 import constants as c


@dataclass(frozen=True, slots=True)
class User:
    name: str
    admin: bool = False

    def check_admin(self, verb: str) -> None:
        """Raises PermissionDenied unless this is an administrator."""
        if not self.admin:
            raise PermissionDenied(
                f"{PermissionDenied.ename}: {verb} is for the owner and security.admins, "
                f"not for {self.name}"
            )


@functools.lru_cache(maxsize=1024)
def name_of(uid: int) -> str:
    """The name of a user of this machine; one that it does not know has its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def owner() -> User:
    """Whoever runs this process."""
    return User(name_of(os.geteuid()), admin=True)


@functools.lru_cache(maxsize=1024)
def numbers_of(user: str) -> tuple[int, int]:
    """The user's uid and gid here; NOBODY for one that this machine does not know."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return c.NOBODY, c.NOBODY
    return entry.pw_uid, entry.pw_gid
