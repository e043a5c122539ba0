"""A real cluster for real clients: the orchestrator's process, and py9p as a shell
would be, synchronous and with no code of ours."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import py9p

from llambo9p.cluster import config as configuration
from llambo9p.net.address import Address, parse

CONFIG = Path(__file__).parents[2] / "cluster-config.yaml"


@contextlib.contextmanager
def orchestrator(directory: Path, config: Path = CONFIG) -> Iterator[int]:
    """An orchestrator process; gives its port."""
    with listening(directory, config, "tcp!127.0.0.1!0") as (address,):
        yield address.port


@contextlib.contextmanager
def listening(directory: Path, config: Path, *listen: str) -> Iterator[list[Address]]:
    """An orchestrator process; gives where it listens, by default as configured."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "llambo9p_nodes.orchestrator"),
            *("--config", str(config), "--state", str(directory / "state")),
            *(word for address in listen for word in ("--listen", address)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        addresses = []
        for _ in listen or configuration.load(config).network.listen:
            line = process.stdout.readline()
            assert line.startswith("listening "), line
            addresses.append(parse(line.removeprefix("listening ")))
        yield addresses
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()


class Namespace:
    """One attached py9p client and whole-file operations on paths."""

    def __init__(self, where: int | str, aname: str = "", uname: str | None = "glenda") -> None:
        """`where` is a port of this machine or the path of a unix socket; without a uname
        the user that runs this."""
        if isinstance(where, int):
            self.client = py9p.Client.connect_tcp("127.0.0.1", where)
        else:
            self.client = py9p.Client.connect_unix(where)
        try:
            self.client.negotiate()
            self.client.attach(0, uname=uname, aname=aname)
        except BaseException:
            self.client.close()
            raise
        self._fids = itertools.count(1)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.close()

    def open(self, path: str, mode: int = int(py9p.OREAD)) -> int:
        """A new fid, walked to `path` and open."""
        fid = next(self._fids)
        names = [name for name in path.split("/") if name]
        qids = self.client.walk(0, fid, names)
        if len(qids) != len(names):
            raise py9p.RemoteError("file does not exist")
        self.client.open(fid, mode)
        return fid

    def write(self, path: str, data: bytes, piece: int = 4096) -> None:
        fid = self.open(path, int(py9p.OWRITE))
        try:
            for at in range(0, len(data), piece):
                self.client.write(fid, data[at : at + piece], at)
        finally:
            self.client.clunk(fid)

    def pieces(self, path: str, count: int | None = None) -> Iterator[bytes]:
        """What each Tread gives, from the file's start to its end."""
        fid = self.open(path)
        try:
            offset = 0
            while data := self.client.read(fid, count, offset):
                yield data
                offset += len(data)
        finally:
            self.client.clunk(fid)

    def read(self, path: str) -> bytes:
        return b"".join(self.pieces(path))

    def attrs(self, path: str) -> dict[str, str]:
        return dict(line.split(" ", 1) for line in self.read(path).decode().splitlines())
