"""What is saved of a cluster, as JSON with a version number: pure.

Saved is what cannot be asked of anybody after the orchestrator died: the hosts, where they
are and by which epoch to know them, what their workers are called here, and how those that
were started here are started again; and what was changed at run time, the strategy and
the settings of each user's root.  Histories and system prompts are not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from ..errors import Error
from .config import Engine
from .launchers.base import HostSpec
from .names import check_mount
from .units import AddressText

VERSION = 1

Number = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True, slots=True)
class Started:
    """How a host came to be that was started here."""

    engine: Engine
    spec: HostSpec
    handle: str
    """by which its launcher finds it"""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class SavedHost:
    address: AddressText
    epoch: Number | None
    """None for a server that has none"""
    types: list[str]
    model: str
    slots: Number
    answers: bool
    """it has a worker's files"""
    workers: dict[str, Annotated[str, AfterValidator(check_mount)]]
    """what the host calls them -> what they are called here; "" is the host's whole tree"""
    expected: bool = True
    """to come back to its address, if it is not there; otherwise it registers by itself"""
    gone: bool = False
    """it is lost, and nobody waits for it; should it register again, these are its names"""
    drained: list[str] = field(default_factory=list)
    """those of its workers that get nothing new, as the host calls them"""
    user: str = ""
    """as whom its whole tree is attached; empty: as for any host"""
    aname: str = ""
    """of its whole tree"""
    started: Started | None = None
    """None for one that was mounted or registered"""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class State:
    address: AddressText
    """where tools of this machine reach the orchestrator"""
    pid: Number
    strategy: str | None = None
    """None for that of the configuration"""
    settings: dict[str, str] = field(default_factory=dict)
    """user -> what the `ctl` of his root says, when that is not what it said at first"""
    hosts: list[SavedHost] = field(default_factory=list)
    floors: dict[str, int] = field(default_factory=dict)
    """node type -> workers that were asked for, below which scaling does not go"""
    version: Annotated[int, Field(ge=VERSION, le=VERSION)] = VERSION

    __pydantic_config__ = ConfigDict(extra="forbid")


_STATE = TypeAdapter(State)


def dump(state: State) -> bytes:
    return _STATE.dump_json(state) + b"\n"


def parse(data: bytes, name: str) -> State:
    """What `dump` made.  Raises Error naming the file and what is wrong in it."""
    try:
        return _STATE.validate_json(data)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Error(
            f"state file {name} is damaged, or not ours: {where and where + ': '}{first['msg']}; "
            "move it away to start with an empty cluster"
        ) from None
