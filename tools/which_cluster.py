"""Which cluster a tool talks to: `--addr`, else `$LLAMBO_ADDR`, else the state file.

The state file (`$LLAMBO_STATE`, by default in /tmp) is written by the orchestrator: a
JSON object with, among others, its `address` and `pid`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from llambo9p.cluster import state_file
from llambo9p.errors import Error, InvalidArgument
from llambo9p.net.address import Address, parse

from .failure import Failure, NoCluster

DEFAULT_STATE = "/tmp/llambo-cluster.state"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A place where an orchestrator answers, or did once."""

    address: Address
    pid: int | None = None
    """of the orchestrator, where the state file named it"""


def state_path() -> Path:
    return Path(os.environ.get("LLAMBO_STATE") or DEFAULT_STATE).absolute()


def parse_address(text: str, source: str) -> Address:
    """Raises Failure that says where the bad address came from."""
    try:
        return parse(text)
    except InvalidArgument as e:
        raise Failure(f"{source}: {e}") from None


def is_named(addr: str | None) -> bool:
    """Whether the user said which, and the state file was not asked."""
    return bool(addr or os.environ.get("LLAMBO_ADDR"))


def find(addr: str | None) -> Cluster:
    """The cluster that the user means.  Raises NoCluster when there is none to be found, and
    Failure for an address that is none."""
    for text, source in ((addr, "--addr"), (os.environ.get("LLAMBO_ADDR"), "$LLAMBO_ADDR")):
        if text:
            return Cluster(parse_address(text, source))
    cluster = read_state(state_path())
    if cluster is None:
        raise NoCluster(
            f"no cluster is known: {state_path()} does not exist. "
            "Start one with `llamboctl init`, or name one with --addr or $LLAMBO_ADDR"
        )
    return cluster


def read_state(path: Path) -> Cluster | None:
    """What the state file says, None if there is none.  Raises Failure if it cannot be
    believed or read."""
    try:
        data = state_file.read(path)
    except Error as e:
        raise Failure(f"{e}. Set $LLAMBO_STATE to a path of your own") from None
    if data is None:
        return None
    try:
        said = json.loads(data)
        address, pid = said["address"], said.get("pid")
        if not isinstance(address, str) or not isinstance(pid, int | None):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Failure(
            f"{path} is no state file of a cluster, or damaged: set $LLAMBO_STATE to a path of "
            "your own"
        ) from None
    return Cluster(parse_address(address, str(path)), pid)
