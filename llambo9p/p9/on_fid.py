"""The messages of 9P2000 on a fid, said in terms of its file.

Owns what each of them checks and what it makes of a `Node` and a `Handle`; those that only
9P2000.L has are in `dotl`.  Each handler is called by `ServerConn` with a fid that is known
and not busy, and gives the reply; None when it comes later.

Rules kept here:

- Tclunk frees the fid at once, whether or not the file's clunk succeeds.
- Tremove of a fid that is open for writing is refused, and drops what was written: by it an
  orchestrator tells that its client went without a Tclunk.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import errors
from . import constants as c
from . import messages as m
from .fid import DirCursor, Fid, check_name, confine, packed
from .node import Handle, Node, Walk
from .wire import Dir, Qid

if TYPE_CHECKING:
    from .server import ServerConn

_TREAD = struct.Struct("<IBHIQI")
"""size[4] type[1] tag[2] fid[4] offset[8] count[4]"""
_RREAD = struct.Struct("<IBHI")
"""size[4] type[1] tag[2] count[4], before the data"""
_unpack_tread, _pack_rread = _TREAD.unpack, _RREAD.pack

Handler = Callable[["ServerConn", Any, Fid], m.Message | None]


def _walk(conn: ServerConn, msg: m.Twalk, fid: Fid) -> m.Message | None:
    assert fid.node is not None
    if any(not name or "/" in name for name in msg.wname):
        raise errors.NotFound
    in_place = msg.newfid == msg.fid
    if in_place and fid.handle is not None:
        raise errors.InUse("an open fid cannot be walked in place")
    target = fid if in_place else conn.fids.make(msg.newfid)

    names, depth, at_root = confine(msg.wname, fid.depth)

    def commit(walk: Walk) -> m.Message:
        qids = list(walk.qids)
        for i in at_root:
            if i <= len(qids) and fid.root is not None:
                qids.insert(i, fid.root)
        if walk.file is None:
            if not in_place:
                conn.fids.pop(msg.newfid, None)
            if not qids or len(qids) == len(msg.wname):
                raise walk.error or errors.NotFound()
            return m.Rwalk(msg.tag, tuple(qids))
        if target.node is not None:  # in place: the file walked from is left
            target.node.release(was_open=False)
        target.node = walk.file
        target.root, target.depth = fid.root, depth
        return m.Rwalk(msg.tag, tuple(qids))

    def undo(walk: Walk) -> None:
        if walk.file is not None:
            walk.file.release(was_open=False)

    try:
        result = fid.node.walk(names)
        if isinstance(result, Walk):
            return commit(result)
        conn.later(msg, target, result, commit, undo, busy=True)
    except Exception:
        if not in_place:
            conn.fids.pop(msg.newfid, None)
        raise
    return None


def _check_openable(fid: Fid, mode: int) -> Node:
    assert fid.node is not None
    if fid.handle is not None:
        raise errors.InUse("fid is open already")
    if mode & ~(3 | c.OTRUNC | c.ORCLOSE | c.OAPPEND):
        raise errors.InvalidArgument(f"open mode {mode:#x} is not known")
    if mode & c.ORCLOSE:
        raise errors.PermissionDenied
    return fid.node


def _open(conn: ServerConn, msg: m.Topen, fid: Fid) -> m.Message | None:
    return open_fid(conn, msg, fid, msg.mode, m.Ropen)


def open_fid(
    conn: ServerConn,
    msg: m.Message,
    fid: Fid,
    mode: int,
    reply: Callable[[int, Qid, int], m.Message],
) -> m.Message | None:
    """Open `fid` with Topen's `mode`; `reply` gets tag, qid and iounit."""
    node = _check_openable(fid, mode)
    if node.qid.type & c.QTDIR and mode & (3 | c.OTRUNC) != c.OREAD:
        raise errors.IsDirectory

    def commit(handle: Handle) -> m.Message:
        return reply(msg.tag, *conn.opened(fid, handle, mode))

    def abandon() -> None:
        node.release(was_open=False)

    return conn.answer(
        msg, fid, node.open(mode), commit, undo=_drop, abandon=abandon, busy=True
    )


def _create(conn: ServerConn, msg: m.Tcreate, fid: Fid) -> m.Message | None:
    return create_file(conn, msg, fid, msg.name, msg.perm, msg.mode, m.Rcreate)


def create_file(
    conn: ServerConn,
    msg: m.Message,
    fid: Fid,
    name: str,
    perm: int,
    mode: int,
    reply: Callable[[int, Qid, int], m.Message],
) -> m.Message | None:
    """Make the file `name` in the directory `fid`, which then is that file, open."""
    node = _check_openable(fid, mode)
    check_name(node, name)

    def commit(made: tuple[Node, Handle]) -> m.Message:
        node.release(was_open=False)
        fid.node = made[0]
        return reply(msg.tag, *conn.opened(fid, made[1], mode))

    made = node.create(name, perm, mode)
    return conn.answer(msg, fid, made, commit, undo=give_back, busy=True)


def give_back(made: tuple[Node, Handle]) -> None:
    """A file that was created, and that nobody has open."""
    node, handle = made
    handle.drop()
    node.release(was_open=False)


