"""A mount by a user who is not root, through the setuid program `fusermount3`.

Root tries it in a mount namespace, where /dev/fuse is open to all as it is on a desktop.
(Run by anybody else, every test of a FUSE mount goes this way.)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from .mounts import Served, cannot_mount

# a user may not be able to read root's Python: all is imported before
AS_NOBODY = """
import concurrent.futures.thread, os, sys
from llambo9p_tools.commands import mount
from llambo9p_tools.llamboctl import cli
os.setgroups([]); os.setgid(65534); os.setuid(65534)
cli(sys.argv[1:], standalone_mode=False)
"""
IN_NAMESPACE = """
set -e
mount -t tmpfs -o mode=755 tmpfs /mnt
mknod -m 666 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
mkdir /mnt/m
chown 65534:65534 /mnt/m
python=$0 program=$1 address=$2

coproc "$python" -c "$program" mount --foreground --addr "$address" /mnt/m
bridge=$COPROC_PID
read -r said <&"${COPROC[0]}"
echo "$said"
grep -o '/mnt/m fuse.llambo.*' /proc/mounts
setpriv --reuid=65534 --regid=65534 --clear-groups bash -c 'echo Hi > /mnt/m/prompt; cat /mnt/m/out'
echo
ls /mnt/m 2>&1 || true
"$python" -c "$program" unmount /mnt/m
wait "$bridge"
ls -A /mnt/m
"""


@pytest.mark.skipif(bool(cannot_mount()), reason=cannot_mount() or "it can")
@pytest.mark.skipif(os.geteuid() != 0, reason="not root: all other tests go this way")
@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="there is no fusermount3")
def test_a_user_mounts_and_unmounts() -> None:
    served = Served(1)
    try:
        command = ["unshare", "--mount", "bash", "-c", IN_NAMESPACE]
        command += [sys.executable, AS_NOBODY, str(served.address)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=15)
    finally:
        served.close()
    assert done.stdout.splitlines() == [
        f"mounted {served.address} on /mnt/m",
        "/mnt/m fuse.llambo rw,nosuid,nodev,relatime,user_id=65534,group_id=65534 0 0",
        "simulated: Hi",
        "ls: cannot access '/mnt/m': Permission denied",
    ]
    assert done.returncode == 0
