"""Where a host that Ray started listens, by whether Ray's node is the orchestrator's machine.

It is when the host's actor can connect to the orchestrator's `Door`, a unix socket in a directory
of the orchestrator alone, which is served by the actor's own user or root.  Then the host listens
as one that was started without Ray.  No address says as much: a machine has several, they change,
two machines may have the same, and behind one address there may be containers that share no
files.  A wrong guess by addresses would leave users' prompts to whoever listens there.

Any other host listens at the address of Ray's node, with a certificate, or on plain TCP where
that is meant.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

from ....errors import Error, PermissionDenied
from ....net import sockets
from ....net.address import Address
from ....net.security import NOBODY_ELSE
from ...state_file import make_private

_DOOR_S = 5.0
"""for the orchestrator's socket to take a connection"""


@dataclass(frozen=True, slots=True)
class Places:
    """Where hosts may listen."""

    door: str
    """the path of the door's socket"""
    here: list[str]
    """options of a host on the orchestrator's machine"""
    base_port: int
    """the first port that a host on another machine tries"""
    ports: int
    """how many it tries"""
    certified: bool
    """there are certificates for other machines"""
    insecure: bool
    """plain TCP between machines is meant"""


def listen_options(places: Places, ip: str) -> list[str]:
    """Of a host on this machine, which is a node of Ray's with that address.  Raises Error."""
    if _opens(places.door):
        return places.here
    ports = ["--port-range", str(places.ports)]
    if places.certified:
        return ["--listen", str(Address("tls", ip, places.base_port)), *ports]
    if places.insecure:
        return ["--listen", str(Address("tcp", ip, places.base_port)), *ports, "--insecure"]
    raise Error(
        f"Ray's node {ip} is not the orchestrator's machine, or Ray is another user's there: set "
        "security.cert and security.ca in the configuration, or start the cluster with "
        "`llamboctl init --insecure` if everybody who reaches that node may own its workers"
    )


def _opens(door: str) -> bool:
    try:
        sockets.blocking(Address("unix", path=door), NOBODY_ELSE, _DOOR_S).close()
    except (OSError, UnicodeError, PermissionDenied):
        return False
    return True


class Door:
    """A socket below `directory`, which is made, that hangs up on whoever connects."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "door"
        self._directory = directory
        self._opening = asyncio.Lock()
        self._server: asyncio.Server | sockets.TlsServer | None = None

    async def open(self) -> None:
        """Raises Error."""
        async with self._opening:
            if self._server is None:
                make_private(self._directory)
                address = Address("unix", path=str(self.path))
                self._server, _ = await sockets.listen(address, _HangUp)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()


class _HangUp(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
