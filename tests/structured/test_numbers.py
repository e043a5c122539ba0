"""Bounds and divisors of numbers: what comes satisfies them, digit by digit."""

from __future__ import annotations

import json
from decimal import Context, Decimal, localcontext
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llambo9p.engine.structured.constraint import Constraint
from llambo9p.engine.structured.schema import to_llguidance
from llambo9p.errors import InvalidArgument
from tests.structured.harness import accepts

BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
numbers = st.one_of(
    st.integers(-12, 12),
    st.integers(-(10**19), 10**19),
    st.integers(-3000, 3000).map(lambda n: n / 1000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.1, -0.0, 1e-7, 5e-324, 2**53 - 1, 2**53, 2**63 - 1, 1e22, 123456.789]),
)
divisors = st.sampled_from([1, 2, 3, 7, 10, 100, 1000, 0.5, 0.1, 0.25, 0.01, 1.5, 12.5, 0.3])
schemas = st.builds(
    lambda kind, bounds, divisor: {"type": kind, **bounds, **divisor},
    st.sampled_from(["integer", "number"]),
    st.dictionaries(st.sampled_from(BOUNDS), numbers, max_size=2),
    st.dictionaries(st.just("multipleOf"), divisors, max_size=1),
)
STEPS = ["0", "1", "-1", "0.1", "-0.1", "0.5", "-0.5", "0.01", "-0.01", "1e-9", "-1e-25", "1e-25"]


def satisfies(schema: dict[str, Any], value: Decimal) -> bool:
    if schema["type"] == "integer" and value % 1:
        return False
    compared = {
        "minimum": lambda limit: value >= limit,
        "maximum": lambda limit: value <= limit,
        "exclusiveMinimum": lambda limit: value > limit,
        "exclusiveMaximum": lambda limit: value < limit,
        "multipleOf": lambda divisor: value % divisor == 0,
    }
    return all(compared[k](Decimal(repr(v))) for k, v in schema.items() if k != "type")


def spellings(value: Decimal) -> list[str]:
    """The same number with ever more zeros behind it."""
    plain = format(value, "f")
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    plain = "0" if plain in ("", "-0") else plain
    pointed = plain if "." in plain else plain + "."
    return [plain, *(pointed + "0" * n for n in range(1, 17))]


@settings(max_examples=100)
@given(schemas, st.lists(st.integers(-1500, 1500), max_size=4))
def test_numbers_satisfy_their_bounds(schema: dict[str, Any], others: list[int]) -> None:
    try:
        made = to_llguidance(Constraint("schema", json.dumps(schema)))
    except InvalidArgument:
        return
    with localcontext(Context(prec=800)):
        limits = [Decimal(repr(v)) for k, v in schema.items() if k != "type"]
        near = [limit + Decimal(step) for limit in limits for step in STEPS]
        for value in {*near, *(Decimal(n) / 100 for n in others), Decimal(0), Decimal("1e20")}:
            let_through = [text for text in spellings(value) if accepts(made, text)]
            if not satisfies(schema, value):
                assert not let_through
            elif abs(value) < 2**53 and len(value.normalize().as_tuple().digits) <= 15:
                # One spelling is enough: llguidance writes 0.50 below 0.51, and no 0.5.
                assert let_through or (value % Decimal("1e-22")), value


def test_minus_zero_is_zero() -> None:
    made = to_llguidance(Constraint("schema", '{"type":"number","exclusiveMinimum":0}'))
    assert not accepts(made, "-0") and not accepts(made, "0") and not accepts(made, "0.00")
