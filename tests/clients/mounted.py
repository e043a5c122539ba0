"""The tree as the guest's shells see it, mounted by Linux's own v9fs."""

from __future__ import annotations

from .guest import Guest, Result
from .served import Door

DIALECTS = ("9p2000", "9p2000.u", "9p2000.L")
MSIZE = 8192
"""smaller than Linux's own, so that what is longer needs no large files"""


class Mount:
    """The tree at `path` in the guest, and the door that the guest came through."""

    def __init__(self, guest: Guest, dialect: str, door: Door, options: str = "") -> None:
        self.dialect = dialect
        self.door = door
        self.path = f"/n/{door.port}"
        self._guest = guest
        done = guest.terminals[0].run(
            f"mkdir -p {self.path}\n"
            "mount -t 9p -o trans=tcp,cache=none,"
            f"port={door.port},version={dialect},msize={MSIZE}{options} 10.0.2.2 {self.path}"
        )
        assert done == Result(0, "")

    def run(self, script: str) -> Result:
        return self._guest.terminals[0].run(f"cd {self.path}\n{script}")

    def sh(self, script: str) -> str:
        """The output of a script in which nothing fails."""
        done = self.run(f"set -e\n{script}")
        assert done.status == 0, done.output
        return done.output

    def unmount(self) -> None:
        assert self._guest.terminals[0].run(f"umount {self.path}") == Result(0, "")


class Foreground:
    """A script on the guest's other terminal, where it may be interrupted."""

    def __init__(self, guest: Guest) -> None:
        self._terminal = guest.terminals[1]
        self.interrupt = self._terminal.interrupt
        self.wait_for = self._terminal.wait_for
        self.finish = self._terminal.finish

    def start(self, mount: Mount, script: str) -> None:
        self._terminal.start(f"cd {mount.path}\n{script}")

    def end(self) -> None:
        if self._terminal.busy:
            self._terminal.interrupt()
            self._terminal.finish()
