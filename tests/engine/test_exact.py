"""Are logits the same bits however a prompt is chunked and whoever shares the batch?

This is what the KV types are chosen by.  It is a fact about a CPU, a model and a build
of llama.cpp; `differing` shows it for any types, and must be able to show the opposite.
"""

from __future__ import annotations

import asyncio
import os

import pytest

from llambo9p.engine import exactness, probe, verdicts
from llambo9p.engine.exactness import CELLS, NEIGHBOURS, VARIANTS, WHOLE
from llambo9p.engine.gguf import default_model
from llambo9p.engine.llama import LlamaRunner
from llambo9p.engine.memory import F16, Q8_0
from llambo9p.errors import ModelError
from tests.chaos.processes import children
from tests.files import story
from tests.tiers import either
from tests.zoo import quantizing


def runner_of(model, *types):
    runner = LlamaRunner(
        model, n_ctx=768, n_seq=4, prefill_chunk=exactness.CONTEXT, kv_types=types or None
    )
    runner.load(lambda _: True)
    return runner


def differing(model, variants, *types):
    runner = runner_of(model, *types)
    try:
        return exactness.differing(runner, variants)
    finally:
        runner.close()


@pytest.mark.slow
def test_logits_do_not_depend_on_chunks_or_neighbours():
    variants = either([(1, NEIGHBOURS), (32, 0)], VARIANTS)
    found = differing(default_model(), variants, Q8_0, F16)
    assert list(found) == list(variants) and not any(found.values()), found


@pytest.mark.slow
@pytest.mark.second_tier
def test_what_the_default_types_of_llama_cpp_give(record_property):
    """Not asserted, as it depends on the CPU: run with -rP to see it."""
    found = differing(default_model(), [(32, 0), (512, NEIGHBOURS)], F16, F16)
    record_property("f16_differs", str(found))
    print("F16/F16 differs from one whole chunk:", found)


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "granitehybrid", "deepseek2"])
def test_tiny_models_of_every_kind_are_exact(model_file, name):
    found = differing(model_file(name), VARIANTS)
    assert not any(found.values()), found


def test_a_head_that_blocks_do_not_divide_is_exact_with_k_in_bf16(model_file):
    assert not any(differing(model_file("llama-80"), VARIANTS).values())
    assert any(differing(model_file("llama-80"), VARIANTS, F16, F16).values())


# Other weights, by a process of its own.

USUAL_ONES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "BF16")
K_QUANTS = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS")


async def compared(path, plain):
    return await probe.compare(path, (Q8_0, F16), plain)


@pytest.mark.parametrize("ftype", either(("Q5_0",), USUAL_ONES))
@pytest.mark.slow
@story
async def test_weights_whose_products_are_always_row_by_row(tmp_path, ftype):
    quantizing.wide("qwen2", tmp_path / "model", ftype)
    assert not await compared(tmp_path / "model", plain=False)


@pytest.mark.parametrize("ftype", either(("Q4_K_M",), K_QUANTS))
@pytest.mark.slow
@story
async def test_k_quants_are_exact_with_plain_products(tmp_path, ftype):
    model = tmp_path / "model"
    quantizing.wide("qwen2", model, ftype)
    assert not await compared(model, plain=True)
    assert verdicts.known(model, (Q8_0, F16), True) == "yes"
    assert await probe.find_way(model, (Q8_0, F16), lambda: lambda done: None)
    assert verdicts.known(model, (Q8_0, F16), False) == "no"


@pytest.mark.slow
@story
async def test_what_is_exact_in_no_way_is_refused(tmp_path):
    model = tmp_path / "model"
    quantizing.wide("qwen2", model, "F16")
    told = []
    with pytest.raises(ModelError, match=f"{model}: exact is required, and its answers depend"):
        await probe.find_way(model, (Q8_0, F16), lambda: told.append)
    assert told[0] == 0 and max(told) == 1 and told.count(1) == 2
    told.clear()
    with pytest.raises(ModelError, match="exact is required"):
        await probe.find_way(model, (Q8_0, F16), lambda: told.append)
    assert not told, "it is known now"


