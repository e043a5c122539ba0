"""One request of a user behind many of another one.

Alice asks `--requests` at once, of 64 to 191 tokens each; when all slots are busy Bob asks one of
`--tokens`.  Both have connections of their own to a unix socket, where the process's user may
attach as anybody.  Printed is when Bob's first token and his last one came.

- alone:   nobody else asks;
- beside:  Alice has all slots but one, and nothing waits;
- behind:  Alice has all slots, and all others of her requests wait;
- as one:  the same, but Bob is Alice.  It is what a user waits behind requests of his own.

Each is asked of a host's worker (`files`), and at the root of an orchestrator that started the
host (`root`).  When Bob has his answer, Alice's are cancelled.  `ended` are her answers that ended
before his first token, `overtook` those that waited when he asked and had their first token before
his, and `gave up` those that waited again when he had his first token.

    python -m llambo9p_tools.bench.fairness [--rounds 3] [--requests 100] [--slots 16] [--tokens 32]
        [--cases alone,beside,behind,"as one"]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from llambo9p.fs.user import owner
from llambo9p.net import address
from llambo9p.net.client import Client, RemoteOpen
from llambo9p.p9 import constants as c

from .contenders import configure, listening
from .turns import N_CTX, THREADS, counting

SHORTEST, SPREAD = 64, 128
"""tokens of Alice's answers"""


@dataclass
class Seen:
    """Of Bob's request; times are in seconds since he asked.  For the others see the module."""

    first: float
    last: float
    ended: int
    overtook: int
    gave_up: int


class User:
    """A connection; `directory` is where he asks."""

    def __init__(self, client: Client, root: int, directory: str) -> None:
        self.client = client
        self.root = root
        self.directory = directory

    @classmethod
    async def connect(cls, at: address.Address, name: str, directory: str) -> User:
        client = await Client.connect(at)
        root, _ = await client.attach(name)
        return cls(client, root, directory)

    async def write(self, file: str, text: str) -> None:
        path = f"{self.directory}{file}"
        async with await self.client.open(self.root, path, c.OWRITE) as opened:
            await opened.write(text.encode())

    async def clone(self, n_tokens: int) -> Conversation:
        path = f"{self.directory}clone"
        ctl = await self.client.open(self.root, path, c.ORDWR)
        number = (await ctl.read(0)).decode().strip()
        await ctl.write(f"mode complete\ntemperature 0\nmax_tokens {n_tokens}".encode())
        return Conversation(self, ctl, f"{self.directory}{number}/")


class Conversation:
    """A cloned one, of one request."""

    def __init__(self, user: User, ctl: RemoteOpen, directory: str) -> None:
        self._user = user
        self._ctl = ctl
        self._directory = directory

    async def ask(self, prompt: str) -> None:
        path = f"{self._directory}prompt"
        await self._user.client.put(self._user.root, path, prompt.encode())

    async def answered(self, first: asyncio.Event) -> None:
        """`first` is set when there is some text."""
        client, root = self._user.client, self._user.root
        async with await client.open(root, f"{self._directory}out", c.OREAD) as out:
            async for _ in out.chunks():
                first.set()

    async def attrs(self, file: str) -> dict[str, str]:
        client, root = self._user.client, self._user.root
        lines = (await client.get(root, f"{self._directory}{file}")).decode().splitlines()
        return dict(line.split(" ", 1) for line in lines if " " in line)

    async def state(self) -> str:
        return (await self.attrs("status"))["state"]

    def close(self) -> None:
        self._ctl.forget()


@contextlib.contextmanager
def host(directory: str, slots: int, model: str) -> Iterator[tuple[address.Address, str]]:
    """A host with one worker: its address, and where in it to ask."""
    with listening(
        "llambo9p_nodes.worker", "--listen", f"unix!{directory}/host", "--exit-with-stdin",
        "--count", "1", "--slots", str(slots), "--context", str(N_CTX), "--model", model,
        "--threads", str(THREADS),
    ) as (at, _):  # fmt: skip
        yield at, "worker-0000/"


