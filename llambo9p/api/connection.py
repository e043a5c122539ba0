"""A 9P connection that blocks: what nodes and clusters are asked over.

It is for one thread, and every call of the API makes its own.  So threads share nothing, none
waits for another's answer, and what is interrupted (^C) closes the connection, which ends
whatever was asked over it.
"""

from __future__ import annotations

from typing import Self, TypeVar

from llambo9p.errors import Error, NotFound, WorkerLost, from_ename
from llambo9p.net.address import Address
from llambo9p.net.security import NOBODY_ELSE
from llambo9p.net.sockets import blocking, explain
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from llambo9p.p9.client import ClientConn
from llambo9p.p9.dialects import Rerror_u
from llambo9p.p9.framing import ProtocolError

_ROOT = 0
"""the fid of the server's root"""
_PIECE = 1 << 16

_R = TypeVar("_R", bound=m.Message)


class Connection:
    """Attached as the user that runs this process.  Paths start from the server's root; its end
    clunks what is open."""

    def __init__(self, address: Address) -> None:
        """Raises WorkerLost naming the address when nobody answers there."""
        self._address = address
        self._conn = ClientConn()
        self._fids = _ROOT
        """the last one that was used"""
        self._iounits: dict[int, int] = {}
        """of the fids that are open"""
        try:
            self._socket = blocking(address, NOBODY_ELSE)
        except (OSError, UnicodeError) as e:
            raise WorkerLost(f"{WorkerLost.ename}: {address}: {explain(e)}") from e
        try:
            self._call(m.Tversion(c.NOTAG, self._conn.msize, c.VERSION_9P2000_U), m.Rversion)
            self._call(m.Tattach(0, _ROOT, c.NOFID, "", ""), m.Rattach)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- files: each raises the server's error, and WorkerLost when there is no server any more --

    def open(self, path: str, mode: int) -> int:
        """The fid of what is at `path`, of at most MAXWELEM names, open."""
        names = tuple(name for name in path.split("/") if name)
        self._fids += 1
        fid = self._fids
        walked = self._call(m.Twalk(0, _ROOT, fid, names), m.Rwalk)
        if len(walked.wqid) != len(names):
            raise NotFound(f"{NotFound.ename}: {path}")
        iounit = self._call(m.Topen(0, fid, mode), m.Ropen).iounit
        room = self._conn.msize - c.IOHDRSZ
        self._iounits[fid] = min(iounit or room, room)
        return fid

    def read(self, path: str) -> str:
        """All of a file, which may block until its end is known."""
        fid = self.open(path, c.OREAD)
        data = bytearray()
        while piece := self.read_at(fid, len(data)):
            data += piece
        self.clunk(fid)
        return data.decode()

    def read_at(self, fid: int, offset: int) -> bytes:
        """What is there, b"" at the end."""
        return self._call(m.Tread(0, fid, offset, self._iounits[fid]), m.Rread).data

    def write(self, path: str, text: str) -> None:
        """One open, as many Twrites as it takes, and the clunk that submits them."""
        fid = self.open(path, c.OWRITE)
        self.write_to(fid, text)
        self.clunk(fid)

    def write_to(self, fid: int, text: str) -> None:
        data = text.encode()
        iounit = self._iounits[fid]
        for at in range(0, len(data), iounit):
            self._call(m.Twrite(0, fid, at, data[at : at + iounit]), m.Rwrite)

    def clunk(self, fid: int) -> None:
        del self._iounits[fid]
        self._call(m.Tclunk(0, fid), m.Rclunk)

    # -- messages -----------------------------------------------------------------

    def _call(self, msg: m.Message, reply: type[_R]) -> _R:
        self._conn.send(msg)
        try:
            self._socket.sendall(b"".join(self._conn.data_to_send()))
            came = self._received()
        except OSError as e:
            raise WorkerLost(f"{WorkerLost.ename}: {self._address}: {explain(e)}") from e
        except ProtocolError as e:
            raise Error(f"{self._address} does not speak 9P2000: {e}") from e
        if isinstance(came, m.Rerror):
            raise from_ename(came.ename, came.errno if isinstance(came, Rerror_u) else 0)
        assert isinstance(came, reply)  # ClientConn sees to that
        return came

    def _received(self) -> m.Message | bytes:
        while True:
            data = self._socket.recv(_PIECE)
            if not data:
                raise ConnectionResetError("connection closed")
            for _, reply in self._conn.receive(data):
                return reply