def _read(conn: ServerConn, msg: m.Tread, fid: Fid) -> m.Message | None:
    handle = fid.handle
    if handle is None or fid.mode == c.OWRITE:
        raise errors.PermissionDenied("fid is not open for reading")
    count = min(msg.count, conn.msize - c.READHDRSZ)
    if count == 0:
        return m.Rread(msg.tag, b"")
    assert fid.node is not None
    if fid.node.qid.type & c.QTDIR:
        if conn.dialect.has_readdir:
            raise errors.IsDirectory
        return _read_dir(conn, msg, fid, handle, count)
    if fid.far and not conn.relays.has_room:
        conn.relays.hold(msg, fid)
        return None
    result = handle.read(msg.offset, count)
    if isinstance(result, bytes):
        return m.Rread(msg.tag, result)
    request = conn.later(msg, fid, result, lambda data: m.Rread(msg.tag, data))
    if fid.far:
        conn.relays.promise(request, count)
    return None


def read_at_once(conn: ServerConn, frame: bytes) -> bool:
    """Answer the frame of a Tread as `_read` would, without making messages of what comes and
    goes; whether that could be done.  Most reads are so: of a file that is open, and under a tag
    that is free."""
    if len(frame) != _TREAD.size:
        return False
    _, _, tag, number, offset, count = _unpack_tread(frame)
    fid = conn.fids.get(number)
    if fid is None or not fid.near or fid.busy is not None:
        return False
    requests = conn.requests
    if tag in requests or len(requests) >= conn.room_for or not 0 < count <= conn.msize:
        return False
    assert fid.handle is not None
    try:
        result = fid.handle.read(offset, min(count, conn.msize - c.READHDRSZ))
        if isinstance(result, bytes):
            size = len(result)
            reply = _pack_rread(_RREAD.size + size, m.Rread.number, tag, size) + result
            conn.put(reply if len(reply) <= conn.msize else conn.too_long(tag, reply))
        else:
            msg = m.Tread(tag, number, offset, count)
            conn.later(msg, fid, result, lambda data: m.Rread(tag, data))
    except Exception as e:
        conn.refuse(tag, fid, e)
    return True


def _read_dir(
    conn: ServerConn, msg: m.Tread, fid: Fid, handle: Handle, count: int
) -> m.Message | None:
    if msg.offset != 0:
        if fid.cursor is None or fid.cursor.offset != msg.offset:
            raise errors.InvalidArgument("bad offset in directory read")
        return m.Rread(msg.tag, fid.cursor.take(count))

    def commit(entries: Sequence[Dir]) -> m.Message:
        listing = packed(entries, conn.dialect.pack_dirs)
        conn.fids.load(fid, sum(map(len, listing)))
        fid.cursor = DirCursor(listing)
        return m.Rread(msg.tag, fid.cursor.take(count))

    return conn.answer(msg, fid, handle.readdir(), commit, busy=True)


def _write(conn: ServerConn, msg: m.Twrite, fid: Fid) -> m.Message | None:
    if fid.handle is None or fid.mode not in (c.OWRITE, c.ORDWR):
        raise errors.PermissionDenied("fid is not open for writing")
    result = fid.handle.write(msg.offset, msg.data)
    if isinstance(result, int):
        return m.Rwrite(msg.tag, result)
    conn.later(msg, fid, result, lambda count: m.Rwrite(msg.tag, count))
    return None


def _clunk(conn: ServerConn, msg: m.Tclunk, fid: Fid) -> m.Message | None:
    assert fid.node is not None
    conn.end_fid(fid)
    end = partial(fid.node.release, was_open=fid.handle is not None)
    if fid.handle is None:
        end()
        return m.Rclunk(msg.tag)
    try:
        result = fid.handle.clunk()
    except BaseException:
        end()
        raise
    if result is None:
        end()
        return m.Rclunk(msg.tag)
    clunked = _and_then(result, end)
    conn.later(msg, None, clunked, lambda _: m.Rclunk(msg.tag), cancellable=False)
    return None


def _remove(conn: ServerConn, msg: m.Tremove, fid: Fid) -> m.Message | None:
    assert fid.node is not None
    conn.end_fid(fid)
    node, handle = fid.node, fid.handle

    def end() -> None:
        if handle is not None:
            handle.drop()
        node.release(was_open=handle is not None)

    if fid.mode in (c.OWRITE, c.ORDWR):
        end()
        raise errors.InUse(f"{errors.InUse.ename}: it is open for writing")
    try:
        result = node.remove()
    except BaseException:
        end()
        raise
    if result is None:
        end()
        return m.Rremove(msg.tag)
    removed = _and_then(result, end)
    conn.later(msg, None, removed, lambda _: m.Rremove(msg.tag), cancellable=False)
    return None


def _stat(conn: ServerConn, msg: m.Tstat, fid: Fid) -> m.Message | None:
    assert fid.node is not None

    def commit(stat: Dir) -> m.Message:
        return conn.dialect.of(m.Rstat(msg.tag, stat))

    result = fid.node.stat()
    if isinstance(result, Dir):
        return commit(result)
    conn.later(msg, fid, result, commit)
    return None


def _wstat(conn: ServerConn, msg: m.Twstat, fid: Fid) -> m.Message | None:
    assert fid.node is not None
    changing = fid.node.wstat(msg.stat, fid.handle)
    return conn.answer(msg, fid, changing, lambda _: m.Rwstat(msg.tag))


def _drop(handle: Handle) -> None:
    handle.drop()


async def _and_then(waiting: Awaitable[None], end: Callable[[], None]) -> None:
    try:
        await waiting
    finally:
        end()


ON_FID: dict[int, Handler] = {
    m.Twalk.number: _walk,
    m.Topen.number: _open,
    m.Tcreate.number: _create,
    m.Tread.number: _read,
    m.Twrite.number: _write,
    m.Tclunk.number: _clunk,
    m.Tremove.number: _remove,
    m.Tstat.number: _stat,
    m.Twstat.number: _wstat,
}
"""by message number; the fid is the message's first field"""
