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
        if self._model is None:
            super().load(progress)

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def llama() -> Iterator[LlamaRunner]:
    runner = KeptRunner(default_model(), n_ctx=1024, n_seq=16)
    yield runner
    LlamaRunner.close(runner)
