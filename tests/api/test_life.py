"""Models and contexts: loading, what cannot be loaded, tokens, and the end."""

from __future__ import annotations

import gc
import subprocess
import sys

import llama_cpp.llama_cpp as lib
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llambo9p
from llambo9p import Context, InferenceRequest, Model, ModelParams, errors
from llambo9p.engine.gguf import default_model

COUNT = InferenceRequest("1, 2, 3, 4, 5,", max_tokens=3, temperature=0, mode="complete")

SPELLED = st.characters(
    codec="utf-8", max_codepoint=0x3FFFF, exclude_characters="\x04\x06\x13\x14\x16\x1d"
)
"""the model's vocabulary has no token for those bytes, nor for 0xF1 and 0xF2"""


def test_llama_cpp_is_loaded_when_a_name_is_used_and_not_before():
    code = """
import sys, llambo9p, llambo9p.errors
from llambo9p import ClusterNode, InferenceRequest, LoadBalancer, Orchestrator
assert "llama_cpp" not in sys.modules
from llambo9p import *
assert "llama_cpp" in sys.modules
print(*sorted(name for name in dir() if name in llambo9p.__all__))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (sorted(llambo9p.__all__), "")
    with pytest.raises(AttributeError, match="module 'llambo9p' has no attribute 'Modle'"):
        llambo9p.Modle  # noqa: B018


@pytest.mark.parametrize(
    "params",
    [ModelParams(use_mmap=False), ModelParams(use_mlock=True), ModelParams(n_gpu_layers=0)],
    ids=str,
)
def test_a_model_answers_alike_however_it_is_loaded(params: ModelParams):
    with Model.load(default_model(), params) as model, Context(model, 512, 64, 1) as ctx:
        assert model.info.n_ctx_train == 8192
        assert ctx.infer(COUNT).text == " 6,"


def test_a_vocabulary_alone_tokenizes_and_has_no_context():
    with Model.load(str(default_model()), ModelParams(vocab_only=True)) as model:
        assert model.detokenize(model.tokenize("Hello, world")) == "Hello, world"
        with pytest.raises(errors.ModelError, match="loaded with vocab_only, it has no weights"):
            Context(model)


def test_what_cannot_be_loaded_says_why(tmp_path):
    path = tmp_path / "model.gguf"
    with pytest.raises(errors.ModelError, match=f"{path}: no such file"):
        Model.load(path)
    path.write_bytes(b"not a model")
    with pytest.raises(errors.ModelError, match=f"{path}: not a GGUF file"):
        Model.load(path)
    path.write_bytes(default_model().read_bytes()[:1_000_000])
    with pytest.raises(errors.ModelError, match=f"{path}: .*"):
        Model.load(path)


def test_loading_tells_how_far_it_is_and_can_be_given_up():
    told: list[float] = []

    def progress(fraction: float) -> bool:
        told.append(fraction)
        return fraction < 0.5

    with pytest.raises(errors.ModelError, match="loading was given up"):
        Model.load(default_model(), progress=progress)
    assert told == sorted(told)
    assert told[0] == 0 and 0.5 <= told[-1] < 1


@pytest.mark.parametrize(
    ("numbers", "error", "reason"),
    [
        ({"n_ctx": 16384}, errors.ModelError, "16384 tokens .* was trained for 8192"),
        ({"n_ctx": 1}, errors.InvalidArgument, "n_ctx must be at least 2, not 1"),
        ({"n_batch": 0}, errors.InvalidArgument, "n_batch must be at least 1, not 0"),
        ({"n_threads": 0}, errors.InvalidArgument, "n_threads must be 1 to 512, not 0"),
        ({"n_threads": 10**6}, errors.InvalidArgument, "n_threads must be 1 to 512, not"),
        ({"n_seq": 257}, errors.InvalidArgument, "n_seq must be 1 to 256, not 257"),
    ],
    ids=str,
)
def test_a_context_that_cannot_be_is_refused(model: Model, numbers, error, reason):
    with pytest.raises(error, match=reason):
        Context(model, **numbers)


def test_the_smallest_context_and_the_largest_batch(model: Model):
    with Context(model, 256, 2**40, 1) as ctx:
        assert ctx.infer(COUNT).text == " 6,"
    with Context(model, 20, 1, 1, n_seq=3) as ctx:
        assert [r.text for r in ctx.infer_all([COUNT] * 4)] == [" 6,"] * 4
        long = InferenceRequest(COUNT.prompt, temperature=0, mode="complete")
        response = ctx.infer(long)
        assert response.finish_reason == "length"
        assert response.usage.prompt_tokens + response.token_count == 20 + 1


@given(st.text(SPELLED))
def test_text_comes_back_from_its_tokens(model: Model, text: str):
    assert model.detokenize(model.tokenize(text)) == text
    assert model.detokenize(model.tokenize(text, parse_special=False)) == text


def test_special_tokens_are_recognised_unless_told_not_to(model: Model):
    assert len(model.tokenize("<|im_end|>")) == 1
    assert len(model.tokenize("<|im_end|>", parse_special=False)) > 1
    assert model.detokenize(model.tokenize("<|im_end|>")) == "<|im_end|>"


@pytest.mark.parametrize("token", [-1, 49152, 2**31, 2**70])
def test_a_token_that_is_none_is_refused(model: Model, token: int):
    with pytest.raises(errors.InvalidArgument, match=f"no such token: {token}; .* 0 to 49151"):
        model.detokenize([token])


def test_half_a_character_is_replaced(model: Model):
    [*_, last] = model.tokenize("\U0001f600")
    assert model.detokenize([last]) == "\ufffd"


def test_what_was_freed_says_so_and_may_be_freed_again():
    model = Model.load(default_model())
    ctx = Context(model, 256, 64, 1)
    with pytest.raises(errors.Busy, match="1 of its contexts are not freed"):
        model.free()
    assert ctx.infer(COUNT).text == " 6,"
    ctx.free()
    ctx.free()
    with pytest.raises(errors.InvalidArgument, match="the context was freed"):
        ctx.infer(COUNT)
    assert model.tokenize("hello")
    model.free()
    model.free()
    for use in (
        lambda: model.tokenize(""), lambda: model.detokenize([]), lambda: Context(model)
    ):  # fmt: skip
        with pytest.raises(errors.InvalidArgument, match="the model was freed"):
            use()
    assert model.info.n_vocab == 49152


def test_the_end_of_a_with_frees_whatever_happened_in_it():
    with pytest.raises(ZeroDivisionError):
        with Model.load(default_model()) as model, Context(model, 256, 64, 1) as ctx:
            raise ZeroDivisionError
    with pytest.raises(errors.InvalidArgument, match="the context was freed"):
        ctx.infer(COUNT)
    with pytest.raises(errors.InvalidArgument, match="the model was freed"):
        model.tokenize("x")


def test_a_context_keeps_its_model_and_goes_when_nobody_has_it():
    model = Model.load(default_model())
    ctx = Context(model, 256, 64, 1)
    llama = model._llama
    del model
    gc.collect()
    assert ctx.infer(COUNT).text == " 6,"
    assert llama.handle is not None
    del ctx
    gc.collect()
    assert llama.handle is None


def test_a_model_can_be_freed_when_its_contexts_are_forgotten():
    with Model.load(default_model()) as model:
        Context(model, 256, 64, 1)
        gc.collect()


def test_what_is_never_freed_is_freed_in_an_order_that_llama_cpp_survives(monkeypatch):
    order = []

    def watch(name):
        free = getattr(lib, name)
        monkeypatch.setattr(lib, name, lambda pointer: order.append(name) or free(pointer))

    watch("llama_model_free")
    watch("llama_free")
    things = [Model.load(default_model())]
    things.append(Context(things[0], n_ctx=256, n_threads=1))
    things.append(things)
    del things
    gc.collect()
    assert order == ["llama_free", "llama_model_free"]
