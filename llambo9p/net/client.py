"""An asyncio 9P client: many requests at once over one connection.

`Client.call` sends a T-message and returns a Future of its R-message; cancelling
the Future sends a Tflush.  `ask` gives a `Pending` instead, which is lighter.

Messages are sent in the order of the calls, and those of one turn of the event loop
leave in one write.  A server of ours (`is_ours`) handles them in that order, so a whole
transaction (walk, open, write, clunk) is sent to it without waiting.  Others, as Inferno's
exportfs, may handle several at once: nothing is sent for a fid of theirs before the Rwalk
that makes it has come.

There are never more requests than the connection has tags: one too many fails with Busy,
and what ends a fid waits for its turn.  A server that does not read what it is sent is sent no
more than `UNSENT` bytes: further requests fail with Busy.

Rerrors become `errors.Error`s.  When the connection is lost every outstanding
call fails with `ConnectionLost`, once and at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self, TypeVar, cast

from ..errors import (
    Busy,
    ConnectionLost,
    Error,
    NotFound,
    PermissionDenied,
    TimedOut,
    WorkerLost,
    from_ename,
)
from ..fs.pending import Pending
from ..fs.user import numbers_of
from ..p9 import constants as c
from ..p9 import in_dotl
from ..p9 import messages as m
from ..p9.client import ClientConn
from ..p9.dialects import P9_2000_L, Dialect, Rerror_u, Rreaddir, Tattach_u, Treaddir
from ..p9.framing import ProtocolError
from ..p9.relay import Relayed
from ..p9.wire import Dir, Qid, dont_touch
from . import sockets
from .address import Address
from .security import NOBODY_ELSE, Trust
from .turns import SLICE_S

ASKED = 24_000
"""requests that may be outstanding"""
MOST = 64 << 20
"""bytes that are read of a file whose size nobody knows"""
_VERSION_S = 2.0
"""for a server to answer a Tversion, where there is another one to try"""
ENDING = 40_000
"""with those that end fids; the other tags are for a Tflush of each of the `ASKED`"""
UNSENT = 16 << 20
"""bytes of requests that the server has not read; those that end fids may still be sent"""

_OURS = frozenset({"orchestrators", "epoch", "worker"})
"""words of which one begins a line of a root's `status`: an orchestrator's, a host's, a worker's"""

_R = TypeVar("_R", bound=m.Message)
_T = TypeVar("_T")


class Client(asyncio.Protocol):
    """One connection.  Make it with `connect`; fid numbers come from `new_fid`."""

    def __init__(self, address: Address, msize: int = c.STRANGERS_MSIZE) -> None:
        self.address = address
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """done when the connection is gone"""
        self.is_ours = False
        """the server is known to be one of ours"""
        self._conn = ClientConn(msize)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._write_scheduled = False
        self._paused = False
        """the server does not read what it is sent"""
        self._fids = itertools.count(1)
        self._free_fids: list[int] = []
        self._replies: deque[Any] = deque()
        """that came, of which nobody was told yet, each with whose it is"""
        self._waits = False
        """nothing is read until these are handled"""
        self._to_end: deque[tuple[int, m.Message, type[m.Message], Pending[None]]] = deque()
        """fids for whose Tclunk or Tremove there was no tag yet"""
        self._why = "connection closed"

    @classmethod
    async def connect(
        cls,
        address: Address,
        version: str = c.VERSION_9P2000,
        trust: Trust = NOBODY_ELSE,
        msize: int = c.STRANGERS_MSIZE,
        patience: float | None = None,
    ) -> Self:
        """Connect and negotiate `version`, 9P2000.u or plain: with .u errors keep their
        errno; and an msize of at most so many bytes.

        Raises `WorkerLost` naming the address, what `sockets.connect` does of a server that
        we do not `trust`, and TimedOut when it is connected and does not answer the Tversion in
        `patience` seconds.
        """
        client = await sockets.connect(address, lambda: cls(address, msize), trust)
        try:
            async with asyncio.timeout(patience):
                reply = await client.call(m.Tversion(c.NOTAG, msize, version), m.Rversion)
            if reply.version not in (version, c.VERSION_9P2000):
                raise Error(f"{address} speaks {reply.version!r}, not {version}")
        except TimeoutError:
            client.close()
            raise TimedOut(f"{TimedOut.ename}: {address} does not answer 9P") from None
        except WorkerLost as e:
            if address.net != "tls":
                raise
            # what the server thinks of our certificate, it says after the handshake if at all
            raise WorkerLost(f"{e} (does it accept our certificate?)") from e
        except BaseException:
            client.close()
            raise
        return client

    @classmethod
    async def dial(
        cls, address: Address, versions: Sequence[str], trust: Trust = NOBODY_ELSE
    ) -> Self:
        """Connect in the first of `versions` that the server speaks.  Each is tried on a
        connection of its own: some servers answer one that they do not know by hanging up, or
        never.  Raises what `connect` does of the first one."""
        first: Error | None = None
        for version in versions:
            try:
                return await cls.connect(address, version, trust, patience=_VERSION_S)
            except PermissionDenied:
                raise  # it is nobody whom we trust
            except Error as e:
                if isinstance(e, WorkerLost) and not isinstance(e, ConnectionLost):
                    raise (first or e) from None  # nobody is there, or any more
                first = first or e
        assert first is not None
        raise first

    @classmethod
    def gone(cls, address: Address, why: str) -> Self:
        """A connection that is lost."""
        client = cls(address)
        client._why = why
        client.connection_lost(None)
        return client

    @property
    def msize(self) -> int:
        return self._conn.msize

    @property
    def dialect(self) -> Dialect:
        return self._conn.dialect

    # -- requests ---------------------------------------------------------------

    def ask(
        self, msg: m.Message, reply: type[_R], made: Callable[[_R], _T] | None = None
    ) -> Pending[_T]:
        """Send `msg`; what `made` makes of its reply, a `reply`, or its Rerror.
        Cancelling sends a Tflush."""
        busy = self._paused or self._conn.outstanding >= ASKED
        if busy and (refusal := self._refusal()) is not None:
            refused: Pending[_T] = Pending()
            refused.fail(refusal)
            return refused
        return self._ask(msg, reply, made)

    def _refusal(self) -> Busy | None:
        """Why no more may be asked now."""
        if self._conn.outstanding >= ASKED:
            return Busy(f"{Busy.ename}: more than {ASKED} requests to {self.address}")
        if self._paused and self._transport.get_write_buffer_size() > UNSENT:
            return Busy(f"{Busy.ename}: {self.address} does not read its requests")
        return None

    def _ask(
        self, msg: m.Message, reply: type[_R], made: Callable[[_R], _T] | None = None
    ) -> Pending[_T]:
        pending: Pending[_T]
        if self.lost.done():
            pending = Pending()
            pending.fail(ConnectionLost(f"{self.address}: {self._why}"))
            return pending
        pending = Pending(lambda: self.cancel(tag, pending), made)
        try:
            tag = self._conn.send(msg, pending)
        except Error as e:  # this dialect cannot say it
            pending.fail(e)
            return pending
        self._schedule_write()
        return pending

    def relay(self, frame: bytes, fid: bytes, whose: Relayed) -> int | None:
        """See `p9.relay`.  Where this gives None, `ask` says why."""
        if self._conn.outstanding >= ASKED or self._paused or self.lost.done():
            return None
        tag = self._conn.relay(frame, fid, whose)
        self._schedule_write()
        return tag

    def probe(self, told: Callable[[], None]) -> None:
        """See `p9.relay`.  A Tflush of a tag that nobody uses is answered at once, and a server
        that handles messages in order has then handled all that came before."""
        pending: Pending[m.Rflush] = self._ask(m.Tflush(0, c.NOTAG), m.Rflush)
        pending.listen(lambda reply, error: told())

    def call(self, msg: m.Message, reply: type[_R]) -> asyncio.Future[_R]:
        """The reply as a Future."""
        pending: Pending[_R] = self.ask(msg, reply)
        return pending.future()

    def cancel(self, tag: int, whose: Pending[Any] | Relayed) -> None:
        """Flush the request with `tag`, if it is still theirs, who are told now."""
        self._conn.flush(tag, whose)
        self._schedule_write()
        whose.fail(asyncio.CancelledError())

    def new_fid(self) -> int:
        return self._free_fids.pop() if self._free_fids else next(self._fids)

    def clunk(self, fid: int) -> Pending[None]:
        """Send Tclunk.  The number is used again when the reply has come: a clunk
        behind a request that still makes or opens the fid is answered late."""
        return self._end_fid(fid, m.Tclunk(0, fid), m.Rclunk)

    def remove(self, fid: int) -> Pending[None]:
        """Send Tremove, which clunks `fid` too, whether it succeeds or not."""
        return self._end_fid(fid, m.Tremove(0, fid), m.Rremove)

    def _end_fid(self, fid: int, msg: m.Message, reply: type[m.Message]) -> Pending[None]:
        ended: Pending[None] = Pending()
        if self._conn.outstanding < ENDING:
            self._end(fid, msg, reply, ended)
        else:
            self._to_end.append((fid, msg, reply, ended))
        return ended

    def _end(
        self, fid: int, msg: m.Message, reply: type[m.Message], ended: Pending[None]
    ) -> None:
        answer: Pending[m.Message] = self._ask(msg, reply)
        ended.cancel = answer.cancel

        def listener(reply: m.Message, error: BaseException | None) -> None:
            if not isinstance(error, asyncio.CancelledError):
                self._free_fids.append(fid)
            if error is not None:
                ended.fail(error)
            else:
                ended.succeed(None)

        answer.listen(listener)

    def forget(self, fid: int) -> None:
        """Clunk `fid` without waiting for, or caring about, the reply."""
        self.clunk(fid)

    async def attach(self, uname: str, aname: str = "") -> tuple[int, m.Rattach]:
        """Attach a new fid; returns it with the reply."""
        fid = self.new_fid()
        tattach = m.Tattach(0, fid, c.NOFID, uname, aname)
        if self.dialect is P9_2000_L:  # users are numbers there
            n_uname = numbers_of(uname)[0] if uname else os.geteuid()
            tattach = Tattach_u(0, fid, c.NOFID, uname, aname, n_uname)
        try:
            return fid, await self.call(tattach, m.Rattach)
        except Error:
            self._free_fids.append(fid)
            raise
        except BaseException:  # cancelled: the server may have made the fid or not
            self.forget(fid)
            raise

    async def recognise(self, root: int) -> None:
        """Find out whether the server is one of ours, by the `status` of its `root`."""
        with contextlib.suppress(Error):
            status = (await self.get(root, "status")).decode(errors="replace")
            self.is_ours = not _OURS.isdisjoint(line.split(" ")[0] for line in status.split("\n"))

    async def walk(self, root: int, names: Sequence[str]) -> tuple[int, list[Qid]]:
        """A new fid, from fid `root` along `names`, with the qids on the way; nothing is sent
        for it before its reply has come.  Raises NotFound and the server's errors."""
        fid = self.new_fid()
        walked = self.call(m.Twalk(0, root, fid, tuple(names[: c.MAXWELEM])), m.Rwalk)
        try:
            # what the server makes of it, it makes: a Tclunk could be handled before that
            qids = list((await asyncio.shield(walked)).wqid)
        except Error:
            self._free_fids.append(fid)
            raise
        except BaseException:
            walked.add_done_callback(ignore)
            walked.add_done_callback(lambda _: self.forget(fid))
            raise
        if len(qids) < min(len(names), c.MAXWELEM):
            self._free_fids.append(fid)
            raise NotFound
        try:
            for at in range(c.MAXWELEM, len(names), c.MAXWELEM):
                step = tuple(names[at : at + c.MAXWELEM])
                qids += (await self.call(m.Twalk(0, fid, fid, step), m.Rwalk)).wqid
                if len(qids) < min(len(names), at + c.MAXWELEM):
                    raise NotFound
        except BaseException:
            self.forget(fid)
            raise
        return fid, qids

    async def read_dir(self, fid: int, iounit: int, most: int = MOST) -> list[Dir]:
        """All entries of an open directory; of a server of 9P2000.L their names, qids and kinds
        alone.  Raises Error for a broken listing, and for one of more than so many bytes, as one
        may have that has no end."""
        read = self._treaddirs if self.dialect is P9_2000_L else self._treads
        try:
            return await read(fid, iounit, most)
        except ValueError as e:
            raise Error(f"{self.address}: {e}") from None

    async def _treads(self, fid: int, iounit: int, most: int) -> list[Dir]:
        data = bytearray()
        while piece := (await self.call(m.Tread(0, fid, len(data), iounit), m.Rread)).data:
            data += piece
            self._check_listing(len(data), most)
        return self.dialect.unpack_dirs(bytes(data))

    async def _treaddirs(self, fid: int, iounit: int, most: int) -> list[Dir]:
        found: list[Dir] = []
        offset = size = 0
        while piece := (await self.call(Treaddir(0, fid, offset, iounit), Rreaddir)).data:
            size += len(piece)
            self._check_listing(size, most)
            some, offset = in_dotl.entries(piece)
            found += some
        return found

    def _check_listing(self, size: int, most: int) -> None:
        if size > most:
            raise Error(f"{self.address}: a listing is longer than {most} bytes")

    async def open(self, root: int, path: str, mode: int) -> RemoteOpen:
        """Walk from fid `root` along `path` and open what is there.  At most MAXWELEM names."""
        names = tuple(name for name in path.split("/") if name)
        if not self.is_ours:
            fid, _ = await self.walk(root, names)
            return await self._open_walked(fid, mode)
        fid = self.new_fid()
        walked = self.call(m.Twalk(0, root, fid, names), m.Rwalk)
        opened = self.call(m.Topen(0, fid, mode), m.Ropen)
        try:
            reply = await walked
            if len(reply.wqid) != len(names):
                raise NotFound
        except Error:
            opened.add_done_callback(ignore)
            opened.add_done_callback(lambda _: self._free_fids.append(fid))
            raise
        except BaseException:  # cancelled: the server may have made the fid or not
            opened.cancel()
            self.forget(fid)
            raise
        return await self._open_walked(fid, mode, opened)

    async def _open_walked(
        self, fid: int, mode: int, opened: asyncio.Future[m.Ropen] | None = None
    ) -> RemoteOpen:
        opened = opened or self.call(m.Topen(0, fid, mode), m.Ropen)
        try:
            return RemoteOpen(self, fid, (await opened).iounit)
        except BaseException:
            self.forget(fid)
            raise

    async def get(self, root: int, path: str) -> bytes:
        """What the file at `path` has that fits in one Rread."""
        count = self.msize - c.IOHDRSZ
        read = await self._at_once(
            root, path, c.OREAD, lambda fid: m.Tread(0, fid, 0, count), m.Rread
        )
        return read.data

    async def put(self, root: int, path: str, data: bytes) -> None:
        """Truncate and write the file at `path`, which Tclunk submits.  When that fails, nothing
        was written to be submitted."""
        mode = c.OWRITE | c.OTRUNC
        if len(data) <= self.msize - c.IOHDRSZ:
            await self._at_once(root, path, mode, lambda fid: m.Twrite(0, fid, 0, data), m.Rwrite)
            return
        opened = await self.open(root, path, mode)
        try:
            await opened.write(data)
        except BaseException:
            opened.forget()
            raise
        await opened.clunk()

    async def _at_once(
        self, root: int, path: str, mode: int, made: Callable[[int], m.Message], reply: type[_R]
    ) -> _R:
        """Walk from `root` to what is opened, asked what is `made` for its fid, and clunked, by
        messages that are sent at once to a server of ours.  Raises what failed first."""
        if not self.is_ours:
            file = await self.open(root, path, mode)
            try:
                answer = await self.call(made(file.fid), reply)
            except BaseException:
                file.forget()
                raise
            await file.clunk()
            return answer
        names = tuple(name for name in path.split("/") if name)
        fid = self.new_fid()
        walked = self.call(m.Twalk(0, root, fid, names), m.Rwalk)
        opened = self.call(m.Topen(0, fid, mode), m.Ropen)
        asked = self.call(made(fid), reply)
        ended = self.clunk(fid).future()
        ended.add_done_callback(ignore)
        try:
            await asyncio.gather(walked, opened, asked, return_exceptions=True)
        except BaseException:  # cancelled: so are these, and the clunk comes behind them
            for each in (walked, opened, asked):
                each.add_done_callback(ignore)
            raise
        if len(walked.result().wqid) != len(names):
            raise NotFound
        opened.result()
        answer = asked.result()
        await ended
        return answer

    # -- asyncio's side -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sockets.keep_alive(transport)

    def data_received(self, data: bytes) -> None:
        try:
            replies = self._conn.receive(data)
        except ProtocolError as e:
            self._why = f"broke the protocol: {e}"
            self._transport.abort()
            return
        waiting = bool(self._replies)
        self._replies.extend(replies)
        if not waiting:
            self._handle(time.monotonic() + SLICE_S)

    def _handle(self, until: float) -> None:
        """Tell those who asked of the replies that came, until the clock shows `until`; the rest
        has its turn after what else the loop has to do, and nothing is read before."""
        replies = self._replies
        while replies:
            whose, reply = replies.popleft()
            if whose is None:
                continue  # it was flushed, and has had a reply
            if isinstance(reply, m.Rerror):
                errno = reply.errno if isinstance(reply, Rerror_u) else 0
                whose.fail(from_ename(reply.ename, errno))
            else:
                whose.succeed(reply)
            if replies and time.monotonic() >= until:
                self._handle_later()
                return
        if self._waits:
            self._waits = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
        while self._to_end and self._conn.outstanding < ENDING:
            self._end(*self._to_end.popleft())

    def _handle_later(self) -> None:
        if not self._waits:
            self._waits = True
            self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(
            lambda: self._handle(time.monotonic() + SLICE_S)
        )

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError):
            self._why = f"connection lost: {sockets.explain(exc)}"
        elif exc is not None:
            self._why = f"connection lost: {exc}"
        self._handle(math.inf)
        if not self.lost.done():
            self.lost.set_result(None)
        for whose in self._conn.lost():
            if whose is not None:
                whose.fail(ConnectionLost(f"{self.address}: {self._why}"))
        while self._to_end:
            self._end(*self._to_end.popleft())

    def close(self) -> None:
        """Drop the connection at once; the server clunks what was open."""
        self._transport.abort()

    def _schedule_write(self) -> None:
        if not self._write_scheduled:
            self._write_scheduled = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._write_scheduled = False
        out = self._conn.data_to_send()
        if out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))