@contextlib.contextmanager
def cluster(directory: str, slots: int, model: str) -> Iterator[tuple[address.Address, str]]:
    """The root of an orchestrator that has such a host."""
    configure(directory, slots, N_CTX, model)
    with listening(
        "llambo9p_nodes.orchestrator", "--listen", f"unix!{directory}/root",
        "--config", f"{directory}/cluster.yaml", "--state", f"{directory}/state",
    ) as (at, _):  # fmt: skip
        uvloop.run(_spawn(at))
        yield at, ""


async def _spawn(at: address.Address) -> None:
    user = await User.connect(at, owner().name, "")
    await user.write("ctl", "spawn --count 1")
    user.client.close()


async def ask(
    at: address.Address, directory: str, slots: int, requests: int, n_tokens: int, bobs_name: str
) -> Seen:
    """Alice asks so many, then Bob one."""
    alice = await User.connect(at, "alice", directory)
    bob = await User.connect(at, bobs_name, directory)
    hers = [await alice.clone(SHORTEST + 37 * number % SPREAD) for number in range(requests)]
    his = await bob.clone(n_tokens)
    firsts = [asyncio.Event() for _ in hers]
    for number, conversation in enumerate(hers):
        await conversation.ask(counting(97 * number, 4))
    following = [
        asyncio.ensure_future(conversation.answered(first))
        for conversation, first in zip(hers, firsts, strict=True)
    ]
    for first in firsts[: min(slots, requests)]:
        await first.wait()
    waited = [first for first in firsts if not first.is_set()]
    ended = sum(each.done() for each in following)
    asked = time.perf_counter()
    await his.ask(counting(5003, 4))
    first = asyncio.Event()
    answered = asyncio.ensure_future(his.answered(first))
    await first.wait()
    at_first = time.perf_counter()
    ended = sum(each.done() for each in following) - ended
    overtook = sum(each.is_set() for each in waited)
    states = [await conversation.state() for conversation in hers[:slots]]
    await answered
    at_last = time.perf_counter()
    for each in following:
        each.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    for conversation in (*hers, his):
        conversation.close()
    alice.client.close()
    bob.client.close()
    gave_up = states.count("queued")
    return Seen(at_first - asked, at_last - asked, ended, overtook, gave_up)


def measure(
    rounds: int,
    requests: int,
    slots: int,
    n_tokens: int,
    cases: Sequence[str],
    model: str = "default",
) -> dict[tuple[str, str], list[Seen]]:
    """What was seen in each round, by where it was asked and by case."""
    beside = {"alone": 0, "beside": slots - 1, "behind": requests, "as one": requests}
    seen: dict[tuple[str, str], list[Seen]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for where, start in (("files", host), ("root", cluster)):
            Path(directory, where).mkdir()
            with start(str(Path(directory, where)), slots, model) as (at, path):
                uvloop.run(ask(at, path, slots, 0, 1, "bob"))
                for _ in range(rounds):
                    for case in cases:
                        name = "alice" if case == "as one" else "bob"
                        asking = ask(at, path, slots, beside[case], n_tokens, name)
                        seen.setdefault((where, case), []).append(uvloop.run(asking))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=100, help="of Alice")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32, help="of Bob's answer")
    parser.add_argument("--cases", default="alone,beside,behind,as one")
    options = parser.parse_args()
    seen = measure(
        options.rounds, options.requests, options.slots, options.tokens, options.cases.split(",")
    )
    print("medians of", options.rounds, "rounds; s, and the most answers of Alice's")
    print(f"{'':13} {'first':>7} {'last':>7} {'ended':>7} {'overtook':>9} {'gave up':>8}")
    for (where, case), rounds in seen.items():
        first = statistics.median(each.first for each in rounds)
        last = statistics.median(each.last for each in rounds)
        ended, overtook, gave_up = (
            max(getattr(each, name) for each in rounds) for name in ("ended", "overtook", "gave_up")
        )
        print(f"{where:6}{case:7} {first:7.2f} {last:7.2f} {ended:7} {overtook:9} {gave_up:8}")


if __name__ == "__main__":
    main()
