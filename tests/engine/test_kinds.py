"""Models that do not write: a prompt is refused, and ends nobody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llambo9p import Context, InferenceRequest, Model
from llambo9p.engine.llama import LlamaRunner
from llambo9p.errors import ModelError
from tests.zoo.species import ZOO, write


@pytest.mark.parametrize("name", ["bert", "gemma-embedding", "llada"])
def test_a_prompt_is_refused_and_a_text_encoded(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.gguf"
    write(name, path)
    with Model.load(path) as model, Context(model, 128, 64, 1) as ctx:
        for mode in ("complete", "chat"):
            with pytest.raises(ModelError, match=f"{name} takes no prompt"):
                ctx.infer(InferenceRequest("name a list", mode=mode))
    runner = LlamaRunner(path, n_ctx=128, n_seq=2, n_threads=1)
    try:
        runner.load(lambda fraction: True)
        embedding = runner.embed("name a list")
        try:
            while True:
                next(embedding)
        except StopIteration as end:
            assert abs(np.linalg.norm(end.value) - 1) < 1e-5
    finally:
        runner.close()


@pytest.mark.parametrize("name", [name for name, each in ZOO.items() if each.memory == "attention"])
def test_what_attends_to_all_answers_alone_as_among_others(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.gguf"
    write(name, path)
    asked = [
        InferenceRequest(text, max_tokens=12, temperature=0, mode="complete")
        for text in ("name a list", "red green blue", "the name of the city and its age")
    ]
    with Model.load(path) as model:
        with Context(model, 128, 64, 1, n_seq=4) as ctx:
            together = ctx.infer_all(asked)
        with Context(model, 128, 64, 1) as ctx:
            alone = [ctx.infer(request) for request in asked]
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    assert len({tuple(each.tokens) for each in alone}) == 3