class RemoteOpen:
    """An open fid of a `Client`, for code that uses files rather than serves them."""

    def __init__(self, client: Client, fid: int, iounit: int) -> None:
        self._client = client
        self.fid = fid
        room = client.msize - c.IOHDRSZ
        self.iounit = min(iounit or room, room)

    @property
    def is_ours(self) -> bool:
        """Whether the server is known to be one of ours."""
        return self._client.is_ours

    async def read(self, offset: int, count: int | None = None) -> bytes:
        """One Tread: what is there, b"" at the end."""
        count = self.iounit if count is None else min(count, self.iounit)
        msg = m.Tread(0, self.fid, offset, count)
        return (await self._client.call(msg, m.Rread)).data

    def ask(self, offset: int) -> Pending[bytes]:
        """As `read`, for those who do not await."""
        return self._client.ask(m.Tread(0, self.fid, offset, self.iounit), m.Rread, _data)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file from its start to its end, each piece as it comes."""
        offset = 0
        while data := await self.read(offset):
            yield data
            offset += len(data)

    async def read_all(self, most: int = MOST) -> bytes:
        """The whole file.  Raises Error when it has more than so many bytes, as one may that has
        no end."""
        pieces: list[bytes] = []
        size = 0
        async for data in self.chunks():
            size += len(data)
            if size > most:
                raise Error(f"{self._client.address}: a file of it is longer than {most} bytes")
            pieces.append(data)
        return b"".join(pieces)

    async def read_dir(self) -> list[Dir]:
        """See `Client.read_dir`."""
        return await self._client.read_dir(self.fid, self.iounit)

    async def write(self, data: bytes, offset: int = 0) -> None:
        """All of `data`, in as many Twrites as iounit demands, without waiting
        between them.  Raises the first error."""
        pieces = ((at, data[at : at + self.iounit]) for at in range(0, len(data), self.iounit))
        calls = [
            self._client.call(m.Twrite(0, self.fid, offset + at, piece), m.Rwrite)
            for at, piece in pieces
        ]
        for reply in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(reply, BaseException):
                raise reply

    async def wstat(self, change: Dir) -> None:
        """Change what is not "don't touch" in `change`."""
        await self._client.call(m.Twstat(0, self.fid, change), m.Rwstat)

    async def sync(self) -> None:
        """Raises why what was written would be refused at its Tclunk."""
        await self.wstat(dont_touch())

    def clunk(self) -> asyncio.Future[None]:
        """Send Tclunk now; the Future is done with its reply."""
        return self._client.clunk(self.fid).future()

    def forget(self) -> None:
        self._client.forget(self.fid)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.forget()


def _data(reply: m.Rread) -> bytes:
    return reply.data


def ignore(future: asyncio.Future[Any]) -> None:
    """Look at a result that nobody needs, so that asyncio does not complain."""
    if not future.cancelled():
        future.exception()
