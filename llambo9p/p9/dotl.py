"""The messages of 9P2000.L, said in terms of the same files as 9P2000's.

Owns how Linux's flags, modes and masks map to 9P's, and what a synthetic tree answers
to a POSIX file system's questions: links, device files and renames are not permitted,
extended attributes and locks are not supported (Linux then goes on without).  Each
handler is called by `ServerConn` with a fid that is known and not busy.

Source: diod's protocol.md; Linux's include/net/9p/9p.h and fs/9p.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from .. import errors
from . import constants as c
from . import dialects as d
from .fid import Fid, check_name, packed, whole
from .messages import Message
from .node import Handle, Node, Walk
from .on_fid import Handler, create_file, give_back, open_fid
from .wire import Dir, dont_touch

if TYPE_CHECKING:
    from .server import ServerConn

# flags of Tlopen and Tlcreate: Linux's O_*, as numbers because Python's differ elsewhere
O_ACCMODE = 0o3
O_TRUNC = 0o1000

GETATTR_BASIC = 0x7FF
"""Tgetattr.request_mask: all that stat(2) shows; btime, gen and data_version are not"""

# Tsetattr.valid
SETATTR_MODE = 0x1
SETATTR_UID = 0x2
SETATTR_GID = 0x4
SETATTR_SIZE = 0x8

MAGIC = 0x0102_1997
"""statfs(2).f_type of 9P"""
BLOCK = 4096
NAME_MAX = 255

ENTRY = struct.Struct("<BIQQBH")
"""of Rreaddir: qid[13] offset[8] type[1] name[s]"""
DT_DIR, _DT_REG = 4, 8


def _mode(flags: int) -> int:
    """Topen's mode for Linux's open flags; those that mean nothing here are ignored."""
    return flags & O_ACCMODE | (c.OTRUNC if flags & O_TRUNC else 0)


def _lopen(conn: ServerConn, msg: d.Tlopen, fid: Fid) -> Message | None:
    return open_fid(conn, msg, fid, _mode(msg.flags), d.Rlopen)


def _lcreate(conn: ServerConn, msg: d.Tlcreate, fid: Fid) -> Message | None:
    return create_file(conn, msg, fid, msg.name, msg.mode & 0o777, _mode(msg.flags), d.Rlcreate)


def _getattr(conn: ServerConn, msg: d.Tgetattr, fid: Fid) -> Message | None:
    assert fid.node is not None

    def commit(of: Dir) -> Message:
        directory = of.mode & c.DMDIR
        kind = stat.S_IFDIR if directory else stat.S_IFREG
        return d.Rgetattr(
            msg.tag,
            valid=msg.request_mask & GETATTR_BASIC,
            qid=of.qid,
            mode=kind | of.mode & 0o777,
            uid=of.n_uid,
            gid=of.n_gid,
            nlink=2 if directory else 1,
            rdev=0,
            size=of.length,
            blksize=BLOCK,
            blocks=-(-of.length // 512),
            atime_sec=of.atime,
            atime_nsec=0,
            mtime_sec=of.mtime,
            mtime_nsec=0,
            ctime_sec=of.mtime,
            ctime_nsec=0,
            btime_sec=0,
            btime_nsec=0,
            gen=0,
            data_version=0,
        )

    return conn.answer(msg, fid, fid.node.stat(), commit)


def _setattr(conn: ServerConn, msg: d.Tsetattr, fid: Fid) -> Message | None:
    """As the wstat that asks for the same; times are the server's own."""
    assert fid.node is not None
    if msg.valid & (SETATTR_UID | SETATTR_GID):
        raise errors.NotPermitted
    wanted = dont_touch()
    if msg.valid & SETATTR_MODE:
        wanted.mode = msg.mode & 0o777
    if msg.valid & SETATTR_SIZE:
        wanted.length = msg.size
    if wanted == dont_touch():
        return d.Rsetattr(msg.tag)  # as a wstat it would be a sync
    changing = fid.node.wstat(wanted, fid.handle)
    return conn.answer(msg, fid, changing, lambda _: d.Rsetattr(msg.tag))


