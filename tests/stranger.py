"""A unix socket that another user of this machine serves, in a directory of everybody's."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest

from llambo9p.net.address import Address

UID = 65534
_SERVE = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
print("listening", flush=True)
connection, _ = listening.accept()
print(connection.recv(100).hex(), flush=True)
"""


@contextlib.contextmanager
def stranger() -> Iterator[tuple[Address, Callable[[], bytes]]]:
    """Its address, and what waits for the first client and gives the first bytes that it said."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="llambo-stranger-") as directory:
        os.chmod(directory, 0o777)
        path = f"{directory}/socket"
        with subprocess.Popen([sys.executable, "-c", _SERVE, path], stdout=subprocess.PIPE) as it:
            assert it.stdout is not None
            try:
                assert it.stdout.readline() == b"listening\n"
                out = it.stdout
                yield Address("unix", path=path), lambda: bytes.fromhex(out.readline().decode())
            finally:
                it.kill()
