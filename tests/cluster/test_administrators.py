"""What an administrator who is not the owner can make the owner's process do: a table of all
verbs.  None lets him read or write a path, run a program, or use a unix socket of his choice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llambo9p.cluster.config import Cluster
from llambo9p.cluster.namespace import Orchestrator
from llambo9p.conversation.settings import SETTINGS
from llambo9p.errors import Error, NoSpace, NotFound, PermissionDenied
from llambo9p.fs.user import owner
from llambo9p.net.address import Address, parse
from llambo9p.net.security import Security
from llambo9p.net.server import Server
from llambo9p.p9 import constants as c
from tests.files import ANYWHERE, Files, files_of, story

from .harness import simulated_host

HOSTS = ("grow", "shutdown")
REFUSED = r"^permission denied: .* is for the owner of the process, not for bob: "


@dataclass
class Place:
    me: Files
    bob: Files
    alice: Files
    directory: Path
    host: Address
    stopped: asyncio.Event

    @property
    def checkpoints(self) -> Path:
        return self.directory / "state.checkpoints"


@contextlib.asynccontextmanager
async def shared(directory: Path) -> AsyncIterator[Place]:
    """`bob` is an administrator, `alice` a user."""
    config = Cluster().with_state(directory / "state")
    stopped = asyncio.Event()
    orchestrator = Orchestrator(config, stopped.set)
    server = Server(orchestrator.attach, security=Security(admins=["bob"]))
    async with contextlib.AsyncExitStack() as stack:
        host = await stack.enter_async_context(simulated_host(2, at=parse(f"unix!{directory}/h")))
        stack.push_async_callback(server.close)
        stack.push_async_callback(orchestrator.close)
        address = await server.listen(parse(f"unix!{directory}/o"))
        users = [
            await stack.enter_async_context(files_of(address, uname=name))
            for name in (owner().name, "bob", "alice")
        ]
        await orchestrator.recovery.begin(address, None)
        await users[0].write("ctl", f"mount {host.address}")
        yield Place(*users, directory, host.address, stopped)


REFUSED_TO_BOB = [
    "save /tmp/anywhere",
    "save ../state",
    "save ./x",
    "restore /etc/passwd",
    "restore /proc/self/environ",
    "restore ../state",
    "spawn --model /etc/passwd",
    "spawn --model ../model.gguf",
    "spawn --model model.gguf --count 1",
    "load worker-0000 /etc/passwd",
    "load worker-0000 ./model.gguf",
    "mount unix!/tmp/ns.owner/acme",
    "mount unix!/tmp/ns.owner/acme x",
]
"""each makes the owner's process open something by a path, or use a socket of the machine"""

ALLOWED_TO_BOB = {
    "spawn": "fails: no model 'none'",
    "scale": "fails: no node type 'none'",
    "load": "fails: no model 'none'|was not started here|nothing is mounted",
    "mount": "fails: cannot connect to tcp!127.0.0.1!1",
    "unmount": "ok",
    "strategy": "ok",
    "drain": "ok",
    "resume": "ok",
    "kill": "ok",
    "save": "ok",
    "restore": "ok",
    "shutdown": "ok",
}
"""verb -> what becomes of it; these are about the cluster alone"""

WORDS = {
    "spawn": "--model none",
    "scale": "1 none",
    "load": "worker-0000 none",
    "mount": "tcp!127.0.0.1!1",
    "unmount": "worker-0001",
    "strategy": "random",
    "drain": "worker-0000",
    "resume": "worker-0000",
    "kill": "worker-0001",
    "save": "friday",
    "restore": "friday",
    "shutdown": "",
}


async def verbs(files: Files, ctl: str) -> set[str]:
    """That are no setting or verb of a conversation."""
    with pytest.raises(Error) as e:
        await files.write(ctl, "nonsense")
    listed = set(re.sub(".*; verbs are ", "", str(e.value)).split())
    return listed - {setting.name for setting in SETTINGS} - {"reset", "cancel"}


