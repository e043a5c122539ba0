"""A Linux guest in QEMU, and the scripts that it runs on its terminals.

Owns the guest's life, and what its terminals say.  The guest reaches this machine's
loopback as 10.0.2.2.  Each terminal has a shell that runs one script at a time; a line
`NUL status NUL` ends its output.  `interrupt` types ^C there, as a user does: the
script's shell goes on, what it runs in the foreground is interrupted.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import NamedTuple

from .initramfs import Boot, Unavailable, archive

LIMIT_S = 120.0
"""a script that is silent for longer is stuck"""
LIFE_S = 900
"""a guest that nobody stopped ends by itself"""
INITTAB = b"""\
::sysinit:/start
ttyS1::respawn:/terminal
ttyS2::respawn:/terminal
"""
PASSWD = b"""\
root:x:0:0::/:/bin/sh
glenda:x:4321:4321::/:/bin/sh
"""
START = b"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /dev /proc /sys /tmp /mnt
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
for module in /modules/*; do
    insmod $module
done
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
"""
TERMINAL = rb"""#!/bin/sh
stty -echo -opost
script=/tmp/script.$$
status=0
trap : INT
while printf '\0%d\0' $status; do
    cat >$script
    sh -c 'trap : INT; . "$0"' $script
    status=$?
done
"""
_END = re.compile(rb"\0(\d+)\0$")
INTERRUPT, END_OF_FILE = b"\x03", b"\x04"


class Result(NamedTuple):
    status: int
    output: str


class Terminal:
    """One of the guest's terminals.  It runs a script at a time."""

    def __init__(self, line: socket.socket) -> None:
        line.settimeout(LIMIT_S)
        self._line = line
        self._output = b""
        self.busy = True
        """a script runs; at first, the guest boots"""

    def start(self, script: str) -> None:
        assert not self.busy
        self.busy = True
        self._output = b""
        self._line.sendall(script.encode() + b"\n" + END_OF_FILE)

    def interrupt(self) -> None:
        """Type ^C.  A script that is not known to run yet would be lost with it."""
        self._line.sendall(INTERRUPT)

    def wait_for(self, text: str) -> None:
        """Until the script has written `text`."""
        while text.encode() not in self._output:
            assert not _END.search(self._output), self._output
            self._receive()

    def finish(self) -> Result:
        """Until the script has ended."""
        while (end := _END.search(self._output)) is None:
            self._receive()
        self.busy = False
        return Result(int(end[1]), self._output[: end.start()].decode())

    def run(self, script: str) -> Result:
        self.start(script)
        return self.finish()

    def _receive(self) -> None:
        try:
            data = self._line.recv(65536)
        except TimeoutError:
            raise AssertionError(f"the guest is silent after {self._output!r}") from None
        assert data, f"the guest is gone after {self._output!r}"
        self._output += data


class Guest:
    """A running guest.  `terminals` are for scripts at the same time."""

    def __init__(self, boot: Boot, directory: Path) -> None:
        """Boots; the kernel's messages are in `directory/console`."""
        program = shutil.which("qemu-system-x86_64")
        if program is None:
            raise Unavailable("this machine has no qemu-system-x86_64")
        own_files = archive(
            {
                "init": "bin/busybox",
                "etc/inittab": INITTAB,
                "etc/passwd": PASSWD,
                "start": START,
                "terminal": TERMINAL,
            }
        )
        initrd = directory / "initramfs"
        initrd.write_bytes(boot.initramfs.read_bytes() + own_files)
        lines, theirs = zip(*(socket.socketpair() for _ in range(2)), strict=True)
        self._console = directory / "console"
        self._process = subprocess.Popen(
            [
                "timeout", "-k5", str(LIFE_S),
                program, "-machine", "pc,accel=tcg,usb=off", "-m", "256",
                "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-kernel", str(boot.kernel), "-initrd", str(initrd), "-append",
                "console=ttyS0 quiet panic=-1 mitigations=off nokaslr net.ifnames=0",
                "-netdev", "user,id=net",
                "-device", "virtio-net-pci,netdev=net,romfile=",
                "-serial", f"file:{self._console}",
                *(
                    word
                    for line in theirs
                    for word in (
                        "-chardev", f"socket,id=line{line.fileno()},fd={line.fileno()}",
                        "-serial", f"chardev:line{line.fileno()}",
                    )
                ),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[line.fileno() for line in theirs],
        )  # fmt: skip
        for line in theirs:
            line.close()
        self._lines = lines
        self.terminals = [Terminal(line) for line in lines]
        try:
            for terminal in self.terminals:
                terminal.finish()
        except AssertionError as e:
            self.close()
            raise AssertionError(f"{e}\n{self._console.read_text(errors='replace')}") from None

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        for line in self._lines:
            line.close()