def _readdir(conn: ServerConn, msg: d.Treaddir, fid: Fid) -> Message | None:
    """An entry's offset is its place in the listing that was made at offset 0."""
    if fid.handle is None or fid.node is None or not fid.node.qid.type & c.QTDIR:
        raise errors.InvalidArgument("fid is not an open directory")
    room = min(msg.count, conn.msize - c.READHDRSZ)

    def take(entries: Sequence[bytes]) -> Message:
        fid.entries = entries
        return d.Rreaddir(msg.tag, b"".join(whole(entries, msg.offset, room)))

    if msg.offset and fid.entries is not None:
        return take(fid.entries)

    def commit(entries: Sequence[Dir]) -> Message:
        listing = packed(entries, _entries)
        conn.fids.load(fid, sum(map(len, listing)))
        return take(listing)

    return conn.answer(msg, fid, fid.handle.readdir(), commit, busy=True)


def _entries(listing: Sequence[Dir]) -> list[bytes]:
    return [_entry(of, offset) for offset, of in enumerate(listing, 1)]


def _entry(of: Dir, offset: int) -> bytes:
    name = of.name.encode()
    kind = DT_DIR if of.mode & c.DMDIR else _DT_REG
    return ENTRY.pack(*of.qid, offset, kind, len(name)) + name


def _statfs(conn: ServerConn, msg: d.Tstatfs, fid: Fid) -> Message:
    return d.Rstatfs(msg.tag, MAGIC, BLOCK, 0, 0, 0, 0, 0, 0, NAME_MAX)


def _fsync(conn: ServerConn, msg: d.Tfsync, fid: Fid) -> Message | None:
    if fid.handle is None:
        raise errors.InvalidArgument("fid is not open")
    return conn.answer(msg, fid, fid.handle.sync(), lambda _: d.Rfsync(msg.tag))


def _mkdir(conn: ServerConn, msg: d.Tmkdir, fid: Fid) -> Message | None:
    assert fid.node is not None
    check_name(fid.node, msg.name)

    def commit(made: tuple[Node, Handle]) -> Message:
        qid = made[0].qid
        give_back(made)
        return d.Rmkdir(msg.tag, qid)

    making = fid.node.create(msg.name, c.DMDIR | msg.mode & 0o777, c.OREAD)
    return conn.answer(msg, fid, making, commit, undo=give_back)


def _unlinkat(conn: ServerConn, msg: d.Tunlinkat, fid: Fid) -> Message | None:
    assert fid.node is not None
    check_name(fid.node, msg.name)
    return conn.answer(
        msg, fid, _unlink(fid.node, msg.name), lambda _: d.Runlinkat(msg.tag), busy=True
    )


async def _unlink(directory: Node, name: str) -> None:
    walking = directory.walk((name,))
    walk = walking if isinstance(walking, Walk) else await walking
    if walk.file is None:
        raise walk.error or errors.NotFound()
    try:
        removing = walk.file.remove()
        if isinstance(removing, Awaitable):
            await removing
    finally:
        walk.file.release(was_open=False)


def _refusing(error: type[errors.Error]) -> Handler:
    def refuse(conn: ServerConn, msg: Message, fid: Fid) -> Message | None:
        raise error

    return refuse


_not_permitted = _refusing(errors.NotPermitted)
_not_supported = _refusing(errors.NotSupported)

ON_FID: dict[int, Handler] = {
    d.Tstatfs.number: _statfs,
    d.Tlopen.number: _lopen,
    d.Tlcreate.number: _lcreate,
    d.Tsymlink.number: _not_permitted,
    d.Tmknod.number: _not_permitted,
    d.Trename.number: _not_permitted,
    d.Treadlink.number: _refusing(errors.InvalidArgument),
    d.Tgetattr.number: _getattr,
    d.Tsetattr.number: _setattr,
    d.Txattrwalk.number: _not_supported,
    d.Txattrcreate.number: _not_supported,
    d.Treaddir.number: _readdir,
    d.Tfsync.number: _fsync,
    d.Tlock.number: _not_supported,
    d.Tgetlock.number: _not_supported,
    d.Tlink.number: _not_permitted,
    d.Tmkdir.number: _mkdir,
    d.Trenameat.number: _not_permitted,
    d.Tunlinkat.number: _unlinkat,
}
"""by message number; the fid is the message's first field"""
