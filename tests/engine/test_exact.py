"""Are logits the same bits however a prompt is chunked and whoever shares the batch?

This is what the KV types are chosen by.  It is a fact about a CPU, a model and a build
of llama.cpp; `differing` shows it for any types, and must be able to show the opposite.
"""

from __future__ import annotations

import pytest

from llambo9p.engine import exactness, verdicts
from llambo9p.engine.exactness import CELLS, NEIGHBOURS, VARIANTS, WHOLE
from llambo9p.engine.gguf import default_model
from llambo9p.engine.llama import LlamaRunner
from llambo9p.engine.memory import F16, Q8_0
from tests.tiers import either


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


def test_a_head_that_blocks_do_not_divide_is_not(model_file):
    assert any(differing(model_file("llama-80"), VARIANTS).values())


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
    verdicts.keep(kept, (Q8_0, F16), True)
    verdicts.keep(kept, (F16, F16), False)
    assert verdicts.known(kept, (Q8_0, F16)) == "yes"
    assert verdicts.known(kept, (F16, F16)) == "no"
    assert verdicts.known(kept, (Q8_0, Q8_0)) == "unknown"
    kept.write_bytes(b"other weights")
    assert verdicts.known(kept, (Q8_0, F16)) == "unknown"


@pytest.mark.parametrize("part", ["_cpu", "_build"])
def test_it_is_of_a_cpu_and_a_build(kept, monkeypatch, part):
    assert getattr(verdicts, part)(), "this machine tells"
    verdicts.keep(kept, (Q8_0, F16), True)
    monkeypatch.setattr(verdicts, part, lambda: "another")
    assert verdicts.known(kept, (Q8_0, F16)) == "unknown"


def test_what_is_damaged_there_is_not_known(kept):
    verdicts.keep(kept, (Q8_0, F16), True)
    (file,) = verdicts.directory().iterdir()
    for data in (b"", b"maybe", b"\xff"):
        file.write_bytes(data)
        assert verdicts.known(kept, (Q8_0, F16)) == "unknown"
