"""The example programs of the user's quick reference that concern one machine, in Python.

README has the first of them, which tests/test_readme.py runs.
"""

from __future__ import annotations

import pytest

from llambo9p import Context, InferenceRequest, Model, errors, fuse, infer
from llambo9p.engine.gguf import default_model


def test_inference():
    model = Model.load(default_model(), None)
    ctx = Context(model, 2048, 512, 2)

    req = InferenceRequest()
    req.prompt = "What is AI?"
    req.max_tokens = 16
    req.temperature = 0.7
    req.top_p = 0.9
    req.ctx = ctx

    response = infer(req)
    assert response.text
    assert 0 < response.token_count <= 16
    assert response.completion_time > 0

    ctx.free()
    model.free()


def test_parallel_processing(model: Model):
    prompts = ["Explain machine learning", "What is deep learning?", "Describe neural networks"]
    with Context(model, 512, 512, 1, n_seq=len(prompts)) as ctx:
        results = ctx.infer_all([InferenceRequest(prompt, max_tokens=8) for prompt in prompts])
    assert len(results) == len(prompts)
    assert all(response.text for response in results)


def test_cognitive_fusion(model: Model):
    prompt = "What is 2 + 3? Answer with a number."
    with Context(model, 512, 512, 1) as ctx:
        responses = [
            ctx.infer(InferenceRequest(prompt, max_tokens=24, seed=seed, logprobs=True))
            for seed in range(3)
        ]
        fused = fuse(responses, "best-of-n")
    assert fused.text == max(responses, key=lambda response: response.mean_logprob).text
    assert len(fused.votes) == 3
    assert 1 / 3 <= fused.agreement <= 1


def test_error_handling(ctx: Context):
    try:
        ctx.infer(InferenceRequest("word " * 1000))
    except errors.Error as error:
        assert str(error) == "the prompt has 1031 tokens, the context holds 512"
    else:
        pytest.fail("the prompt was too long")


@pytest.mark.parametrize("n_batch", [256, 1024])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_performance_tuning(model: Model, n_batch: int, n_threads: int):
    with Context(model, 2048, n_batch, n_threads) as ctx:
        request = InferenceRequest("1, 2, 3,", max_tokens=4, temperature=0, mode="complete")
        assert ctx.infer(request).text == " 4, "
