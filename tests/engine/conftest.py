"""The real model, loaded once for all tests that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from llambo9p.engine.gguf import default_model
from llambo9p.engine.llama import LlamaRunner


class KeptRunner(LlamaRunner):
    """Outlives the engines that use it, one after the other.

    Each engine begins with an empty book of cells, so it trusts none that are left.
    """

    def load(self, progress: Callable[[float], bool]) -> None:
        if self._ctx is None:
            super().load(progress)

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def llama() -> Iterator[LlamaRunner]:
    # One thread: on a machine that is busy with other things two threads spin at each
    # other's barriers, and a step takes 20 times as long (measured).
    runner = KeptRunner(default_model(), n_ctx=1024, n_seq=16, n_threads=1)
    yield runner
    LlamaRunner.close(runner)
