"""llamboctl at a `tls!` address with a certificate that the server does not accept."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from llambo9p_tools.commands.cert import cert
from llambo9p_tools.remote import Remote, Unreachable

from tests.clients.cluster import listening

CONFIG = """
cluster:
  network: {listen: "tls!127.0.0.1!0"}
  security: {cert: ca/server-127.0.0.1.pem, ca: ca/ca.pem}
"""


def make(directory: Path, *words: str) -> None:
    assert CliRunner().invoke(cert, [*words, "--dir", str(directory)]).exit_code == 0


def test_a_certificate_that_the_server_refuses_is_named_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for directory in (tmp_path / "ca", tmp_path / "other"):
        make(directory, "ca")
        make(directory, "user", "alice")
    make(tmp_path / "ca", "server", "127.0.0.1")
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    monkeypatch.setenv("LLAMBO_CA", str(tmp_path / "ca/ca.pem"))
    with listening(tmp_path, config) as (address,):
        monkeypatch.setenv("LLAMBO_CERT", str(tmp_path / "other/alice.pem"))
        with pytest.raises(Unreachable, match="does it accept our certificate?"):
            Remote(address)
        monkeypatch.setenv("LLAMBO_CERT", str(tmp_path / "ca/alice.pem"))
        with Remote(address) as remote:
            assert "state idle" in remote.text("status")
