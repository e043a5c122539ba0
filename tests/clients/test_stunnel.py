"""A client that knows nothing of TLS, through stunnel, as README tells: the kernel, Inferno
and plan9port reach a `tls!` server like this."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import py9p
import pytest
from click.testing import CliRunner
from llambo9p_tools.commands.cert import cert

from .cluster import Namespace, listening

CONFIG = """
cluster:
  nodes: {sim: {count: 2, resources: {model: simulated}}}
  network: {listen: ["tls!127.0.0.1!0", "unix!%(dir)s/socket"]}
  security: {cert: ca/server-127.0.0.1.pem, ca: ca/ca.pem}
"""
README = (Path(__file__).parents[2] / "README.md").read_text()


@contextlib.contextmanager
def stunnel(directory: Path, server: int) -> Iterator[int]:
    """Gives the port where plain TCP becomes alice's TLS."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    [shown] = re.findall(r"^```ini\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    ours = shown.replace("llambo-ca/", "ca/").replace("5640", f"{port}")
    ours = ours.replace("5641", f"{server}")
    (directory / "stunnel.conf").write_text(ours)
    process = subprocess.Popen(["stunnel", "stunnel.conf"], cwd=directory, stderr=subprocess.PIPE)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                if process.poll() is not None:
                    assert process.stderr is not None
                    pytest.fail(process.stderr.read().decode())
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.skipif(shutil.which("stunnel") is None, reason="there is no stunnel here")
def test_a_plain_client_comes_in_through_stunnel_as_its_certificate_says(tmp_path: Path) -> None:
    for words in (["ca"], ["server", "127.0.0.1"], ["user", "alice"]):
        assert CliRunner().invoke(cert, [*words, "--dir", str(tmp_path / "ca")]).exit_code == 0
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG % {"dir": tmp_path})
    with listening(tmp_path, config) as (tls, unix):
        with Namespace(unix.path, uname=None) as owner:
            owner.write("ctl", b"spawn")
        with stunnel(tmp_path, tls.port) as port, Namespace(port, uname="alice") as alice:
            alice.write("worker-0001/prompt", b"I am alice")
            assert alice.read("worker-0001/out") == b"simulated: I am alice"
            with pytest.raises(py9p.RemoteError, match="permission denied: spawn is for the"):
                alice.write("ctl", b"spawn")
            with pytest.raises(py9p.RemoteError, match="this is alice, who cannot attach as bob"):
                Namespace(port, uname="bob")
        with Namespace(unix.path, uname=None) as owner:
            assert owner.read("worker-0001/out") == b"", "hers is not the owner's"
