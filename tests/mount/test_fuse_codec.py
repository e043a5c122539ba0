"""The FUSE codec against linux/fuse.h as a C++ compiler reads it: a small program fills
every struct, each field with another number, and prints the bytes and the constants.
"""

from __future__ import annotations

import dataclasses
import errno
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llambo9p.mount import fuse
from llambo9p.mount.fuse import Opcode

HEADER = struct.Struct("=IIQQIIIHH")
REQUESTS = {
    Opcode.FORGET: ("fuse_forget_in", fuse.Forget),
    Opcode.SETATTR: ("fuse_setattr_in", fuse.Setattr),
    Opcode.MKDIR: ("fuse_mkdir_in", fuse.Mkdir),
    Opcode.OPEN: ("fuse_open_in", fuse.Open),
    Opcode.OPENDIR: ("fuse_open_in", fuse.Open),
    Opcode.CREATE: ("fuse_create_in", fuse.Create),
    Opcode.READ: ("fuse_read_in", fuse.Read),
    Opcode.READDIR: ("fuse_read_in", fuse.Read),
    Opcode.READDIRPLUS: ("fuse_read_in", fuse.Read),
    Opcode.WRITE: ("fuse_write_in", fuse.Write),
    Opcode.RELEASE: ("fuse_release_in", fuse.Release),
    Opcode.RELEASEDIR: ("fuse_release_in", fuse.Release),
    Opcode.INTERRUPT: ("fuse_interrupt_in", fuse.Interrupt),
    Opcode.INIT: ("fuse_init_in", fuse.Init),
}
REPLIES = {
    "fuse_init_out": fuse.InitOut,
    "fuse_attr_out": fuse.AttrOut,
    "fuse_entry_out": fuse.EntryOut,
    "fuse_open_out": fuse.OpenOut,
    "fuse_write_out": fuse.WriteOut,
    "fuse_kstatfs": fuse.StatfsOut,
}
CONSTANTS = {
    **{f"FUSE_{opcode.name}": int(opcode) for opcode in Opcode},
    **{
        f"FUSE_{name}": getattr(fuse, name)
        for name in (
            "ROOT_ID", "ATOMIC_O_TRUNC", "BIG_WRITES", "DO_READDIRPLUS", "READDIRPLUS_AUTO",
            "PARALLEL_DIROPS",
        )
    },
    **{
        name: getattr(fuse, name)
        for name in (
            "FOPEN_DIRECT_IO", "FATTR_MODE", "FATTR_UID", "FATTR_GID", "FATTR_SIZE",
            "FATTR_ATIME", "FATTR_MTIME",
        )
    },
}  # fmt: skip
OF_HEADER = {field.name for field in dataclasses.fields(fuse.Request)}
AFTER_STRUCT = {"name", "data"}
OTHERWISE_IN_C = {"target": "unique"}


def numbers(cls: type, start: int = 1) -> dict[str, int]:
    """A number for each field of the class's own, those that C fills with nothing left
    out; a nested Attr's fields as `attr.`."""
    left_out = AFTER_STRUCT | (OF_HEADER if issubclass(cls, fuse.Request) else set())
    names: list[str] = []
    for field in dataclasses.fields(cls):
        if field.name == "attr":
            names += [f"attr.{name}" for name in numbers(fuse.Attr)]
        elif field.name not in left_out and not field.name.startswith(("unused", "spare")):
            names.append(field.name)
    return dict(zip(names, range(start, 1000), strict=False))


