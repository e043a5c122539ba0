"""What all tests need: a limit of 20 s for each test that is not marked slow (QEMU,
Ray, long fuzzing), unless the command line says `--timeout`; and hypothesis without
deadlines, as the machines are shared.  Where Python is slower than on the machine that the limits
were found on, they are longer in proportion.  And the models that a capability is proven with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.tiers import ALL

TIMEOUT_S = 20
SLOW_TIMEOUT_S = 600
USUAL_S = 0.07
"""that `_count` took there"""
SLOWEST = 4.0
"""times; beyond it something else is wrong"""

settings.register_profile("llambo", deadline=None, print_blob=True)
settings.load_profile("llambo")




@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is known of models on this machine is not known to tests, and not told by them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not ALL:
        later = [item for item in items if item.get_closest_marker("second_tier") is not None]
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if item not in later]
    if config.getoption("timeout") is not None:
        return
    times = min(max(1.0, max(_count() for _ in range(3)) / USUAL_S), SLOWEST)
    for item in items:
        if item.get_closest_marker("timeout") is None:
            slow = item.get_closest_marker("slow") is not None
            limit = SLOW_TIMEOUT_S if slow else TIMEOUT_S
            item.add_marker(pytest.mark.timeout(limit * times))


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where the model `smollm2`, or one of the zoo, is: that of `USUAL`, or of the name itself."""
    # not for every process of pytest: they take half a second
    from llambo9p.engine.gguf import default_model
    from tests.zoo.species import USUAL, write

    directory = tmp_path_factory.mktemp("models")

    def find(name: str) -> Path:
        if name == "smollm2":
            return default_model()
        path = directory / f"{name}.gguf"
        if not path.exists():
            write(USUAL.get(name, name), path)
        return path

    return find


def _count() -> float:
    """Seconds that Python needs to count to a million."""
    began = time.perf_counter()
    for _ in range(10**6):
        pass
    return time.perf_counter() - began
