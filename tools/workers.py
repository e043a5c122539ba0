"""The root's file `workers`: a line for each worker.

It begins like the lines of a host's `workers`; `llambo9p.cluster.views` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from llambo9p.conversation.said import HIDDEN
from llambo9p.errors import InvalidArgument
from llambo9p.fs.ctl import split_words

from .failure import Failure


@dataclass(frozen=True, slots=True)
class Worker:
    name: str
    state: str
    load: int
    """requests that are not over, those that wait included"""
    queued: int
    requests: int
    tokens: int
    errors: int
    health: str
    circuit: str
    capacity: int
    """of its host, whose workers share it"""
    host: str
    """by what its log is called, `-` for one that was not started by the cluster"""
    epoch: int
    heartbeat: float
    """time.time() of the last one"""
    type: str
    addr: str
    model: str
    figures: bool = True
    """whether we are told its state and what is counted; they are "-" and 0 otherwise"""

    @property
    def does(self) -> str:
        """Its state; `idle` says only that nobody asked its own `prompt`, and not that it has
        nothing to do."""
        if self.state != "idle" or not self.load:
            return self.state
        return "decode" if self.load > self.queued else "queued"


def parse(text: str) -> list[Worker]:
    """Raises Failure for what is no such file."""
    try:
        return [_worker(line) for line in text.splitlines()]
    except (ValueError, InvalidArgument):
        raise Failure("workers: not understood; is the cluster of another version?") from None


def _worker(line: str) -> Worker:
    # no other words than the last three have quotes
    *words, rest = line.split(" ", 13)
    figures = " ".join(words[1:7]) != HIDDEN
    if not figures:
        words[2:7] = ["0"] * 5
    name, state, load, queued, requests, tokens, errors, health, circuit, *others = words
    capacity, host, epoch, heartbeat = others
    type_name, addr, model = split_words(rest) if "'" in rest else rest.split(" ")
    return Worker(
        name=name,
        state=state,
        load=int(load),
        queued=int(queued),
        requests=int(requests),
        tokens=int(tokens),
        errors=int(errors),
        health=health,
        circuit=circuit,
        capacity=int(capacity),
        host=host,
        epoch=int(epoch),
        heartbeat=float(heartbeat),
        type=type_name,
        addr=addr,
        model=model,
        figures=figures,
    )
