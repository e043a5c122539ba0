"""Between /dev/fuse and a 9P server: each request of the kernel as 9P requests.

Rules it keeps:
- Requests are begun in the order in which they were read; what must wait waits in a task
  of its own, so that a blocked read blocks nothing else.
- Every request is answered once.  INTERRUPT cancels the task: what it asked the server
  is flushed, and EINTR is its answer.  (Even a killed process waits in the kernel for
  that answer.)
- Nothing is cached but a listing, for a second: `ls -l` needs no more than the directory.
- A fid is clunked by RELEASE, which comes once an open file.  RELEASE is asynchronous, but
  the kernel queues it before the closing process can go on, so it is read before whatever
  that process asks next; an OPEN then waits for the clunks under way in its directory, and
  `echo x > prompt; cat out` finds its prompt submitted.
- close(2) tells what FLUSH answers, which comes with the close of each copy, and never what
  RELEASE does.  So a FLUSH by the thread that opened the file, after a write, is a sync: it
  finds out whether what was written would be refused.  A shell's `>` closes a copy before
  anything is written, and its children close theirs.
- Reads are direct and give what is there.  READ's size is never below what one Rread
  holds, unless the reader asked for less; so a full Rread never looks like a part to the
  kernel, which would read on and block.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
from collections.abc import Callable, Coroutine
from typing import Any

from ..errors import Error, NotFound, NotPermitted
from ..net.client import RemoteOpen, ignore
from ..p9 import constants as c
from ..p9.wire import Dir, Qid, dont_touch
from . import fuse
from .attachment import Attachment
from .fuse import Opcode
from .nodes import Node, Nodes, Path

log = logging.getLogger(__name__)

_A_TURN = 64
"""requests read before the loop looks at the server's connection again"""
_LISTED_S = 1
"""how long the kernel may believe what a listing said of an entry"""
_BLOCK = 4096
_NAME_MAX = 255


class _Open:
    """What a file handle stands for."""

    __slots__ = ("entries", "file", "node", "opener", "written")

    def __init__(self, node: Node, file: RemoteOpen, opener: int) -> None:
        self.node = node
        self.file = file
        self.opener = opener
        """the thread that opened it"""
        self.written = False
        """since the last sync"""
        self.entries: list[Dir] = []
        """of a directory, as it was when it was last read from its start"""


