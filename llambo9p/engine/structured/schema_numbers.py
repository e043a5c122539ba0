"""The numbers of a schema, as llguidance can keep them.

llguidance reads a number into a double, right only up to 15 digits (serde_json does), and
prints it with the fewest digits that mean it.  A constant that is not the same after that is
refused.  A bound is moved inwards: an answer always satisfies the schema then, and what is lost
lies beyond 2**53 or beyond the 15th digit.

Found wrong in llguidance 1.9.1, hence refused here:
- 0 < x <= 0.5 lets 0 through: an exclusive bound that is whole, and another less than 1 from it
  on the side away from 0.
- A `multipleOf` of many digits takes seconds, and several are merged in 32 bits.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

EXACT = 2**53 - 1
"""up to here a double holds every integer and its neighbours"""
DIGITS = 15
"""a fraction of so many digits is read right, down to SMALLEST"""
SMALLEST = Decimal("1e-22")
FARTHEST = 9 * 10**18
"""bounds beyond are moved here: below 2**63, and the same as double and as digits"""
LEAK = (
    "a whole number is let through where another bound is less than 1 from it; write minimum or"
    " maximum with the first number that you mean"
)
LARGEST_DIVISOR = 10_000
"""of a `multipleOf`, without its point: 0.25 is 25.  llguidance makes a state for each remainder,
0.15 s for so many and 20 s for 1,000,000, and merges two of them in 32 bits"""


def whole(value: Any) -> int | None:
    """A JSON number that is an integer (2 and 2.0 are); None for all else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value


def constant(value: float) -> int | float | None:
    """The number for `const` and `enum`; None: it cannot be kept."""
    integer = whole(value)
    if integer is None:
        return value if _is_read_right(_exact(value)) else None
    return integer if abs(integer) <= EXACT + 1 else None


def bound(keyword: str, value: float) -> tuple[str, int | float]:
    """The keyword and the number of a bound: the same, or moved inwards to what is kept."""
    upper = keyword.endswith("aximum")
    integer = whole(value)
    inclusive = "maximum" if upper else "minimum"
    if integer is None:
        exact = _exact(value)
        return (keyword, value) if _is_read_right(exact) else (inclusive, _inwards(exact, upper))
    if abs(integer) <= EXACT:
        return keyword, integer
    if keyword != inclusive:  # a double has no room for the difference
        integer += -1 if upper else 1
    return inclusive, _integer_bound(integer, upper)


def _integer_bound(integer: int, upper: bool) -> int:
    if abs(integer) >= FARTHEST:
        return FARTHEST if integer > 0 else -FARTHEST
    towards_zero = (integer > 0) == upper
    for zeros in range(1, 19):  # 1 digit and 18 zeros is always kept
        unit = int(10**zeros)
        digits = abs(integer) // unit + (0 if towards_zero else abs(integer) % unit > 0)
        moved: int = (1 if integer > 0 else -1) * digits * unit
        if int(float(moved)) == moved and Decimal(repr(float(moved))) == moved:
            return moved
    raise AssertionError(integer)


def _inwards(exact: Decimal, upper: bool) -> int | float:
    rounding = ROUND_FLOOR if upper else ROUND_CEILING
    exact = Context(prec=DIGITS, rounding=rounding).plus(exact)
    if not _is_read_right(exact):
        exact = exact.quantize(SMALLEST, rounding, Context(prec=400))
    return float(exact) if exact % 1 else int(exact)


def _is_read_right(exact: Decimal) -> bool:
    digits = exact.normalize().as_tuple()
    return len(digits.digits) <= DIGITS and exact % SMALLEST == 0


def outside(value: float, *, upper: bool) -> bool:
    """Whether a bound leaves no number that llguidance can write."""
    return -value >= FARTHEST if upper else value >= FARTHEST


def multiple_of(value: float) -> int | float | None:
    """The divisor; None: it cannot be kept."""
    exact = _exact(value).normalize()
    if not 0 < _without_point(exact) <= LARGEST_DIVISOR or exact % SMALLEST:
        return None
    divided, exponent = float(value), 0
    while divided != int(divided):  # as llguidance finds its digits
        divided *= 10
        exponent += 1
    if Decimal(int(divided)).scaleb(-exponent) != exact:
        return None
    integer = whole(value)
    return value if integer is None else integer


def multiples_fit(values: set[float]) -> bool:
    """Whether the least common multiple of any of them is kept, too."""
    exact = [_exact(value) for value in values]
    places = max((max(-int(e.normalize().as_tuple().exponent), 0) for e in exact), default=0)
    return math.lcm(*(int(e.scaleb(places)) for e in exact)) <= LARGEST_DIVISOR


def _without_point(exact: Decimal) -> int:
    places = max(-int(exact.as_tuple().exponent), 0)
    return int(exact.scaleb(places))


def _exact(value: float) -> Decimal:
    return Decimal(repr(value))


def leaks(bounds: set[tuple[str, float]]) -> bool:
    """Whether any two of these bounds, met in one number, let a number through that breaks them."""
    lower = sorted(value for keyword, value in bounds if keyword.lower().endswith("minimum"))
    upper = sorted(value for keyword, value in bounds if keyword.lower().endswith("maximum"))
    for keyword, value in bounds:
        if whole(value) is None:
            continue
        if keyword == "exclusiveMinimum" and value >= 0:
            i = bisect_right(upper, value)
            if i < len(upper) and upper[i] < value + 1:
                return True
        if keyword == "exclusiveMaximum" and value <= 0:
            i = bisect_left(lower, value) - 1
            if i >= 0 and lower[i] > value - 1:
                return True
    return False
