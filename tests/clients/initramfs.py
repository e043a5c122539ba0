"""What the guest boots: Debian's kernel, and a root file system of busybox.

Owns the choice of packages and modules, the newc archive, and the cache in which both
lie once they are made.  Nothing is installed and nothing needs root: packages are
downloaded with apt-get and taken apart.  Raises `Unavailable`, which says what this
machine lacks.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

MODULES = ("virtio_pci", "virtio_net", "9pnet_fd", "9p")
"""loaded at boot, after what they depend on"""
_CANDIDATES = re.compile(
    r"/kernel/(?:fs/(?:9p|netfs|fscache)|net/(?:9p|core)|drivers/(?:virtio|net))/([^/]+)\.ko(?:\.xz)?$"
)
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
_XZ = b"\xfd7zXZ\0"
_ELF = b"\x7fELF"


class Unavailable(Exception):
    """No guest can be made on this machine."""


class Boot(NamedTuple):
    """Files for QEMU's -kernel and -initrd."""

    kernel: Path
    initramfs: Path


def boot_files(cache: Path) -> Boot:
    """The guest's kernel and root file system, made when they are not in `cache`."""
    boot = Boot(cache / "vmlinux", cache / "initramfs")
    if not all(path.exists() for path in boot):
        try:
            _fill(boot)
        except Unavailable:
            if os.geteuid() != 0:
                raise
            _run("apt-get", "-qq", "update")  # the list of packages was missing, or old
            _fill(boot)
    return boot


def archive(files: Mapping[str, bytes | str]) -> bytes:
    """A newc archive of programs (bytes) and links (str) by path; the kernel unpacks
    several such archives one after the other."""
    entries = [
        *((name, stat.S_IFDIR | 0o755, b"") for name in _directories(files)),
        *(
            (name, stat.S_IFLNK | 0o777, content.encode())
            if isinstance(content, str)
            else (name, stat.S_IFREG | 0o755, content)
            for name, content in files.items()
        ),
        ("TRAILER!!!", 0, b""),
    ]
    return b"".join(
        _newc(number, name, mode, content)
        for number, (name, mode, content) in enumerate(entries, 1)
    )


def _directories(names: Iterable[str]) -> list[str]:
    parents = {str(parent) for name in names for parent in Path(name).parents}
    return sorted(parents - {"."})


def _newc(ino: int, name: str, mode: int, content: bytes) -> bytes:
    """One entry: 070701, thirteen numbers of 8 hexadecimal digits, name and content."""
    path = name.encode() + b"\0"
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (ino, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + path
    return _padded(header) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _fill(boot: Boot) -> None:
    with tempfile.TemporaryDirectory(dir=boot.kernel.parent) as scratch:
        made = _make(Path(scratch))
        for new, path in zip(made, boot, strict=True):
            os.replace(new, path)


def _make(scratch: Path) -> Boot:
    kernel, modules = _kernel_and_modules(_download(_kernel_package(), scratch))
    ((_, busybox),) = _members(
        _download("busybox-static", scratch), lambda name: name.endswith("/bin/busybox")
    )
    files: dict[str, bytes | str] = {"bin/busybox": busybox, "bin/sh": "busybox"}
    order = _in_order(modules)
    files.update((f"modules/{i:02}-{name}.ko", modules[name]) for i, name in enumerate(order))
    files.update(_gnu_dd())
    made = Boot(scratch / "vmlinux", scratch / "initramfs")
    made.kernel.write_bytes(kernel)
    made.initramfs.write_bytes(archive(files))
    return made


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise Unavailable(f"this machine has no {command[0]}") from None
    except subprocess.CalledProcessError as e:
        raise Unavailable(f"{' '.join(command)}: {e.stderr.strip()}") from None
    return done.stdout


def _kernel_package() -> str:
    """The package that Debian's current kernel is in."""
    depends = _run("apt-cache", "depends", "linux-image-amd64")
    found = re.search(r"Depends: (linux-image-\d\S+)", depends)
    if found is None:
        raise Unavailable("apt knows no linux-image-amd64; try apt-get update")
    return found[1]


def _download(package: str, scratch: Path) -> Path:
    # as root, apt would change to a user who cannot write here
    _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=scratch)
    (deb,) = scratch.glob(f"{package}_*.deb")
    return deb


def _members(deb: Path, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes]]:
    """The files of a package with the names that are wanted."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE
    ) as unpacking, tarfile.open(fileobj=unpacking.stdout, mode="r|") as tar:
        for member in tar:
            name = member.name.removeprefix(".")
            if member.isreg() and wanted(name):
                content = tar.extractfile(member)
                assert content is not None
                yield name, content.read()


def _kernel_and_modules(deb: Path) -> tuple[bytes, dict[str, bytes]]:
    kernel, modules = b"", {}
    for name, content in _members(
        deb, lambda name: name.startswith("/boot/vmlinuz-") or _CANDIDATES.search(name)
    ):
        module = _CANDIDATES.search(name)
        if module is None:
            kernel = _unpacked(content)
        else:
            compressed = content.startswith(_XZ)
            modules[module[1]] = lzma.decompress(content) if compressed else content
    return kernel, modules


def _unpacked(bzimage: bytes) -> bytes:
    """The ELF file inside, which QEMU starts as it is: the guest would need seconds to
    unpack it.  The image itself where it is packed in another way."""
    at = bzimage.find(_XZ)
    if at >= 0:
        elf = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(bzimage[at:])
        if elf.startswith(_ELF):
            return elf
    return bzimage


def _in_order(modules: Mapping[str, bytes]) -> list[str]:
    """`MODULES` and what they need, each after what it needs."""
    order: list[str] = []

    def add(name: str) -> None:
        if name in order:
            return
        depends = _DEPENDS.search(modules[name])
        for needed in depends[1].decode().split(",") if depends is not None else ():
            if needed:
                add(needed)
        order.append(name)

    for name in MODULES:
        add(name)
    return order


def _gnu_dd() -> dict[str, bytes | str]:
    """This machine's dd and its libraries: busybox's cannot open with O_NONBLOCK."""
    dd = shutil.which("dd")
    if dd is None:
        raise Unavailable("this machine has no dd")
    libraries = re.findall(r"(/\S+) \(0x", _run("ldd", dd))
    return {
        "bin/gnu-dd": Path(dd).read_bytes(),
        **{library.lstrip("/"): Path(library).read_bytes() for library in libraries},
    }