@story
async def test_the_table_has_every_verb(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        assert await verbs(place.me, "ctl") == set(ALLOWED_TO_BOB) == set(WORDS)
        assert await verbs(place.me, "worker-0000/ctl") == {"drain", "resume", "shutdown"}
        async with files_of(place.host) as host:
            assert await verbs(host, "ctl") == set(HOSTS)


@pytest.mark.parametrize("verb", sorted(ALLOWED_TO_BOB))
@story
async def test_what_an_administrator_may_do(tmp_path: Path, verb: str) -> None:
    async with shared(tmp_path) as place:
        line = f"{verb} {WORDS[verb]}"
        with pytest.raises(PermissionDenied, match=f"{verb} is for the owner and security.admins"):
            await place.alice.write("ctl", line)
        if verb == "restore":
            await place.bob.write("ctl", "save friday")
        expected = ALLOWED_TO_BOB[verb]
        if expected == "ok":
            await place.bob.write("ctl", line)
        else:
            with pytest.raises(Error, match=expected.removeprefix("fails: ")):
                await place.bob.write("ctl", line)
        assert place.stopped.is_set() == (verb == "shutdown")


@pytest.mark.parametrize("line", REFUSED_TO_BOB)
@story
async def test_paths_and_sockets_are_for_the_owner(tmp_path: Path, line: str) -> None:
    async with shared(tmp_path) as place:
        with pytest.raises(PermissionDenied, match=REFUSED):
            await place.bob.write("ctl", line)
        with pytest.raises(PermissionDenied, match=REFUSED):
            await place.bob.write("ctl", f"max_tokens 3\n{line}")
        assert "max_tokens 3\n" not in await place.bob.read("ctl")
        assert not place.checkpoints.exists()


@story
async def test_a_unix_socket_is_registered_by_the_owner_only(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        opened = await place.bob.open("registry/new", c.ORDWR)
        with pytest.raises(PermissionDenied, match=REFUSED):
            await opened.write(f"unix!{tmp_path}/h epoch 1".encode())
        await opened.clunk()
        async with simulated_host(1, at=ANYWHERE) as host:
            opened = await place.bob.open("registry/new", c.ORDWR)
            await opened.write(f"{host.address} epoch 1".encode())
            assert "worker-0002" in await place.bob.ls()
            await opened.clunk()


@story
async def test_a_configured_model_is_no_path_of_his(tmp_path: Path) -> None:
    model = {"resources": {"model": "/models/none.gguf"}}
    config = Cluster.model_validate({"nodes": {"one": model}}).with_state(tmp_path / "state")
    orchestrator = Orchestrator(config, lambda: None)
    server = Server(orchestrator.attach, security=Security(admins=["bob"]))
    address = await server.listen(parse(f"unix!{tmp_path}/o"))
    async with files_of(address, uname="bob") as bob:
        for line in ("spawn", "spawn --model /models/none.gguf"):
            with pytest.raises(Error, match="none.gguf") as e:
                await bob.write("ctl", line)
            assert not isinstance(e.value, PermissionDenied)
    await orchestrator.close()
    await server.close()


# -- checkpoints ------------------------------------------------------------------

BAD_NAMES = [
    ".", "..", ".hidden", "-", "-x", "x" * 65, "a b", "ä", "a\nb", "\0", "''", "a\0b", "~", "$HOME",
    "*", "a\\b",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("verb", ["save", "restore"])
@story
async def test_names_of_checkpoints_are_checked(tmp_path: Path, verb: str, name: str) -> None:
    async with shared(tmp_path) as place:
        before = set(os.listdir(tmp_path))
        for files in (place.bob, place.me):
            with pytest.raises(Error, match="bad name .* of a checkpoint: use letters, digits"):
                await files.write("ctl", f"{verb} '{name}'" if name != "''" else f"{verb} ''")
        assert set(os.listdir(tmp_path)) == before


@story
async def test_a_checkpoint_lies_in_a_directory_that_is_the_owners_alone(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        await place.bob.write("ctl", "save friday")
        await place.bob.write("ctl", "save friday")
        assert stat.S_IMODE(place.checkpoints.stat().st_mode) == 0o700
        [file] = place.checkpoints.iterdir()
        assert file.name == "friday" and stat.S_IMODE(file.stat().st_mode) == 0o600
        assert json.loads(file.read_text())["hosts"]
        await place.bob.write("ctl", "restore friday")
        with pytest.raises(NotFound, match="monday"):
            await place.bob.write("ctl", "restore monday")
        place.checkpoints.chmod(0o755)
        with pytest.raises(Error, match="is open to others: its mode must be 0700"):
            await place.bob.write("ctl", "save friday")


@story
async def test_a_checkpoint_goes_through_no_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    async with shared(tmp_path) as place:
        place.checkpoints.mkdir(0o700)
        (place.checkpoints / "link").symlink_to(precious)
        os.mkfifo(place.checkpoints / "fifo")
        (place.checkpoints / "directory").mkdir()
        (place.checkpoints / "text").write_text("root:x:0:0")
        for name in ("link", "fifo", "directory"):
            for verb in ("save", "restore"):
                with pytest.raises(Error, match="it is (a symbolic link|not a regular file)"):
                    await place.bob.write("ctl", f"{verb} {name}")
        for verb in ("save", "restore"):
            with pytest.raises(Error, match="is damaged, or not ours") as e:
                await place.bob.write("ctl", f"{verb} text")
            assert "x:0" not in str(e.value)
        assert precious.read_text() == "precious"
        place.checkpoints.rename(tmp_path / "away")
        place.checkpoints.symlink_to(tmp_path / "away")
        with pytest.raises(Error, match="is not a directory of ours"):
            await place.bob.write("ctl", "save other")


@story
async def test_there_are_only_so_many_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llambo9p.cluster.checkpoints.MOST", 2)
    async with shared(tmp_path) as place:
        for name in ("a", "b", "a"):
            await place.bob.write("ctl", f"save {name}")
        with pytest.raises(NoSpace, match="has 2 checkpoints"):
            await place.bob.write("ctl", "save c")


@story
async def test_the_owner_may_say_a_path(tmp_path: Path) -> None:
    async with shared(tmp_path) as place:
        await place.me.write("ctl", f"save {tmp_path}/mine")
        await place.me.write("ctl", f"restore {tmp_path}/mine")
        assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o600
        assert not place.checkpoints.exists()
        with pytest.raises(Error, match="is not an absolute path"):
            await place.me.write("ctl", "save ./mine")
