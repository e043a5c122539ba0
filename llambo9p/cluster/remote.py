"""Another server's tree inside ours: a mount, and files that pass everything on.

Fids are mapped one to one, tags by the client, and qid paths by putting the mount's
number into their upper bits, so that equal paths of two servers stay different
files here (9p.md, 16).  Payloads are passed on untouched and never collected.
When the server is lost every pending and later operation fails at once with
`WorkerLost` (17); nothing here waits for a server that is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from ..errors import Error, NotFound, WorkerLost
from ..fs.file import OpenFile
from ..fs.pending import Pending
from ..fs.tree import Directory, SyntheticFile, Tree, Uses, joined
from ..fs.user import numbers_of
from ..net.client import Client
from ..p9 import constants as c
from ..p9 import messages as m
from ..p9.dialects import P9_2000_L
from ..p9.node import Handle, Maybe, Node, Walk
from ..p9.relay import Way
from ..p9.wire import Dir, Qid, dont_touch

_T = TypeVar("_T")
_REMOTE_BITS = 40
"""of a qid.path are the remote server's; those above number the mount"""
_FIXED = 100_000
"""files of one server whose qid.path has more bits: each is remembered"""
_LISTING = 64 << 20
"""bytes of a listing"""
_AT_ONCE = 64
"""entries of one that are asked for at a time"""


