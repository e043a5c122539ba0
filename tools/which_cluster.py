"""Which cluster a tool talks to: `--addr`, else `$LLAMBO_ADDR`, else the state file.

The state file (`$LLAMBO_STATE`, by default in /tmp) is written by the orchestrator: a
JSON object with its `address` and `pid`.  /tmp belongs to everybody, so a file that is
a link or not our own is never believed.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from llambo9p.errors import InvalidArgument
from llambo9p.net.address import Address, parse

from .failure import Failure

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


def find(addr: str | None) -> Cluster:
    """The cluster that the user means.  Raises Failure when there is none to be found."""
    for text, source in ((addr, "--addr"), (os.environ.get("LLAMBO_ADDR"), "$LLAMBO_ADDR")):
        if text:
            return Cluster(parse_address(text, source))
    cluster = read_state(state_path())
    if cluster is None:
        raise Failure(
            f"no cluster is known: {state_path()} does not exist. "
            "Start one with `llamboctl init`, or name one with --addr or $LLAMBO_ADDR"
        )
    return cluster


def read_state(path: Path) -> Cluster | None:
    """What the state file says, None if there is none.  Raises Failure if it cannot be
    believed or read."""
    try:
        # O_NONBLOCK: somebody may have put a fifo there
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as e:
        why = "it is a symbolic link" if e.errno == errno.ELOOP else e.strerror
        raise Failure(f"not using the state file {path}: {why}") from None
    with os.fdopen(fd, "rb") as f:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode):
            raise Failure(f"not using the state file {path}: it is not a regular file")
        if st.st_uid != os.geteuid():
            raise Failure(
                f"not using the state file {path}: it belongs to uid {st.st_uid}, not to you. "
                "Set $LLAMBO_STATE to a path of your own"
            )
        data = f.read(65536)
    try:
        said = json.loads(data)
        address, pid = said["address"], said.get("pid")
        if not isinstance(address, str) or not isinstance(pid, int | None):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Failure(f"the state file {path} is damaged: remove it") from None
    return Cluster(parse_address(address, str(path)), pid)
