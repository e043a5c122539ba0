"""The two tiers of tests: what `tools/test` runs for every change, and what
`tools/test --all` runs besides.

What takes long is smaller in the first tier, by `either`, or only in the second, by
`@pytest.mark.second_tier`.
"""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

ALL = os.environ.get("LLAMBO_TESTS") == "all"


def either(usually: T, with_all: T) -> T:
    return with_all if ALL else usually