class QidMap:
    """The qids of one remote server as ours."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._prefix = tree.mount_prefix(_REMOTE_BITS)
        self._fixed: dict[int, int] = {}
        """of the root, and of paths that do not fit beside the prefix"""

    def fix(self, remote: int, path: int) -> None:
        """Let the remote path be `path` here."""
        self._fixed[remote] = path

    def __call__(self, qid: Qid) -> Qid:
        path = self._fixed.get(qid.path)
        if path is None:
            if qid.path < 1 << _REMOTE_BITS:
                path = self._prefix | qid.path
            else:
                if len(self._fixed) >= _FIXED:
                    raise Error(f"more than {_FIXED} of its files have a qid.path over 2**40")
                path = self._fixed[qid.path] = self._tree.qid().path
        return Qid(qid.type, qid.vers, path)


class Mount(SyntheticFile):
    """The root of a mounted tree as one user sees it, a child of one of our directories.

    The connection, which other mounts may share, and a fid of its own are had when they
    are first needed.  `unmount` clunks the fid, when nobody `use`s it any more, and leaves
    the connection.
    """

    def __init__(
        self,
        tree: Tree,
        name: str,
        connect: Callable[[], Awaitable[Client]],
        uname: str,
        aname: str = "",
        refusal: Error | None = None,
        *,
        of_worker: bool = False,
        ours: bool = False,
    ) -> None:
        """With `of_worker`, `aname` names one worker of a host of ours, and nothing else is below
        it; other servers are `ours` if they are orchestrators or hosts.  A mount with a `refusal`
        is only there to be seen."""
        super().__init__(tree, name, c.DMDIR | 0o555, tree.qid(c.QTDIR))
        self.connect = connect
        """another one may be set as long as it is not attached"""
        self._client: Client | None = None
        self.of_worker = of_worker
        self.ours = ours or self.of_worker
        self.parent: Directory | None = None
        self.qids = QidMap(tree)
        self._uname = uname
        self._aname = aname
        self.refusal = refusal
        self._fid: int | None = None
        self._gone: Error | None = None
        """when it was unmounted"""
        self._uses = Uses(self._unused)
        self._uses.retain()

    @property
    def client(self) -> Client:
        """The connection; it is attached."""
        assert self._client is not None
        return self._client

    @property
    def attached(self) -> bool:
        return self._fid is not None

    @property
    def fid(self) -> int:
        """Of the remote root; it was attached.  Raises WorkerLost when it is unmounted."""
        if self._gone is not None and self._fid is None:
            raise self._gone.with_traceback(None)
        assert self._fid is not None
        return self._fid

    async def attach(self) -> None:
        """Make `fid`, if there is none.  Raises Error."""
        if self.attached:
            return
        refusal = self._gone or self.refusal
        if refusal is not None:
            raise refusal.with_traceback(None)
        client = await self.connect()
        fid, reply = await client.attach(self._uname, self._aname)
        if self._gone is not None:
            client.forget(fid)
            raise self._gone.with_traceback(None)
        if self._fid is None:
            self._client, self._fid = client, fid
            self.qids.fix(reply.qid.path, self.qid.path)
        else:
            client.forget(fid)  # somebody was faster

    def local(self, stat: Dir) -> Dir:
        """A stat of the other server's with our qid, and the numbers that its owner's
        name has on this machine."""
        n_uid, n_gid = numbers_of(stat.uid)
        return replace(stat, qid=self.qids(stat.qid), n_uid=n_uid, n_gid=n_gid, n_muid=n_uid)

    def walk(self, names: Sequence[str]) -> Maybe[Walk]:
        if self._fid is None:
            return self._attach_and_walk(names)
        return RemoteFile(self, self._fid, self.qid, ()).walk(names)

    async def _attach_and_walk(self, names: Sequence[str]) -> Walk:
        await self.attach()
        return await RemoteFile(self, self.fid, self.qid, ()).walk(names)

    def use(self) -> None:
        """`fid` is walked from until `unuse`."""
        self._uses.retain()

    def unuse(self) -> None:
        self._uses.release()

    def _unused(self) -> None:
        if self._fid is not None:
            self.client.forget(self._fid)
            self._fid = None  # the number may be another's from now on

    def unmount(self) -> None:
        self._gone = WorkerLost(f"{WorkerLost.ename}: {self.name} was unmounted")
        self.unuse()


class RemoteFile:
    """A fid on a remote server.  One for each fid of ours; see `fs.file.File`.

    `names` lead there from the mount's root; by them `..` knows when it leaves the mount.
    """

    __slots__ = ("_fid", "_gone", "_mount", "_names", "qid")

    def __init__(self, mount: Mount, fid: int, qid: Qid, names: tuple[str, ...]) -> None:
        self._mount = mount
        self._fid = fid
        self._names = names
        self._gone = False
        """the remote fid was clunked or removed"""
        self.qid = qid

    def walk(self, names: Sequence[str]) -> Awaitable[Walk]:
        there = list(self._names)
        for i, name in enumerate(names):
            if name != "..":
                there.append(name)
            elif there:
                there.pop()
            else:
                return self._walk_out(names[:i], names[i + 1 :])
        return self._walk_within(names, tuple(there))

    def _walk_within(self, names: Sequence[str], there: tuple[str, ...]) -> Pending[Walk]:
        client = self._mount.client
        newfid = client.new_fid()

        def walked(reply: m.Rwalk) -> Walk:
            if len(reply.wqid) > len(names):
                raise Error(f"{client.address} walked farther than it was asked to")
            qids = [self._mount.qids(qid) for qid in reply.wqid]
            if len(qids) < len(names):
                return Walk(qids, None, NotFound())
            last = qids[-1] if qids else self.qid
            return Walk(qids, RemoteFile(self._mount, newfid, last, there))

        reply: Pending[m.Rwalk] = client.ask(
            m.Twalk(0, self._fid, newfid, tuple(names)), m.Rwalk
        )
        walk: Pending[Walk] = Pending(reply.cancel)
        if not client.is_ours:  # what is asked of it ends before its fid is clunked
            walk.cancel = lambda: walk.fail(asyncio.CancelledError())

        def ended(reply: m.Rwalk, error: BaseException | None) -> None:
            found = None
            if error is None:
                try:
                    found = walked(reply)
                except Error as e:
                    error = e
            if found is None or found.file is None or walk.over:
                client.forget(newfid)  # whatever became of it, nobody got it
            if found is not None:
                walk.succeed(found)
            elif error is not None:
                walk.fail(error)

        reply.listen(ended)
        return walk

    def _walk_out(self, inside: Sequence[str], outside: Sequence[str]) -> Pending[Walk]:
        """A walk that leaves the mount: `inside` comes back to its root, the next
        name is `..`, and `outside` goes on from our directory."""
        parent = self._mount.parent
        assert parent is not None
        under_way = self._walk_within(inside, ())
        walk: Pending[Walk] = Pending(lambda: under_way.cancel())

        def ended(found: Walk, error: BaseException | None) -> None:
            if error is not None:
                walk.fail(error)
            else:
                walk.succeed(found)

        def back(within: Walk, error: BaseException | None) -> None:
            nonlocal under_way
            if error is not None or within.file is None:
                ended(within, error)
                return
            within.file.release(was_open=False)
            qids = [*within.qids, parent.qid]
            rest = parent.walk(outside)
            if isinstance(rest, Walk):
                walk.succeed(Walk([*qids, *rest.qids], rest.file, rest.error))
            else:
                under_way = joined(qids, rest)
                under_way.listen(ended)

        under_way.listen(back)
        return walk

    def open(self, mode: int) -> Maybe[OpenFile]:
        return self._mount.client.ask(
            m.Topen(0, self._fid, mode),
            m.Ropen,
            lambda reply: self._opened(reply.qid, reply.iounit, mode),
        )

    def _opened(self, qid: Qid, iounit: int, mode: int) -> OpenFile:
        self.qid = self._mount.qids(qid)
        room = self._mount.client.msize - c.IOHDRSZ
        return OpenRemote(self, min(iounit or room, room), mode & 3 in (c.OWRITE, c.ORDWR))

    def create(self, name: str, perm: int, mode: int) -> Maybe[tuple[Node, OpenFile]]:
        def created(reply: m.Rcreate) -> tuple[Node, OpenFile]:
            self._gone = True  # the remote fid is the new file's now
            qid = self._mount.qids(reply.qid)
            made = RemoteFile(self._mount, self._fid, qid, (*self._names, name))
            return made, made._opened(reply.qid, reply.iounit, mode)

        tcreate = m.Tcreate(0, self._fid, name, perm, mode)
        return self._mount.client.ask(tcreate, m.Rcreate, created)

    def remove(self) -> Maybe[None]:
        self._gone = True
        return self._mount.client.remove(self._fid)

    def stat(self) -> Maybe[Dir]:
        return self._mount.client.ask(
            m.Tstat(0, self._fid), m.Rstat, lambda reply: self._mapped(reply.stat)
        )

    def _mapped(self, stat: Dir) -> Dir:
        # of 9P2000.L a stat has no name
        name = (stat.name or self._names[-1]) if self._names else self._mount.name
        return self._mount.local(replace(stat, name=name))

    def wstat(self, stat: Dir, handle: Handle | None) -> Maybe[None]:
        return self._mount.client.ask(
            m.Twstat(0, self._fid, stat), m.Rwstat, lambda reply: None
        )

    def opened(self) -> None:
        """Nothing is counted: the remote fid is ours alone."""

    def release(self, was_open: bool) -> None:
        if not self._gone:
            self._gone = True
            self._mount.client.forget(self._fid)

    def drop(self, writable: bool) -> None:
        """The client went without a clunk: what it wrote must not be submitted.

        Servers of ours remove nothing that is open for writing, and Tremove only ends the
        fid; any other might obey, and gets Tclunk.
        """
        if writable and self._mount.ours and not self._gone:
            self._gone = True
            self._mount.client.remove(self._fid)
        else:
            self.release(was_open=True)

    # -- open ---------------------------------------------------------------------

    def way(self, iounit: int) -> Way:
        return Way(self._mount.client, self._fid.to_bytes(4, "little"), iounit)

    def read(self, offset: int, count: int) -> Pending[bytes]:
        return self._mount.client.ask(m.Tread(0, self._fid, offset, count), m.Rread, _data)

    async def readdir(self, count: int) -> list[Dir]:
        """All entries that have a name which a file can have, and whose names differ."""
        client = self._mount.client
        listing = await client.read_dir(self._fid, count, _LISTING)
        entries = {entry.name: entry for entry in listing if _may_be(entry.name)}
        found = list(entries.values())
        if client.dialect is P9_2000_L:  # whose listings have not all that ours need
            for at in range(0, len(found), _AT_ONCE):
                some = found[at : at + _AT_ONCE]
                found[at : at + _AT_ONCE] = await asyncio.gather(*map(self._looked_at, some))
        return [self._mount.local(entry) for entry in found]

    async def _looked_at(self, entry: Dir) -> Dir:
        """The stat of an entry of this directory; the entry itself when it has none."""
        client = self._mount.client
        try:
            fid, _ = await client.walk(self._mount.fid, (*self._names, entry.name))
        except Error:
            return entry
        try:
            stat = (await client.call(m.Tstat(0, fid), m.Rstat)).stat
        except Error:
            return entry
        finally:
            client.forget(fid)
        return replace(stat, name=entry.name)

    def write(self, offset: int, data: bytes) -> Pending[int]:
        return self._mount.client.ask(m.Twrite(0, self._fid, offset, data), m.Rwrite, _count)

    def sync(self) -> Maybe[None]:
        return self.wstat(dont_touch(), None)

    def clunk(self) -> Pending[None]:
        self._gone = True
        return self._mount.client.clunk(self._fid)

    def __repr__(self) -> str:
        return f"<RemoteFile fid {self._fid} of {self._mount.name}>"


class OpenRemote(OpenFile):
    """An open remote fid.  `iounit` is what the remote takes in one message."""

    __slots__ = ("_file", "_iounit", "_writable", "way")

    def __init__(self, file: RemoteFile, iounit: int, writable: bool) -> None:
        self._file = file
        self._iounit = iounit
        self._writable = writable
        self.way = file.way(iounit)
        """see `p9.relay`"""

    def read(self, offset: int, count: int) -> Maybe[bytes]:
        return self._file.read(offset, min(count, self._iounit))

    def readdir(self) -> Maybe[Sequence[Dir]]:
        return self._file.readdir(self._iounit)

    def write(self, offset: int, data: bytes) -> Maybe[int]:
        if len(data) <= self._iounit:
            return self._file.write(offset, data)
        return self._write_pieces(offset, data)

    async def _write_pieces(self, offset: int, data: bytes) -> int:
        """A remote with a smaller msize than ours gets the data in its own pieces."""
        done = 0
        while done < len(data):
            piece = data[done : done + self._iounit]
            count = await self._file.write(offset + done, piece)
            done += count
            if count < len(piece):
                break
        return done

    def sync(self) -> Maybe[None]:
        return self._file.sync()

    def clunk(self) -> Maybe[None]:
        return self._file.clunk()

    def drop(self) -> None:
        self._file.drop(self._writable)


def _may_be(name: str) -> bool:
    """Whether a file can have the name (intro(5))."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _data(reply: m.Rread) -> bytes:
    return reply.data


def _count(reply: m.Rwrite) -> int:
    return reply.count
