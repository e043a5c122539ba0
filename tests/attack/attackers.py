"""The attackers' program: attacks of the table, all at once, round after round, until it is told to
stop; then a line of JSON says how each one went.

    python -m tests.attack.attackers TARGET ATTACK ...

It runs at a low priority: attackers come from other machines, and take none of this one's
processors.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from llambo9p.errors import Error

from .attacks import ATTACKS, Attack
from .target import Target

NICE = 5
ROUND_S = 30.0
PAUSE_S = 0.05
"""after a round, so that no attack has the program for itself"""


@dataclass
class Rounds:
    """Of one attack."""

    done: int = 0
    refused: int = 0
    late: int = 0
    last: str = ""
    """error"""


async def _repeat(attack: Attack, target: Target, rounds: Rounds) -> None:
    while True:
        try:
            async with asyncio.timeout(ROUND_S):
                await attack(target)
            rounds.done += 1
        except TimeoutError:
            rounds.late += 1
        except (Error, OSError) as e:
            rounds.refused += 1
            rounds.last = str(e)[:200]
        await asyncio.sleep(PAUSE_S)


async def run(target: Target, names: Sequence[str]) -> dict[str, Rounds]:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    rounds = {name: Rounds() for name in names}
    attacking = [asyncio.create_task(_repeat(ATTACKS[n], target, rounds[n])) for n in names]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([*attacking, stopping], return_when=asyncio.FIRST_COMPLETED)
    for each in attacking:
        if each.done():
            each.result()  # an attack that is wrong itself
        each.cancel()
    await asyncio.wait(attacking)
    return rounds


def main() -> None:
    os.nice(NICE)
    target, *names = sys.argv[1:]
    rounds = asyncio.run(run(Target.parse(target), names))
    print(json.dumps({name: dataclasses.asdict(each) for name, each in rounds.items()}))


if __name__ == "__main__":
    main()
