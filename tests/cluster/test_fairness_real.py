"""One user's request behind another one's many, with the real model and real processes: a host,
and an orchestrator with one.  The measurement itself is `llambo9p_tools.bench.fairness`."""

from __future__ import annotations

import pytest
from llambo9p_tools.bench import fairness


@pytest.mark.slow
def test_one_request_has_the_next_slot() -> None:
    slots = 2
    seen = fairness.measure(1, 12, slots, 8, ["alone", "behind"])
    for where in ("files", "root"):
        (alone,), (behind,) = seen[where, "alone"], seen[where, "behind"]
        print(f"{where}: first token after {behind.first:.2f} s, alone {alone.first:.2f}")
        # if all slots are free at once, one of those that waited may have its token with this one
        assert behind.overtook < slots
        assert behind.ended <= slots
