"""The numbers and strings of 9P2000, under their names in the manual.

Sources: Plan 9's fcall.h and libc.h; intro(5), open(5), stat(5).
"""

from __future__ import annotations

NOTAG = 0xFFFF
NOFID = 0xFFFF_FFFF
NONUNAME = 0xFFFF_FFFF
"""no numeric uid: 9P2000.u and .L"""
NOBODY = 65534
"""Linux's uid and gid of nobody: it lets nobody write to or remove a file of NONUNAME"""

HEADER = 7
"""size[4] type[1] tag[2]"""
IOHDRSZ = 24
"""room that a Twrite or Rread needs around its data; iounit <= msize - IOHDRSZ"""
READHDRSZ = 11
"""header[7] count[4] of an Rread"""
MAXWELEM = 16
MIN_MSIZE = 256
DEFAULT_MSIZE = 128 * 1024
"""the default of Linux's v9fs since 5.15"""
STRANGERS_MSIZE = 64 * 1024
"""that our clients ask for where they do not know who serves: Inferno's exportfs breaks with more
than 65,544"""

VERSION_9P2000 = "9P2000"
VERSION_9P2000_U = "9P2000.u"
VERSION_9P2000_L = "9P2000.L"
VERSION_UNKNOWN = "unknown"

# Qid.type
QTDIR = 0x80
QTAPPEND = 0x40
QTEXCL = 0x20
QTAUTH = 0x08
QTTMP = 0x04
QTFILE = 0x00

# Dir.mode: the type's bits stand in the top byte
DMDIR = 0x8000_0000
DMAPPEND = 0x4000_0000
DMEXCL = 0x2000_0000

# Topen.mode
OREAD = 0
OWRITE = 1
ORDWR = 2
OEXEC = 3
OTRUNC = 0x10
ORCLOSE = 0x40
OAPPEND = 0x80
"""what Linux sends for `>>` over 9P2000.u; an append to a synthetic file is a write"""

# the values of a Twstat that leave a field alone
DONT_TOUCH_8 = 0xFF
DONT_TOUCH_16 = 0xFFFF
DONT_TOUCH_32 = 0xFFFF_FFFF
DONT_TOUCH_64 = 0xFFFF_FFFF_FFFF_FFFF