@story
async def test_a_comparison_that_fails_says_why(tmp_path):
    (tmp_path / "model").write_bytes(b"no model")
    with pytest.raises(ModelError, match="not a GGUF file"):
        await compared(tmp_path / "model", plain=False)
    with pytest.raises(ModelError, match="no such file|No such file"):
        await compared(tmp_path / "none", plain=False)


@pytest.mark.slow
@story
async def test_a_comparison_that_is_given_up_ends():
    begun = asyncio.Event()
    task = asyncio.create_task(
        probe.compare(default_model(), (Q8_0, F16), False, lambda done: begun.set())
    )
    await begun.wait()
    before = children(os.getpid())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(children(os.getpid())) < len(before)


@pytest.mark.parametrize(("types", "found"), [((F16, F16), "no"), ((Q8_0, F16), "unknown")])
def test_a_load_has_a_short_look(model_file, types, found):
    runner = runner_of(model_file("llama"), *types)
    try:
        assert runner.info.exact == found
        assert verdicts.known(model_file("llama"), types) == found
    finally:
        runner.close()


def test_what_is_known_is_said(model_file):
    verdicts.keep(model_file("qwen2"), (Q8_0, F16), False, True)
    runner = runner_of(model_file("qwen2"))
    try:
        assert runner.info.exact == "yes"
    finally:
        runner.close()


def test_the_comparison_sees_a_single_changed_token(model_file):
    runner = runner_of(model_file("qwen3"))
    try:
        tokens = exactness.prompt(runner.info.n_vocab)
        assert len(set(tokens)) > 200
        reference = exactness.logits(runner, tokens, WHOLE)
        assert len({row.tobytes() for row in reference}) == len(CELLS)
        tokens[200] += 3
        changed = exactness.logits(runner, tokens, WHOLE)
    finally:
        runner.close()
    same = [a.tobytes() == b.tobytes() for a, b in zip(reference, changed, strict=True)]
    assert same == [True, False, False]


# What was found is kept.


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tmp_path / "model.gguf"
    model.write_bytes(b"weights")
    return model


def test_what_was_never_compared_is_not_known(kept):
    assert verdicts.known(kept, (Q8_0, F16)) == "unknown"
    assert verdicts.known(kept.with_name("none.gguf"), (Q8_0, F16)) == "unknown"


def test_a_verdict_is_of_a_file_and_of_types(kept):
    verdicts.keep(kept, (Q8_0, F16), False, True)
    verdicts.keep(kept, (F16, F16), False, False)
    verdicts.keep(kept, (F16, F16), True, True)
    assert verdicts.known(kept, (Q8_0, F16)) == "yes"
    assert verdicts.known(kept, (F16, F16)) == "no"
    assert verdicts.known(kept, (F16, F16), plain=True) == "yes"
    assert verdicts.known(kept, (Q8_0, Q8_0)) == "unknown"
    kept.write_bytes(b"other weights")
    assert verdicts.known(kept, (Q8_0, F16)) == "unknown"


@pytest.mark.parametrize("part", ["_cpu", "_build"])
def test_it_is_of_a_cpu_and_a_build(kept, monkeypatch, part):
    assert getattr(verdicts, part)(), "this machine tells"
    verdicts.keep(kept, (Q8_0, F16), False, True)
    monkeypatch.setattr(verdicts, part, lambda: "another")
    assert verdicts.known(kept, (Q8_0, F16)) == "unknown"


def test_what_is_damaged_there_is_not_known(kept):
    verdicts.keep(kept, (Q8_0, F16), False, True)
    (file,) = verdicts.directory().iterdir()
    for data in (b"", b"maybe", b"\xff"):
        file.write_bytes(data)
        assert verdicts.known(kept, (Q8_0, F16)) == "unknown"
