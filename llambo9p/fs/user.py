"""Who a client is, and what names and numbers mean on this machine.

A `User` is only ever what was authenticated (see `net.security`); trees are given one
when they are attached, and show it what is its own.  The owner is whoever runs the
process.  An administrator is the owner, or somebody whom the configuration names.  An
administrator who is not the owner decides what the cluster does; he does not act with
the owner's account: he names no path, and no unix socket, of the owner's machine.
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
    owner: bool = False
    """he runs the process; two users of one name are never both served"""

    @property
    def sees_figures(self) -> bool:
        """Whether this user is told how many requests and tokens others have, and when.  To
        everybody else they are not shown at all: of a figure that is only rounded, whoever can
        add to it finds the exact value, by counting what he adds until it changes."""
        return self.admin

    def check_admin(self, verb: str) -> None:
        """Raises PermissionDenied unless this is an administrator."""
        if not self.admin:
            raise PermissionDenied(
                f"{PermissionDenied.ename}: {verb} is for the owner and security.admins, "
                f"not for {self.name}"
            )

    def check_owner(self, what: str, instead: str) -> None:
        """Raises PermissionDenied unless this is the owner: `what` is refused, and what others
        can do `instead`."""
        if not self.owner:
            raise PermissionDenied(
                f"{PermissionDenied.ename}: {what} is for the owner of the process, not for "
                f"{self.name}: {instead}"
            )


@functools.lru_cache(maxsize=1024)
def name_of(uid: int) -> str:
    """The name of a user of this machine; one that it does not know has its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def owner(name: str | None = None) -> User:
    """Whoever runs this process, by the name of its account if no other `name` is given."""
    return User(name or name_of(os.geteuid()), admin=True, owner=True)


@functools.lru_cache(maxsize=1024)
def numbers_of(user: str) -> tuple[int, int]:
    """The user's uid and gid here; NOBODY for one that this machine does not know."""
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):  # a name with a NUL is a ValueError
        return c.NOBODY, c.NOBODY
    return entry.pw_uid, entry.pw_gid
