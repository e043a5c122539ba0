"""A server's tree by paths, over a connection that is made again when it was lost.

What is pending when the connection goes fails at once, as `Client` has it, and so does
every use of a file that was open.  The next operation tries to connect; all that come
meanwhile share the one attempt, and for a moment after a failed one they fail with it, so
that a storm of stats is no storm of connections.  Nothing here waits longer than that
for a server that is away.

Every operation walks from the root to its path on a fid of its own.  To a server of ours Twalk
and what follows leave in one write; of others each reply is waited for.  The fid is clunked when
the replies are in (a clunk would interrupt them).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import Error, NotFound, Stale, WorkerLost
from ..net.address import Address
from ..net.client import Client, RemoteOpen, ignore
from ..net.security import NOBODY_ELSE, Trust
from ..p9 import constants as c
from ..p9 import messages as m
from ..p9.dialects import P9_2000_L
from ..p9.wire import Dir, Qid
from .nodes import Node, Path

log = logging.getLogger(__name__)

_VERSIONS: tuple[str, ...] = (c.VERSION_9P2000_U, c.VERSION_9P2000, c.VERSION_9P2000_L)
"""that are tried; a server of ours is spoken to in the first, whose errors have an errno"""
_CONNECT_S = 8.0
"""how long an attempt may take"""
_REST_S = 0.5
"""how long after a failed attempt there is no other"""

_Request = tuple[m.Message, type[m.Message]]
"""a T-message and the class of its R-message"""
_OnFid = Callable[[int], _Request]
"""makes a request for a fid"""


class Root(NamedTuple):
    """A connection and the fid that is attached on it."""

    client: Client
    fid: int
    qid: Qid


class _Done(NamedTuple):
    """What came of a walk and the requests after it."""

    client: Client
    fid: int
    replies: list[Any]


class Attachment:
    """The tree `aname` at `address` as `uname` sees it, on a server that we `trust`."""

    def __init__(
        self, address: Address, uname: str, trust: Trust = NOBODY_ELSE, aname: str = ""
    ) -> None:
        self.address = address
        self._uname = uname
        self._aname = aname
        self._versions = _VERSIONS
        """from the first connection on the one that the server speaks"""
        self._trust = trust
        self._root: Root | None = None
        self._attempt: asyncio.Task[Root] | None = None
        self._failure: Error | None = None
        """of the last attempt, raised instead of another one until `_rest_until`"""
        self._rest_until = 0.0

    async def root(self) -> Root:
        """The connection, made now if need be.  Raises what went wrong with that."""
        if self._root is not None and not self._root.client.lost.done():
            return self._root
        loop = asyncio.get_running_loop()
        if self._attempt is None:
            if self._failure is not None and loop.time() < self._rest_until:
                raise self._failure.with_traceback(None)
            self._attempt = loop.create_task(self._connect())
            self._attempt.add_done_callback(self._attempted)
        # who stops waiting does not stop the others' attempt
        return await asyncio.shield(self._attempt)

    @property
    def lists_stats(self) -> bool:
        """Whether a listing has the stats of its entries, and not only their names."""
        return self._root is not None and self._root.client.dialect is not P9_2000_L

    async def _connect(self) -> Root:
        try:
            async with asyncio.timeout(_CONNECT_S):
                client = await Client.dial(self.address, self._versions, self._trust)
                try:
                    fid, reply = await client.attach(self._uname, self._aname)
                    await client.recognise(fid)
                    self._versions = (client.dialect.version,)
                except BaseException:
                    client.close()
                    raise
        except TimeoutError:
            raise WorkerLost(f"{self.address} does not answer 9P") from None
        return Root(client, fid, reply.qid)

    def _attempted(self, attempt: asyncio.Task[Root]) -> None:
        self._attempt = None
        if attempt.cancelled():
            return
        error = attempt.exception()
        if error is None:
            self._root, self._failure = attempt.result(), None
            self._root.client.lost.add_done_callback(self._lost)
            log.info("connected to %s", self.address)
        elif isinstance(error, Error):
            if self._failure is None:
                log.warning("%s", error)
            self._failure = error
            self._rest_until = attempt.get_loop().time() + _REST_S

    def _lost(self, lost: asyncio.Future[None]) -> None:
        log.warning("lost the connection to %s", self.address)

    def close(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
        if self._root is not None:
            self._root.client.lost.remove_done_callback(self._lost)
            self._root.client.close()

    # -- operations -----------------------------------------------------------------
    # all raise NotFound, Stale when another file has taken the node's place, and the
    # server's own errors

    async def stat(self, node: Node, *names: str) -> Dir:
        """Of the node, or of what is below it."""
        stat: Dir = (await self._do(node, names, _tstat)).replies[0].stat
        return stat

    async def wstat(self, node: Node, change: Dir) -> Dir:
        """Change what is not "don't touch" in `change`; the stat after that."""

        def twstat(fid: int) -> _Request:
            return m.Twstat(0, fid, change), m.Rwstat

        stat: Dir = (await self._do(node, (), twstat, _tstat)).replies[1].stat
        return stat

    async def open(self, node: Node, mode: int) -> RemoteOpen:
        def topen(fid: int) -> _Request:
            return m.Topen(0, fid, mode), m.Ropen

        done = await self._do(node, (), topen, keep=True)
        return RemoteOpen(done.client, done.fid, done.replies[0].iounit)

    async def create(
        self, parent: Node, name: str, perm: int, mode: int
    ) -> tuple[RemoteOpen, Dir]:
        """Make and open a file; with its stat."""

        def tcreate(fid: int) -> _Request:
            return m.Tcreate(0, fid, name, perm, mode), m.Rcreate

        done = await self._do(parent, (), tcreate, _tstat, keep=True)
        created, stated = done.replies
        return RemoteOpen(done.client, done.fid, created.iounit), stated.stat

    async def remove(self, parent: Node, name: str) -> None:
        await self._do(parent, (name,), lambda fid: (m.Tremove(0, fid), m.Rremove))

    async def _do(
        self, node: Node, names: Path, *requests: _OnFid, keep: bool = False
    ) -> _Done:
        """Walk a new fid to `names` below `node` and send `requests` with it, all at once;
        unless it is to be kept for the caller it is clunked in the end."""
        root = await self.root()
        client = root.client
        path = (*node.path, *names)
        if not client.is_ours:
            return await self._do_in_turn(node, root, path, requests, keep)
        fid = client.new_fid()
        walks: list[asyncio.Future[m.Rwalk]] = []
        for at in range(0, max(len(path), 1), c.MAXWELEM):
            start = fid if walks else root.fid
            twalk = m.Twalk(0, start, fid, path[at : at + c.MAXWELEM])
            walks.append(client.call(twalk, m.Rwalk))
        calls = [client.call(*request(fid)) for request in requests]
        pending: list[asyncio.Future[Any]] = [*walks, *calls]
        kept = False
        try:
            _check_place(node, await _qids(walks, len(path)))
            replies = [await call for call in calls]
            kept = keep
        except asyncio.CancelledError:
            for call in pending:
                call.cancel()
            raise
        finally:
            for call in pending:
                call.add_done_callback(ignore)
            if not kept:
                client.forget(fid)
        return _Done(client, fid, replies)

    async def _do_in_turn(
        self, node: Node, root: Root, path: Path, requests: Sequence[_OnFid], keep: bool
    ) -> _Done:
        client = root.client
        fid, qids = await client.walk(root.fid, path)
        replies = []
        try:
            _check_place(node, qids)
            for request in requests:
                replies.append(await client.call(*request(fid)))
        except BaseException:
            client.forget(fid)
            raise
        if not keep:
            client.forget(fid)
        return _Done(client, fid, replies)


def _check_place(node: Node, qids: Sequence[Qid]) -> None:
    """Raises Stale when another file is at the node's place on the way that has these qids."""
    if node.path and qids[len(node.path) - 1].path != node.qid.path:
        raise Stale


async def _qids(walks: Sequence[asyncio.Future[m.Rwalk]], count: int) -> list[Qid]:
    """What was found along a path of `count` names, of which each walk but the last has
    MAXWELEM.  Raises NotFound if the path does not exist."""
    qids: list[Qid] = []
    for i, walk in enumerate(walks, 1):
        qids += (await walk).wqid
        if len(qids) < min(i * c.MAXWELEM, count):
            raise NotFound
    return qids


def _tstat(fid: int) -> _Request:
    return m.Tstat(0, fid), m.Rstat
