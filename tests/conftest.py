"""What all tests need: a limit of 20 s for each test that is not marked slow (QEMU,
Ray, long fuzzing), unless the command line says `--timeout`; and hypothesis without
deadlines, as the machines are shared.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

TIMEOUT_S = 20
SLOW_TIMEOUT_S = 600

settings.register_profile("llambo", deadline=None, print_blob=True)
settings.load_profile("llambo")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("timeout") is not None:
        return
    for item in items:
        if item.get_closest_marker("timeout") is None:
            slow = item.get_closest_marker("slow") is not None
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S if slow else TIMEOUT_S))
