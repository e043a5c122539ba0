"""The real model, loaded once for all tests that do not free it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llambo9p import Context, Model
from llambo9p.engine.gguf import default_model


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    with Model.load(default_model()) as model:
        yield model


@pytest.fixture
def ctx(model: Model) -> Iterator[Context]:
    # one thread, as for tests/engine
    with Context(model, 512, 64, 1) as ctx:
        yield ctx
