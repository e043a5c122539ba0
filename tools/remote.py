"""A cluster's files, through py9p: what every tool is made of.

`Remote` is one connection; its methods take paths from the root and block.  Whatever
goes wrong becomes a `Failure` that names the path or the address.  An interrupt in the
middle of a call leaves the connection unusable, so ^C must end it (which clunks what was
open, and so cancels what runs for it) or be kept from the thread that calls.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import ssl
from collections.abc import Iterator

from py9p.client import Client, RemoteError
from py9p.constants import IOHDRSZ, OREAD, QTDIR, VERSION9P
from py9p.messages import Dir, NinePError, Rattach, Tattach

from llambo9p.errors import PermissionDenied
from llambo9p.net.address import Address
from llambo9p.net.security import Trust
from llambo9p.net.sockets import blocking, explain

from .certificate import trust_for
from .failure import Failure, NoCluster
from .tree import OpenFile, Tree

_MSIZE = 65536
_ANSWER_S = 10.0
"""how long a server may take to connect, negotiate and attach"""
_MAXWELEM = 16


class Unreachable(NoCluster):
    """Nobody answers 9P there."""


class Remote(Tree):
    """A connection, attached as the user that runs the tool."""

    def __init__(self, address: Address, patience: float | None = None) -> None:
        """`patience` is how many seconds any answer may take, by default as long as it
        takes once we are attached.  Raises Unreachable."""
        self.address = address
        trust = trust_for(address)
        try:
            sock = _connect(address, trust, patience or _ANSWER_S)
        except PermissionDenied as e:
            raise Failure(str(e)) from None
        except OSError as e:
            hint = ". Start one with `llamboctl init`" if not isinstance(e, ssl.SSLError) else ""
            raise Unreachable(f"no cluster answers at {address}: {explain(e)}{hint}") from None
        self._sock = sock
        self._client = Client(sock, msize=_MSIZE)
        self._fids = itertools.count(1)
        self._free_fids: list[int] = []
        try:
            version = self._client.negotiate().version
            if version != VERSION9P:
                raise Unreachable(f"{address} speaks {version!r}, not 9P2000")
            # without a uname: as whom the connection shows us to be
            self._client.rpc(Tattach(0, uname=""), Rattach)
        except TimeoutError:
            self.close()
            raise Unreachable(f"{address} does not answer 9P: is another server there?") from None
        except RemoteError as e:
            self.close()
            raise Failure(f"{address} refuses us: {e}") from None
        except EOFError:
            self.close()
            raise Unreachable(
                f"{address} closed the connection before it said anything: it may have too many, "
                f"or speak no 9P{_hint(address)}"
            ) from None
        except (OSError, NinePError) as e:
            self.close()
            raise Unreachable(
                f"{address} does not speak 9P2000: {e}{_hint(address)}"
            ) from None
        except BaseException:
            self.close()
            raise
        sock.settimeout(patience)

    def close(self) -> None:
        """Also from another thread than the one that waits for an answer, and then that is
        Unreachable."""
        with contextlib.suppress(OSError):
            # a closed socket is still read from; TLS's own shutdown would wait for the reader
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        self._client.close()

    def was_hung_up(self) -> bool:
        """By the server, as far as is known; to be asked when no answer is outstanding."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def open(self, path: str, mode: int = OREAD) -> RemoteFile:
        fid = self._walk(path)
        with self._blame(path):
            try:
                qid, iounit = self._client.open(fid, int(mode))
            except RemoteError:
                self._clunk(fid)
                raise
        return RemoteFile(self, fid, path, iounit, bool(int(qid.type) & QTDIR))

    def stat(self, path: str) -> Dir:
        fid = self._walk(path)
        try:
            with self._blame(path):
                return self._client.stat(fid)
        finally:
            self._clunk(fid)

    # -- what RemoteFile needs ----------------------------------------------------

    def _walk(self, path: str) -> int:
        names = [name for name in path.split("/") if name not in ("", ".")]
        fid = self._free_fids.pop() if self._free_fids else next(self._fids)
        here = 0
        # a walk takes at most 16 names; from the second on, the fid itself moves
        for at in range(0, max(len(names), 1), _MAXWELEM):
            part = names[at : at + _MAXWELEM]
            try:
                with self._blame(path):
                    if len(self._client.walk(here, fid, part)) != len(part):
                        raise RemoteError("file does not exist")
            except Failure:
                if here == fid:
                    self._clunk(fid)
                else:
                    self._free_fids.append(fid)
                raise
            here = fid
        return fid

    def _clunk(self, fid: int) -> None:
        """Of a fid that nothing was written to; an error means nothing."""
        with contextlib.suppress(OSError, EOFError, NinePError):
            self._client.clunk(fid)
            self._free_fids.append(fid)

    @contextlib.contextmanager
    def _blame(self, path: str) -> Iterator[None]:
        try:
            yield
        except RemoteError as e:
            raise Failure(f"{path or '/'}: {e}") from None
        except (OSError, EOFError, NinePError):
            raise Unreachable(
                f"the cluster at {self.address} closed the connection; "
                "`llamboctl status` shows whether it is still there"
            ) from None


class RemoteFile(OpenFile):
    """An open fid.  As a context it is clunked at the end, and the clunk's error
    counts; after an error or an interrupt only the connection's end clunks it."""

    def __init__(
        self, remote: Remote, fid: int, path: str, iounit: int, is_directory: bool
    ) -> None:
        self.is_directory = is_directory
        self._remote = remote
        self._fid = fid
        self._path = path
        room = remote._client.msize - IOHDRSZ
        self.iounit = min(iounit or room, room)

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        while True:
            with self._remote._blame(self._path):
                data = self._remote._client.read(self._fid, self.iounit, offset)
            if not data:
                return
            yield data
            offset += len(data)

    def write(self, data: bytes, offset: int = 0) -> None:
        with self._remote._blame(self._path):
            for at in range(0, len(data), self.iounit):
                part = data[at : at + self.iounit]
                if self._remote._client.write(self._fid, part, offset + at) != len(part):
                    raise RemoteError("the server took only part of what was written")

    def __exit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        if exc_type is None:
            with self._remote._blame(self._path):
                self._remote._client.clunk(self._fid)
            self._remote._free_fids.append(self._fid)
        elif issubclass(exc_type, Failure) and not issubclass(exc_type, Unreachable):
            self._remote._clunk(self._fid)


def _hint(address: Address) -> str:
    """What a server thinks of our certificate, it says after the handshake if at all."""
    return " (does it accept our certificate?)" if address.net == "tls" else ""


def _connect(address: Address, trust: Trust, patience: float) -> socket.socket:
    sock = blocking(address, trust, patience)
    if trust.tls is None:
        return sock
    try:
        return trust.tls.wrap_socket(sock, server_hostname=address.host)
    except BaseException:
        sock.close()
        raise
