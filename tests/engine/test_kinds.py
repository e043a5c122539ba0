"""Every kind of model: what it is called, whether a host starts with it, and what it takes.

What is refused is refused before llama.cpp sees it; the rest starts, and an encoder or a diffusion
model, which writes nothing, refuses prompts and goes on.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from llambo9p import Context, InferenceRequest, Model
from llambo9p.engine import gguf, kinds, memory
from llambo9p.engine.llama import LlamaRunner
from llambo9p.errors import ModelError
from tests.engine.test_gguf import model
from tests.zoo.species import ZOO, write

NOT_DECODERS = {
    "bert": "encoder",
    "gemma-embedding": "encoder",
    "t5": "encoder-decoder",
    "llada": "diffusion",
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    directory = tmp_path_factory.mktemp("zoo")

    @functools.cache
    def path(name: str) -> Path:
        write(name, directory / f"{name}.gguf")
        return directory / f"{name}.gguf"

    return path


@pytest.mark.parametrize("name", ZOO)
def test_what_is_not_refused_starts(zoo, name: str) -> None:
    header = gguf.read(zoo(name))
    assert kinds.kind(header) == NOT_DECODERS.get(name, "decoder")
    runner = LlamaRunner(zoo(name), n_ctx=300, n_seq=3, n_threads=1)
    try:
        if kinds.refusal(header):
            assert name == "t5"
            with pytest.raises(ModelError, match=r"t5.gguf: an encoder-decoder \(t5\): llama.cpp"):
                runner.load(lambda fraction: True)
            return
        runner.load(lambda fraction: True)
        sizes, cells = runner.sizes, 512
        kept = cells * (sizes.cell + sizes.window_cell) + sizes.fixed if ZOO[name].memory else 0
        # llama.cpp tells it to a hundredth of a MiB, for each of a few caches
        assert runner.need.sequence == pytest.approx(kept, 0.06, 20_000)
        assert runner.need.work > 1 << 20 and runner.need.logits and runner.need.embedder
    finally:
        runner.close()


@pytest.mark.parametrize(
    ("changes", "kind", "why"),
    [
        ({"general.architecture": "clip"}, "projector", "a projector: a part of a model"),
        ({"general.type": "mmproj"}, "projector", "a projector: "),
        ({"general.type": "adapter"}, "adapter", "an adapter: it changes a model, and is none"),
        ({"general.architecture": "t5encoder"}, "encoder", "an encoder of the kind t5encoder"),
        ({"general.architecture": "eagle3"}, "draft", "a draft model"),
        ({"general.architecture": "wavtokenizer-dec"}, "speech", "a speech model"),
        ({"llama.pooling_type": 4}, "reranker", ""),
        ({"general.architecture": "brand-new"}, "decoder", "no brand-new.context_length: no lang"),
        ({"llama.block_count": 0}, "decoder", "llama.block_count is 0, not 1 to 512"),
        ({}, "decoder", ""),
    ],
)
def test_kinds_by_what_a_file_says(tmp_path, changes, kind, why) -> None:
    path = tmp_path / "it.gguf"
    path.write_bytes(model(changes))
    header = gguf.read(path)
    assert kinds.kind(header) == kind
    assert kinds.refusal(header).startswith(why) and bool(kinds.refusal(header)) == bool(why)
    if why:
        with pytest.raises(ModelError) as caught:
            LlamaRunner(path).load(lambda fraction: True)
        assert str(caught.value).startswith(f"{path}: {why}")


def test_a_vocabulary_is_no_model(tmp_path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(model(tensors=()))
    header = gguf.read(path)
    assert (kinds.kind(header), kinds.refusal(header)) == (
        "vocabulary",
        "no tensors: at most a vocabulary",
    )


def test_what_llama_cpp_does_not_know_is_refused_before_weights_are_read(tmp_path) -> None:
    path = tmp_path / "new.gguf"
    changes = {"general.architecture": "new", "new.context_length": 64, "new.block_count": 1}
    path.write_bytes(model(changes))
    runner = LlamaRunner(path, n_ctx=64)
    with pytest.raises(ModelError, match="new.gguf: .*unknown model architecture: 'new'"):
        runner.memory_left()


@pytest.mark.parametrize("name", ["bert", "gemma-embedding", "llada"])
def test_a_prompt_is_refused_and_a_text_encoded(zoo, name: str) -> None:
    with Model.load(zoo(name)) as loaded, Context(loaded, 128, 64, 1) as ctx:
        for mode in ("complete", "chat"):
            with pytest.raises(ModelError, match=f"{name} takes no prompt"):
                ctx.infer(InferenceRequest("name a list", mode=mode))
    runner = LlamaRunner(zoo(name), n_ctx=128, n_seq=2, n_threads=1)
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


def test_a_context_beyond_the_trained_one_wants_rope_scaling(zoo) -> None:
    path = zoo("qwen3")
    with pytest.raises(ModelError, match="trained for 4096: ask for no more, or set rope_scaling"):
        LlamaRunner(path, n_ctx=5000).load(lambda fraction: True)
    said = []
    for scaling in ("yarn", "linear"):
        runner = LlamaRunner(path, n_ctx=5000, n_seq=1, n_threads=1, rope_scaling=scaling)
        try:
            runner.load(lambda fraction: True)
            said.append(runner.logits(1).tolist())
        finally:
            runner.close()
    assert said[0] != said[1]
    with pytest.raises(ModelError, match="trained for 1024 and has no rotary positions"):
        LlamaRunner(zoo("gpt2"), n_ctx=2000, rope_scaling="yarn").load(lambda fraction: True)


def test_a_state_has_no_positions_to_run_out_of(zoo) -> None:
    runner = LlamaRunner(zoo("mamba2"), n_ctx=5000, n_seq=1, n_threads=1, rope_scaling="yarn")
    try:
        runner.load(lambda fraction: True)
    finally:
        runner.close()


def test_kv_types_can_be_said(zoo) -> None:
    sizes = {}
    for text in ("f16", "q8_0/f16", "q8_0"):
        types = memory.parse_kv_type(text)
        runner = LlamaRunner(zoo("qwen3"), n_ctx=64, n_seq=1, n_threads=1, kv_types=types)
        try:
            runner.load(lambda fraction: True)
            sizes[text] = runner.sizes.cell
        finally:
            runner.close()
    assert sizes["f16"] > sizes["q8_0/f16"] > sizes["q8_0"]
    with pytest.raises(ModelError, match="no context could be made: .*q8_0.* does not divide"):
        LlamaRunner(zoo("llama-80"), n_ctx=64, kv_types=(memory.Q8_0,) * 2).load(lambda _: True)
