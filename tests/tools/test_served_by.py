"""Every client of ours asks who serves a unix socket, and says nothing to a stranger."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from llambo9p.errors import Error
from llambo9p.fs.user import name_of
from llambo9p.mount.attachment import Attachment
from llambo9p.net.address import Address
from llambo9p.net.security import Trust
from llambo9p.worker.registration import Registration
from tests.cluster.harness import cluster
from tests.files import ANYWHERE, story
from tests.stranger import UID, stranger

from .cluster import llamboctl

HIM = name_of(UID)
WHY = re.compile(rf"is served by {HIM} \(uid {UID}\), who would read all that is asked there")

COMMANDS = [
    ["status"],
    ["infer", "a secret"],
    ["limbot", "a secret"],
    ["dish", "-c", "ls"],
    ["mount", "DIR", "--foreground"],
    ["mount", "DIR"],
    ["mount", "DIR", "--kernel"],
    ["checkpoint", "--save", "x"],
    ["shutdown"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_says_who_serves_the_socket_and_how_to_allow_it(
    tmp_path: Path, command: list[str]
) -> None:
    words = [word.replace("DIR", f"{tmp_path}/mnt") for word in command]
    with stranger() as (address, heard):
        done = llamboctl(
            *words, LLAMBO_ADDR=str(address), LLAMBO_STATE=f"{tmp_path}/state",
            XDG_STATE_HOME=str(tmp_path),
        )  # fmt: skip
        assert done.returncode == 1, done
        said = done.stderr.decode()
        assert WHY.search(said) and "name this user in $LLAMBO_SERVED_BY where" in said
        assert heard() == b""


def test_a_state_file_is_no_reason_to_trust_a_socket(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with stranger() as (address, heard):
        state.write_text(json.dumps({"address": str(address), "pid": 1}))
        done = llamboctl("init", LLAMBO_STATE=str(state))
        assert done.returncode == 1 and WHY.search(done.stderr.decode())
        assert heard() == b""


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["--served-by", HIM, "status"], {}),
        (["status", "--served-by", HIM], {"LLAMBO_SERVED_BY": "carol"}),
        (["status"], {"LLAMBO_SERVED_BY": f"carol,{HIM}"}),
    ],
)
def test_a_user_who_is_named_is_trusted(options: list[str], environment: dict[str, str]) -> None:
    with stranger() as (address, heard):
        done = llamboctl(*options, LLAMBO_ADDR=str(address), **environment)
        assert "closed the connection before it said anything" in done.stderr.decode()
        assert b"9P2000" in heard()


async def _mounts(address: Address) -> None:
    async with cluster() as running:
        await running.files.write("ctl", f"mount {address}")


async def _mounts_a_tree(address: Address) -> None:
    async with cluster() as running:
        await running.files.write("ctl", f"mount {address} tree")


async def _takes_what_registers(address: Address) -> None:
    async with cluster() as running:
        await running.files.write("registry/new", f"{address} epoch 1")


async def _registers(address: Address) -> None:
    attrs = {"type": "tiny", "first": "0"}
    await Registration(address, ANYWHERE, attrs).hold()


async def _bridges(address: Address) -> None:
    attachment = Attachment(address, "")
    try:
        await attachment.root()
    finally:
        attachment.close()


@pytest.mark.parametrize(
    "connects", [_mounts, _mounts_a_tree, _takes_what_registers, _registers, _bridges]
)
@story
async def test_a_program_says_it_too(connects: Callable[[Address], Awaitable[None]]) -> None:
    with stranger() as (address, heard):
        with pytest.raises(Error, match=WHY):
            await connects(address)
        assert heard() == b""


@story
async def test_the_bridge_trusts_whom_it_is_told_to_trust() -> None:
    with stranger() as (address, heard):
        attachment = Attachment(address, "", Trust(served_by=frozenset({HIM})))
        with pytest.raises(Error, match="connection"):
            await attachment.root()
        assert b"9P2000" in heard()
        attachment.close()