class Bridge:
    """One mount.  `device` is its /dev/fuse; files without an owner are `uid`'s."""

    def __init__(self, device: int, attachment: Attachment, root: Qid, uid: int, gid: int) -> None:
        self.ready = asyncio.Event()
        """the kernel and we have agreed on a version"""
        self._device = device
        self._attachment = attachment
        self._nodes = Nodes(root)
        self._uid = uid
        self._gid = gid
        self._opens: dict[int, _Open] = {}
        self._next_fh = 1
        self._tasks: dict[int, asyncio.Task[None]] = {}
        """by the request's `unique`"""
        self._clunks: dict[Path, set[asyncio.Future[Any]]] = {}
        """under way, by directory"""
        self._buffer = bytearray(fuse.REQUEST_SIZE)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serve until the file system is unmounted.  Raises Error if it ends otherwise."""
        loop = asyncio.get_running_loop()
        os.set_blocking(self._device, False)
        loop.add_reader(self._device, self._readable)
        try:
            await self._ended
        finally:
            loop.remove_reader(self._device)
            for task in self._tasks.values():
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks.values())

    # -- requests and replies -------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(_A_TURN):
            try:
                size = os.readv(self._device, [self._buffer])
            except OSError as e:
                if e.errno in (errno.ENOENT, errno.EINTR):  # a request was interrupted
                    continue
                if e.errno == errno.ENODEV:  # unmounted
                    self._end(None)
                elif e.errno != errno.EAGAIN:
                    self._end(Error(f"the kernel ended the mount: {e.strerror}"))
                return
            try:
                self._take(fuse.unpack(bytes(self._buffer[:size])))
            except fuse.BadRequest as e:
                self._end(Error(str(e)))
                return

    def _end(self, error: Error | None) -> None:
        asyncio.get_running_loop().remove_reader(self._device)
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    def _take(self, request: fuse.Request) -> None:
        match request:
            case fuse.Forget():
                self._nodes.forget(request.nodeid, request.nlookup)
            case fuse.BatchForget():
                for nodeid, nlookup in request.items:
                    self._nodes.forget(nodeid, nlookup)
            case fuse.Interrupt():
                if task := self._tasks.get(request.target):
                    # later: a task cancelled before its first step would answer nothing
                    asyncio.get_running_loop().call_soon(task.cancel)
            case fuse.Init():
                self._reply(fuse.reply(request.unique, fuse.init_out(request).pack()))
                self.ready.set()
            case fuse.Release():
                self._release(request.fh)
                self._reply(fuse.reply(request.unique))
            case _ if request.opcode == Opcode.STATFS:
                self._reply(fuse.reply(request.unique, _STATFS))
            case _ if (serve := _SERVE.get(request.opcode)) is not None:
                self._tasks[request.unique] = asyncio.create_task(self._serve(request, serve))
            case _:
                self._reply(fuse.error(request.unique, _refusal(request.opcode)))

    async def _serve(self, request: fuse.Request, serve: _Serve) -> None:
        try:
            reply = fuse.reply(request.unique, await serve(self, request))
        except Error as e:
            reply = fuse.error(request.unique, e.errno)
        except asyncio.CancelledError:
            reply = fuse.error(request.unique, errno.EINTR)
        except Exception:
            log.exception("request %s failed", request)
            reply = fuse.error(request.unique, errno.EIO)
        del self._tasks[request.unique]
        self._reply(reply)

    def _reply(self, data: bytes) -> None:
        try:
            os.write(self._device, data)
        except OSError as e:
            # ENOENT: nobody waits any more; ENODEV: unmounted meanwhile
            if e.errno not in (errno.ENOENT, errno.ENODEV):
                log.error("the kernel refuses a reply: %s", e)

    # -- names and attributes -------------------------------------------------------

    async def _lookup(self, request: fuse.OfName) -> bytes:
        parent, path = self._child(request)
        return self._entry(path, await self._attachment.stat(parent, request.name)).pack()

    async def _getattr(self, request: fuse.Request) -> bytes:
        return self._attr_out(await self._attachment.stat(self._nodes[request.nodeid]))

    async def _setattr(self, request: fuse.Setattr) -> bytes:
        if request.valid & (fuse.FATTR_UID | fuse.FATTR_GID):
            raise NotPermitted
        node = self._nodes[request.nodeid]
        wanted = dont_touch()
        if request.valid & fuse.FATTR_MODE:
            wanted.mode = request.mode & 0o777 | (c.DMDIR if node.qid.type & c.QTDIR else 0)
        if request.valid & fuse.FATTR_SIZE:
            wanted.length = request.size
        if request.valid & fuse.FATTR_ATIME:
            wanted.atime = request.atime & c.DONT_TOUCH_32
        if request.valid & fuse.FATTR_MTIME:
            wanted.mtime = request.mtime & c.DONT_TOUCH_32
        opened = self._opens[request.fh] if request.valid & fuse.FATTR_FH else None
        if opened is None:
            return self._attr_out(await self._attachment.wstat(node, wanted))
        await opened.file.wstat(wanted)
        return self._attr_out(await self._attachment.stat(node))

    async def _mkdir(self, request: fuse.Mkdir) -> bytes:
        perm = c.DMDIR | request.mode & 0o777
        path, file, made = await self._make(request, perm, c.OREAD)
        file.forget()
        return self._entry(path, made).pack()

    async def _remove(self, request: fuse.OfName) -> bytes:
        parent, _ = self._child(request)
        await self._attachment.remove(parent, request.name)
        return b""

    def _child(self, request: fuse.OfName | fuse.Mkdir | fuse.Create) -> tuple[Node, Path]:
        """The request's directory, and where its name is.  Raises NotFound for a name that
        9P cannot say."""
        try:
            request.name.encode()
        except UnicodeEncodeError:
            raise NotFound from None
        parent = self._nodes[request.nodeid]
        return parent, (*parent.path, request.name)

    def _entry(self, path: Path, found: Dir, believe: int = 0) -> fuse.EntryOut:
        """Tell the kernel of a file, which counts as a lookup."""
        node = self._nodes.looked_up(path, found.qid)
        return fuse.EntryOut(
            nodeid=node.nodeid, entry_valid=believe, attr_valid=believe, attr=self._attr(found)
        )

    def _attr_out(self, found: Dir) -> bytes:
        return fuse.AttrOut(attr=self._attr(found)).pack()

    def _attr(self, found: Dir) -> fuse.Attr:
        kind = stat.S_IFDIR if found.mode & c.DMDIR else stat.S_IFREG
        return fuse.Attr(
            ino=found.qid.path,
            size=found.length,
            blocks=-(-found.length // 512),
            atime=found.atime,
            mtime=found.mtime,
            ctime=found.mtime,
            mode=kind | found.mode & 0o777,
            uid=self._uid if found.n_uid == c.NONUNAME else found.n_uid,
            gid=self._gid if found.n_gid == c.NONUNAME else found.n_gid,
            blksize=_BLOCK,
        )

    # -- open files -----------------------------------------------------------------

    async def _open(self, request: fuse.Open) -> bytes:
        node = self._nodes[request.nodeid]
        await self._clunked(node.path[:-1])
        file = await self._attachment.open(node, _mode(request.flags))
        return self._opened(node, file, request)

    async def _create(self, request: fuse.Create) -> bytes:
        mode = _mode(request.flags)
        path, file, made = await self._make(request, request.mode & 0o777, mode)
        entry = self._entry(path, made)
        return entry.pack() + self._opened(self._nodes[entry.nodeid], file, request)

    async def _make(
        self, request: fuse.Mkdir | fuse.Create, perm: int, mode: int
    ) -> tuple[Path, RemoteOpen, Dir]:
        parent, path = self._child(request)
        return path, *await self._attachment.create(parent, request.name, perm, mode)

    def _opened(self, node: Node, file: RemoteOpen, request: fuse.Request) -> bytes:
        fh = self._next_fh
        self._next_fh += 1
        self._opens[fh] = _Open(node, file, request.pid)
        return fuse.OpenOut(fh=fh, open_flags=fuse.FOPEN_DIRECT_IO).pack()

    async def _read(self, request: fuse.Read) -> bytes:
        data = await self._opens[request.fh].file.read(request.offset, request.size)
        return data[: request.size]  # a reply with more would be refused, and its reader hang

    async def _write(self, request: fuse.Write) -> bytes:
        opened = self._opens[request.fh]
        opened.written = True
        await opened.file.write(request.data, request.offset)
        return fuse.WriteOut(size=len(request.data)).pack()

    async def _flush(self, request: fuse.Flush) -> bytes:
        opened = self._opens[request.fh]
        if opened.written and request.pid == opened.opener:
            opened.written = False
            if opened.file.is_ours:  # others may refuse a Twstat that changes nothing
                await opened.file.sync()
        return b""

    async def _fsync(self, request: fuse.Fsync) -> bytes:
        await self._opens[request.fh].file.sync()
        return b""

    def _release(self, fh: int) -> None:
        opened = self._opens.pop(fh)
        clunk = opened.file.clunk()
        directory = opened.node.path[:-1]
        under_way = self._clunks.setdefault(directory, set())
        under_way.add(clunk)

        def ended(clunk: asyncio.Future[Any]) -> None:
            ignore(clunk)  # close(2) has returned: `status` shows the error
            under_way.discard(clunk)
            if not under_way and self._clunks.get(directory) is under_way:
                del self._clunks[directory]

        clunk.add_done_callback(ended)

    async def _clunked(self, directory: Path) -> None:
        """Until the clunks that are now under way in `directory` are answered."""
        if under_way := self._clunks.get(directory):
            await asyncio.wait(set(under_way))

    # -- directories ----------------------------------------------------------------

    async def _readdir(self, request: fuse.Read) -> bytes:
        opened = self._opens[request.fh]
        if request.offset == 0:
            here = opened.node.qid
            dots = [Dir(name, here, c.DMDIR) for name in (".", "..")]
            opened.entries = dots + await opened.file.read_dir()
        plus = request.opcode == Opcode.READDIRPLUS
        out: list[bytes] = []
        room = request.size
        for i in range(request.offset, len(opened.entries)):
            entry = opened.entries[i]
            record = fuse.Dirent(
                ino=entry.qid.path,
                off=i + 1,
                type=_DT_DIR if entry.mode & c.DMDIR else _DT_REG,
                name=entry.name.encode(),
            ).pack()
            room -= len(record) + (fuse.EntryOut.SIZE if plus else 0)
            if room < 0:
                break
            if plus:
                out.append(self._listed(opened.node, entry))
            out.append(record)
        return b"".join(out)

    def _listed(self, directory: Node, entry: Dir) -> bytes:
        """A listing's entry as the kernel would have looked it up."""
        if entry.name in (".", ".."):
            return bytes(fuse.EntryOut.SIZE)  # the kernel takes node 0 for nothing to keep
        believe = _LISTED_S if self._attachment.lists_stats else 0
        return self._entry((*directory.path, entry.name), entry, believe).pack()


