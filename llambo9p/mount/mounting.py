"""Mounting and unmounting on Linux: what the kernel, or `fusermount3`, is asked for.

Root calls mount(2) and umount2(2); anybody else goes through the setuid `fusermount3`,
which hands the opened /dev/fuse over a socket.  All of it may block for a moment, so an
event loop calls it in a thread.  Failures are `Error`s that say what to do.

Who may use a mount: without `allow_other` the kernel lets in nobody but the user who
mounted, and the server decides alone.  With it every user acts as that one towards the
server, so the kernel checks the files' permission bits first (default_permissions).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from ..errors import Error
from ..net.address import Address

FUSE = "fuse.llambo"
V9FS = "9p"
_OURS = (FUSE, V9FS)

# mount(2), umount2(2)
_MS_NOSUID = 1 << 1
_MS_NODEV = 1 << 2
_MNT_DETACH = 1 << 1

_libc = ctypes.CDLL(None, use_errno=True)


def mount_point(directory: str) -> Path:
    """`directory` as the kernel lists it.  It is not touched itself: it may be a mount
    whose server does not answer."""
    path = Path(os.path.abspath(directory))
    return path.parent.resolve() / path.name


def mounted(directory: Path) -> str | None:
    """The type of the file system that is mounted on `directory`, if it is one of ours."""
    found = None
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        where = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), before.split()[4])
        if os.fsdecode(where) == str(directory):
            found = after.split()[0].decode()  # a later mount covers the earlier one
    return found if found in _OURS else None


def prepare(directory: Path) -> None:
    """Make `directory` if it is not there; it must be empty and not be mounted."""
    if mounted(directory):
        raise Error(
            f"{directory} is mounted already; `llamboctl unmount {directory}` unmounts it"
        )
    try:
        if os.listdir(directory):
            raise Error(f"cannot mount on {directory}: it is not empty")
    except FileNotFoundError:
        try:
            directory.mkdir(parents=True)
        except OSError as e:
            raise Error(
                f"cannot make {directory}: {e.strerror}; name a directory of yours"
            ) from None
    except OSError as e:
        raise Error(f"cannot mount on {directory}: {e.strerror}") from None


def mount(directory: Path, address: Address, allow_other: bool) -> int:
    """Mount FUSE on `directory`; returns the open /dev/fuse."""
    if not os.path.exists("/dev/fuse"):
        raise Error("cannot mount: this machine has no /dev/fuse (`modprobe fuse` may make it)")
    options = ["allow_other", "default_permissions"] if allow_other else []
    if os.geteuid() != 0:
        return _fusermount(directory, [f"fsname={address}", "subtype=llambo", *options])
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise Error(f"cannot open /dev/fuse: {e.strerror}") from None
    root = [f"fd={device}", "rootmode=40000", f"user_id={os.getuid()}", f"group_id={os.getgid()}"]
    try:
        _mount(str(address), directory, FUSE, [*root, *options])
    except Error:
        os.close(device)
        raise
    return device


def mount_v9fs(directory: Path, address: Address, uname: str, aname: str = "") -> None:
    """Mount the tree `aname` by Linux's own 9P client.  Raises Error."""
    for option in (uname, aname):
        if "," in option:  # Linux's mount(2) would take the rest for another option
            raise Error(f"{option!r} has a comma: mount it without --kernel")
    if not _kernel_has_9p():
        raise Error(
            "this kernel has no 9P file system: neither /proc/filesystems lists 9p nor does "
            "`modprobe 9p` find it; mount without --kernel"
        )
    if os.geteuid() != 0:
        raise Error("only root can mount with --kernel; mount without it")
    options = [f"uname={uname}", "cache=none", "version=9p2000.L"]
    if aname:
        options.append(f"aname={aname}")
    if address.net == "unix":
        source, how = address.path, ["trans=unix"]
    else:
        source, how = _numeric(address), ["trans=tcp", f"port={address.port}"]
    _mount(source, directory, V9FS, [*how, *options])


def unmount(directory: Path) -> bool:
    """Unmount `directory`.  Returns whether it was idle: one in use goes from the tree at
    once all the same, and ends when its last user leaves."""
    if mounted(directory) is None:
        raise Error(f"{directory} is not mounted by llamboctl")
    if os.geteuid() != 0:
        if _unmounts([_find_fusermount(), "-u", str(directory)]):
            return True
        if _unmounts([_find_fusermount(), "-u", "-z", str(directory)]):
            return False
        raise Error(f"cannot unmount {directory}: it is another user's")
    for flags in (0, _MNT_DETACH):
        if _libc.umount2(os.fsencode(directory), flags) == 0:
            return flags == 0
        number = ctypes.get_errno()
        if number != errno.EBUSY:
            break
    raise Error(f"cannot unmount {directory}: {os.strerror(number)}")


def _mount(source: str, directory: Path, type: str, options: list[str]) -> None:
    done = _libc.mount(
        os.fsencode(source),
        os.fsencode(directory),
        type.encode(),
        ctypes.c_ulong(_MS_NOSUID | _MS_NODEV),
        os.fsencode(",".join(options)),
    )
    if done != 0:
        raise Error(f"cannot mount on {directory}: {os.strerror(ctypes.get_errno())}")


def _find_fusermount() -> str:
    found = shutil.which("fusermount3")
    if found is None:
        raise Error("users other than root need fusermount3 to mount; on Debian: the package fuse3")
    return found


def _fusermount(directory: Path, options: list[str]) -> int:
    program = _find_fusermount()
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            done = subprocess.run(
                [program, "-o", ",".join(["nosuid", "nodev", *options]), "--", str(directory)],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                capture_output=True,
                text=True,
            )
        if done.returncode != 0:
            raise Error(done.stderr.strip() or f"{program} ended with {done.returncode}")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    os.set_inheritable(fds[0], False)
    return fds[0]


def _unmounts(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def _kernel_has_9p() -> bool:
    def listed() -> bool:
        return "\t9p\n" in Path("/proc/filesystems").read_text()

    if not listed() and (modprobe := shutil.which("modprobe", path="/usr/sbin:/sbin")):
        subprocess.run([modprobe, "9p"], capture_output=True)
    return listed()


def _numeric(address: Address) -> str:
    """The host's IPv4 address: v9fs resolves no names."""
    try:
        return socket.gethostbyname(address.host)
    except OSError as e:
        raise Error(f"cannot find {address.host}: {e.strerror}") from None