@pytest.fixture(scope="module")
def c(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the C program says: `struct NAME` and constants, as hexadecimal bytes."""
    structs = {name: cls for name, cls in REQUESTS.values()} | REPLIES
    lines = []
    for name, cls in structs.items():
        fills = " ".join(
            f"s.{OTHERWISE_IN_C.get(field, field)} = {n};" for field, n in numbers(cls).items()
        )
        lines.append(f'{{ struct {name} s = {{}}; {fills} say("struct {name}", &s, sizeof s); }}')
    for name in CONSTANTS:
        lines.append(f'{{ unsigned n = {name}; say("{name}", &n, sizeof n); }}')
    return run_c(tmp_path_factory.mktemp("c"), lines)


def run_c(directory: Path, lines: list[str]) -> dict[str, str]:
    source = directory / "fuse.cc"
    source.write_text(
        "#include <linux/fuse.h>\n#include <stdio.h>\n"
        "static void say(const char *what, const void *from, unsigned long n) {\n"
        '    printf("%s=", what);\n'
        '    for (unsigned long i = 0; i < n; i++) printf("%02x", ((unsigned char *)from)[i]);\n'
        '    printf("\\n");\n'
        "}\nint main() {\n" + "\n".join(lines) + "\n}\n"
    )
    subprocess.run(["c++", "-w", "-o", directory / "fuse", source], check=True)
    said = subprocess.check_output([directory / "fuse"], text=True)
    return dict(line.split("=") for line in said.splitlines())


def frame(opcode: int, body: bytes) -> bytes:
    """A request number 7 about node 3, by process 4321 of 1000:100."""
    return HEADER.pack(HEADER.size + len(body), opcode, 7, 3, 1000, 100, 4321, 0, 0) + body


def test_every_number_is_the_kernels(c):
    for name, ours in CONSTANTS.items():
        assert int.from_bytes(bytes.fromhex(c[name]), sys.byteorder) == ours, name


@pytest.mark.parametrize("opcode", REQUESTS, ids=lambda opcode: opcode.name)
def test_a_request_is_what_c_wrote(c, opcode):
    name, cls = REQUESTS[opcode]
    rest = {Opcode.MKDIR: b"folder\0", Opcode.CREATE: b"file\0", Opcode.WRITE: b"\0data"}
    body = bytes.fromhex(c[f"struct {name}"]) + rest.get(opcode, b"")
    request: Any = fuse.unpack(frame(opcode, body))
    assert type(request) is cls
    assert {field: getattr(request, field) for field in numbers(cls)} == numbers(cls)
    match opcode:
        case Opcode.MKDIR | Opcode.CREATE:
            assert request.name in ("folder", "file")
        case Opcode.WRITE:
            assert request.data == b"\0data"
    assert (request.opcode, request.unique, request.nodeid) == (opcode, 7, 3)
    assert (request.uid, request.gid, request.pid) == (1000, 100, 4321)


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_is_what_c_would_write(c, name):
    values: dict[str, Any] = dict(numbers(REPLIES[name]))
    attr = {
        field.removeprefix("attr."): values.pop(field)
        for field in list(values)
        if field.startswith("attr.")
    }
    if attr:
        values["attr"] = fuse.Attr(**attr)
    assert REPLIES[name](**values).pack().hex() == c[f"struct {name}"]


def test_an_entrys_size():
    attr = fuse.Attr(**numbers(fuse.Attr))
    assert len(fuse.EntryOut(nodeid=1, attr=attr).pack()) == fuse.EntryOut.SIZE


@pytest.mark.parametrize("opcode", [Opcode.LOOKUP, Opcode.UNLINK, Opcode.RMDIR])
def test_names(opcode):
    assert fuse.unpack(frame(opcode, "caf\u00e9\0".encode())).name == "caf\u00e9"
    assert fuse.unpack(frame(opcode, b"\xff\0")).name == "\udcff"
    with pytest.raises(fuse.BadRequest):
        fuse.unpack(frame(opcode, b"endless"))


def test_many_forgets():
    body = struct.pack("=IIQQQQ", 2, 0, 11, 1, 12, 5)
    assert fuse.unpack(frame(Opcode.BATCH_FORGET, body)).items == [(11, 1), (12, 5)]
    with pytest.raises(fuse.BadRequest):
        fuse.unpack(frame(Opcode.BATCH_FORGET, body[:-1]))


def test_directory_entries_are_padded():
    entry = fuse.Dirent(ino=5, off=1, type=8, name=b"status")
    assert entry.pack() == struct.pack("=QQII", 5, 1, 6, 8) + b"status\0\0"
    assert len(fuse.Dirent(ino=5, off=1, type=8, name=b"12345678").pack()) == 32


def test_a_request_without_a_meaning_here_has_its_header():
    request = fuse.unpack(frame(22, b"whatever"))
    assert type(request) is fuse.Request and request.opcode == 22


@pytest.mark.parametrize("size", [0, 10, 40, 60])
def test_a_short_request_is_refused(size):
    whole = frame(Opcode.READ, bytes(40))
    with pytest.raises(fuse.BadRequest):
        fuse.unpack(whole[:size])
    short = frame(Opcode.READ, bytes(max(size - 41, 0)))
    with pytest.raises(fuse.BadRequest):
        fuse.unpack(short)


def test_replies():
    assert fuse.reply(9, b"body") == struct.pack("=IiQ", 20, 0, 9) + b"body"
    assert fuse.error(9, errno.ENOENT) == struct.pack("=IiQ", 16, -errno.ENOENT, 9)


@pytest.mark.parametrize("number", [0, -1, 512, 526, 1 << 31])
def test_an_errno_that_the_kernel_would_refuse_is_an_io_error(number):
    """Or nobody would answer the request."""
    assert fuse.error(9, number) == fuse.error(9, errno.EIO)


def init(major: int, minor: int, flags: int = 0xFFFF_FFFF) -> fuse.Init:
    body = struct.pack("=IIII", major, minor, 4096, flags)
    request = fuse.unpack(frame(Opcode.INIT, body))
    assert isinstance(request, fuse.Init)
    return request


@pytest.mark.parametrize(("theirs", "agreed"), [(23, 23), (30, 30), (31, 31), (44, 31)])
def test_the_lower_minor_version_is_agreed(theirs, agreed):
    out = fuse.init_out(init(7, theirs))
    assert (out.major, out.minor) == (7, agreed)
    assert out.max_write <= fuse.REQUEST_SIZE - 80


def test_only_features_that_the_kernel_has_are_asked_for():
    assert fuse.init_out(init(7, 31, fuse.BIG_WRITES | 1)).flags == fuse.BIG_WRITES
    assert fuse.init_out(init(7, 31)).flags == fuse.FEATURES


@pytest.mark.parametrize(("major", "minor"), [(6, 31), (8, 0), (7, 22)])
def test_another_protocol_is_refused(major, minor):
    with pytest.raises(fuse.BadRequest, match=f"speaks FUSE {major}.{minor}"):
        fuse.init_out(init(major, minor))
