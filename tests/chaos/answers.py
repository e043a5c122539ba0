"""What the simulated engine answers here: another text for each conversation, so that an answer
that is right can only be this conversation's, with all its turns.  No I/O.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

LETTERS = "abcdefghij klmnopqrst uvwxyz 0123456789 \n äöß€ 漢字 🙂"
SHORTEST, LONGEST = 20, 300
"""characters of an answer"""


def answer(prompt: str) -> bytes:
    """`prompt` as the engine renders it."""
    rng = random.Random(prompt)
    letters = rng.choices(LETTERS, k=rng.randint(SHORTEST, LONGEST))
    return ("<" + "".join(letters) + ">").encode()


def expected(contents: Sequence[str]) -> str:
    """The answer to the last of these messages after the others."""
    return answer("\n\n".join(contents).strip("\n")).decode()
