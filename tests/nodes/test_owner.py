"""Real processes whose certificate names another than the account that runs them: an orchestrator
that listens on a unix socket and under TLS, with hosts that it started itself, and `llamboctl` as
the owner, as a user called like the account, and as an administrator."""

from __future__ import annotations

from pathlib import Path

import pytest

from llambo9p.fs.user import owner
from tests.clients.cluster import listening
from tests.tools.cluster import llamboctl

pytestmark = pytest.mark.timeout(120)

ME = owner().name
CONFIG = """
cluster:
  nodes: {{sim: {{count: 1, resources: {{model: simulated}}}}}}
  network: {{listen: ["unix!{here}/9p", "tls!127.0.0.1!0"]}}
  security:
    cert: {here}/server-127.0.0.1.pem
    ca: {here}/ca.pem
    admins: [bob]
"""


def test_the_owner_a_namesake_and_an_administrator(tmp_path: Path) -> None:
    for words in (["ca"], ["server", "127.0.0.1", "--name", "ops"], ["user", "ops"], ["user", ME],
                  ["user", "bob"]):  # fmt: skip
        made = llamboctl("cert", *words, "--dir", str(tmp_path))
        assert made.returncode == 0, made.stderr
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(here=tmp_path))
    with listening(tmp_path, config) as (unix, tls):

        def run(who: str, *words: str) -> tuple[int, str]:
            """Over TLS as the user of a certificate, or "" on the unix socket as the owner."""
            there = {"LLAMBO_ADDR": str(tls), "LLAMBO_CERT": str(tmp_path / f"{who}.pem")}
            here = {"LLAMBO_ADDR": str(unix)}
            done = llamboctl(
                *words, LLAMBO_STATE=str(tmp_path / "state"), LLAMBO_CA=str(tmp_path / "ca.pem"),
                **(there if who else here),
            )  # fmt: skip
            return done.returncode, (done.stdout + done.stderr).decode()

        assert run("", "spawn", "--count", "1")[0] == 0
        assert run("", "write", "worker-0000/prompt", "of the owner")[0] == 0
        assert run("ops", "cat", "worker-0000/out") == (0, "simulated: of the owner")
        for command in (
            ["spawn"],
            ["nodes", "drain", "worker-0000"],
            ["shutdown"],
            ["write", "worker-0000/ctl", "drain"],
            ["checkpoint", "--save", "x"],
        ):
            status, said = run(ME, *command)
            assert status == 1 and f"security.admins, not for {ME}" in said, said
        assert run(ME, "cat", "worker-0000/history") == (0, "")
        assert run(ME, "infer", "mine") == (0, "simulated: mine")
        status, said = run(ME, "nodes", "list")
        assert status == 0 and "healthy" in said
        # an administrator: by name, and by no path
        assert run("bob", "checkpoint", "--save", "friday") == (0, "")
        assert run("bob", "checkpoint", "--restore", "friday") == (0, "")
        for verb in ("--save", "--restore"):
            status, said = run("bob", "checkpoint", verb, f"{tmp_path}/mine")
            assert status == 1 and "is for the owner of the process, not for bob" in said
        status, said = run("bob", "load", "worker-0000", "/etc/passwd")
        assert status == 1 and "use a name that is in models/" in said
        for who in ("", "ops"):
            assert run(who, "checkpoint", "--save", f"{tmp_path}/mine") == (0, "")
        status, said = run("ops", "nodes", "show", "worker-0000")
        assert status == 0 and "requests 2\n" in said
