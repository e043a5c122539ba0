"""Words that clients and hosts write: numbers are read with a bound, and text is shown with one.

Whoever writes a number writes as many digits as he likes, and whoever writes a name puts into it
what he likes.  `int()` of a long word raises or takes long, and a name of megabytes fills a log.
So every number from the wire goes through here, and every word of a client that goes into an error,
a log or an event.  Pure.
"""

from __future__ import annotations

DIGITS = 19
"""that a number has at most: enough for 2**63 - 1"""
SHOWN = 80
"""characters of a word that are shown"""


def whole_number(word: str, low: int = 0, high: int = 10**18 - 1) -> int | None:
    """The number from `low` to `high` that a word of decimal digits is, with a `-` before them
    where `low` is negative; None for anything else."""
    digits = word[1:] if low < 0 and word[:1] == "-" else word
    if not digits.isascii() or not digits.isdigit() or len(digits) > DIGITS:
        return None
    number = int(word)
    return number if low <= number <= high else None


def number(word: str, low: float, high: float) -> float | None:
    """The decimal number from `low` to `high` that a word is; None for anything else."""
    if len(word) > 40:
        return None
    try:
        value = float(word)
    except ValueError:
        return None
    return value if low <= value <= high else None


def shown(text: str, most: int = SHOWN) -> str:
    """The text in one line of printable characters, cut where it has more than `most`."""
    cut = text[:most]
    if not cut.isprintable():
        cut = "".join(ch if ch.isprintable() else ascii(ch)[1:-1] for ch in cut)[: 2 * most]
    return cut if len(text) <= most else f"{cut}... ({len(text)} characters)"