def _mode(flags: int) -> int:
    """Topen's mode for open(2)'s flags.  An append is a write: the offset that the kernel
    gives it is one that ctl files ignore."""
    return flags & os.O_ACCMODE | (c.OTRUNC if flags & os.O_TRUNC else 0)


def _refusal(opcode: int) -> int:
    """The errno for a request that is not served.

    After ENOSYS the kernel answers for itself and asks no more, which is right for what it
    can do without us (ACCESS, polls, seeks) and for extended attributes;
    not for what a 9P tree does not have.
    """
    match opcode:
        case Opcode.SYMLINK | Opcode.MKNOD | Opcode.RENAME | Opcode.RENAME2 | Opcode.LINK:
            return errno.EPERM
        case Opcode.READLINK:
            return errno.EINVAL
        case _:
            return errno.ENOSYS


_DT_DIR, _DT_REG = stat.S_IFDIR >> 12, stat.S_IFREG >> 12
_STATFS = fuse.StatfsOut(bsize=_BLOCK, frsize=_BLOCK, namelen=_NAME_MAX).pack()
"""9P2000 has no statfs; a tree of synthetic files has no blocks"""

_Serve = Callable[[Bridge, Any], Coroutine[Any, Any, bytes]]
"""gives what follows the header of a request's reply; it may wait"""
_SERVE: dict[int, _Serve] = {
    Opcode.LOOKUP: Bridge._lookup,
    Opcode.GETATTR: Bridge._getattr,
    Opcode.SETATTR: Bridge._setattr,
    Opcode.MKDIR: Bridge._mkdir,
    Opcode.UNLINK: Bridge._remove,
    Opcode.RMDIR: Bridge._remove,
    Opcode.CREATE: Bridge._create,
    Opcode.OPEN: Bridge._open,
    Opcode.OPENDIR: Bridge._open,
    Opcode.READ: Bridge._read,
    Opcode.WRITE: Bridge._write,
    Opcode.FLUSH: Bridge._flush,
    Opcode.FSYNC: Bridge._fsync,
    Opcode.READDIR: Bridge._readdir,
    Opcode.READDIRPLUS: Bridge._readdir,
}
