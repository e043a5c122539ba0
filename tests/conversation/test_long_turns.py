"""No client makes a turn of the event loop long: what one connection, or many, can ask for in a
worker's tree, each with contents as large as they may be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from llambo9p.engine.base import Message
from llambo9p.net.address import Address
from llambo9p.p9 import constants as c
from llambo9p.p9 import messages as m
from tests.files import story
from tests.turns import LIMIT, RawClient, apart, measured

from .harness import Place, conversing

PIECE = 128 * 1024 - c.IOHDRSZ


def opened(fid: int, name: str, mode: int = c.OREAD) -> list[m.Message]:
    return [m.Twalk(fid, 0, fid, (name,)), m.Topen(fid, fid, mode)]


def written(client: RawClient, name: str, data: bytes) -> None:
    """All of it, and the Tclunk."""
    client.ask(*opened(1, name, c.OWRITE))
    for at in range(0, len(data), PIECE):
        client.ask(m.Twrite(1, 1, at, data[at : at + PIECE]))
    client.ask(m.Tclunk(1, 1))


def pairs(name: str, count: int) -> Callable[[Address], None]:
    """So many opens and clunks in one packet."""

    def run(address: Address) -> None:
        client = RawClient(address)
        fids = range(1, count + 1)
        msgs = [msg for fid in fids for msg in (*opened(fid, name), m.Tclunk(fid, fid))]
        assert len(client.ask(*msgs)) == 3 * count
        client.close()

    return run


def writes(name: str, data: bytes, times: int = 1) -> Callable[[Address], None]:
    def run(address: Address) -> None:
        client = RawClient(address)
        for _ in range(times):
            written(client, name, data)
        client.close()

    return run


def at_once(name: str, data: bytes, times: int) -> Callable[[Address], None]:
    """The same write many times, not waiting for replies."""

    def run(address: Address) -> None:
        client = RawClient(address)
        client.ask(*opened(1, name, c.OWRITE))
        client.ask(*(m.Twrite(tag, 1, 0, data) for tag in range(times)))
        client.close()

    return run


def reads_to_the_end(address: Address) -> None:
    client = RawClient(address)
    client.ask(*opened(1, "history"))
    offset, far = 0, 10**9
    while True:
        [reply] = client.ask(m.Tread(1, 1, offset, PIECE))
        if len(reply) == c.READHDRSZ:
            break
        offset += len(reply) - c.READHDRSZ
    for at in (far, 0, offset - 10, far, 5):
        client.ask(m.Tread(1, 1, at, PIECE))
    client.close()


def opens_many_and_leaves(address: Address) -> None:
    """Each clone is a conversation, which ends with its fid."""
    client = RawClient(address)
    for first in range(1, 5_001, 500):
        fids = range(first, first + 500)
        client.ask(*(msg for fid in fids for msg in opened(fid, "clone", c.ORDWR)))
    client.close()


def comes_with_many(address: Address) -> None:
    """A hundred connections ask at once."""
    clients = [RawClient(address) for _ in range(100)]
    for client in clients:
        client.say(*(msg for fid in range(1, 201) for msg in opened(fid, "ctl")))
    for client in clients:
        client.hear(400)
        client.close()


def lines(messages: Iterator[str]) -> bytes:
    return b"".join(
        json.dumps({"role": "user", "content": text}).encode() + b"\n" for text in messages
    )


TINY = lines("" for _ in range(120_000))
LARGE = lines("\x01" * (1 << 20) for _ in range(2)) + lines("x" * (4 << 20) for _ in range(2))
CTL = {
    "many lines": b"top_k 1\n" * (PIECE // 8),
    "blank lines": b"\n" * PIECE,
    "one word": b"x" * PIECE,
    "many words": b"stop " + b"a " * (PIECE // 2 - 5),
    "quotes": b"stop '" + b"''" * (PIECE // 2 - 5) + b"'",
    "an open quote": b"'" + b"x\n" * (PIECE // 2 - 5),
    "digits": b"max_tokens " + b"9" * (PIECE - 11),
    "a number": b"temperature " + b"9" * (PIECE - 12),
}
INPUTS: dict[str, Callable[[Address], None]] = {
    "history opened 40 times in a packet": pairs("history", 40),
    "history read": reads_to_the_end,
    "tiny messages written": writes("history", TINY),
    "large messages written": writes("history", LARGE),
    "tokens written": writes("tokens", b"1\n" * (1 << 17), 3),
    "a system prompt written": writes("system", "é".encode() * (4 << 20)),
    "9,000 messages in one go": pairs("status", 3_000),
    "5,000 clones left": opens_many_and_leaves,
    "a hundred connections": comes_with_many,
    **{f"ctl: {name}": at_once("ctl", data, 20) for name, data in CTL.items()},
}


def fill(place: Place) -> None:
    """A history as large as it may be, mostly of tiny messages."""
    messages = [Message("user", "")] * 100_000 + [Message("assistant", "x" * (3 << 20))]
    conversation = place.conversation
    size = 128 * len(messages) + (3 << 20)
    conversation.append_history(lambda: (messages, size))


@pytest.mark.parametrize("what", INPUTS)
@story
async def test_no_turn_is_long(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with conversing() as place:
        if "history" in what:
            fill(place)
        with measured(monkeypatch) as turns:
            await apart(INPUTS[what], place.address)
            # what is left of the connections ends, too
            async with place.connect() as files:
                while len(place.server.connections) > 2:
                    await files.read("status")
        assert turns.longest < LIMIT, f"{turns.longest:.3f} s, in {turns.count} turns"


@story
async def test_a_history_that_is_full_of_turns_makes_room_in_a_short_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with conversing() as place:
        fill(place)
        with measured(monkeypatch) as turns:
            await place.files.write("ctl", "mode chat")
            place.conversation._remember([Message("user", "x" * (12 << 20))])
            await place.files.read("status")
        assert place.conversation.history_bytes <= place.conversation.limits.history_bytes
        assert turns.longest < LIMIT
