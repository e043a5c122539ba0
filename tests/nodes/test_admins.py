"""`security.admins` are administrators of the whole cluster, its workers included."""

from __future__ import annotations

from pathlib import Path

import py9p
import pytest

from tests.clients.cluster import Namespace, listening

CONFIG = """
cluster:
  nodes: {sim: {count: 1, resources: {model: simulated}}}
  network: {listen: "unix!%s/9p"}
  security: {admins: [bob]}
"""


def test_an_administrator_may_drain_a_worker_by_its_own_ctl(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG % tmp_path)
    with (
        listening(tmp_path, config) as (address,),
        Namespace(address.path, uname="alice") as alice,
        Namespace(address.path, uname="bob") as bob,
    ):
        bob.write("ctl", b"spawn --count 1 --type sim")
        with pytest.raises(py9p.RemoteError, match="drain is for the owner"):
            alice.write("worker-0000/ctl", b"drain")
        bob.write("worker-0000/ctl", b"drain")
        assert alice.attrs("worker-0000/status")["draining"] == "yes"
