"""Whatever a caller hands over, what is raised is of `llambo9p.errors` and names the argument."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from llambo9p import (
    ClusterNode,
    Context,
    InferenceRequest,
    LoadBalancer,
    Message,
    Model,
    ModelParams,
    Orchestrator,
    errors,
    fuse,
    infer,
)

STRANGE = [
    None, "x", "", "\0", "\ud800", b"\xff", -1, 1.5, float("nan"), float("inf"), 10**30, True,
    [], [1], {}, ("a", 1), object(),
]  # fmt: skip

FIELDS = [field.name for field in fields(InferenceRequest) if field.name != "ctx"]

GOOD = {
    "prompt": (str,),
    "max_tokens": (int,),
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": (int,),
    "min_p": (int, float),
    "repeat_penalty": (int, float),
    "seed": (int, type(None)),
    "grammar": (str,),
    "schema": (str,),
    "regex": (str,),
    "mode": (str,),
}
"""what a field may be, for whom it is not a switch or `stop`"""


def is_of_a_wrong_type(name: str, value: Any) -> bool:
    if name in ("whitespace_flexible", "coerce_one_of", "lenient", "logprobs"):
        return not isinstance(value, bool)
    if name == "stop":
        return not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value)
    if name == "prompt" and value == []:
        return False
    return isinstance(value, bool) or not isinstance(value, GOOD[name])


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_a_request(name: str, ctx: Context) -> None:
    wrong = [value for value in STRANGE if is_of_a_wrong_type(name, value)]
    assert len(wrong) >= 9
    for value in STRANGE:
        request = InferenceRequest(**{"prompt": "hi", "max_tokens": 1, name: value})
        if any(value is each for each in wrong):
            with pytest.raises(errors.InvalidArgument, match=re.escape(name)):
                ctx.infer(request)
            continue
        try:
            ctx.infer(request)
        except errors.Error as e:
            assert str(e)
    assert ctx.infer(InferenceRequest("hi", max_tokens=1)).token_count == 1


def test_messages(ctx: Context) -> None:
    for role, content in ((1, "x"), ("user", None), ("user", "\ud800"), ("\ud800", "x")):
        with pytest.raises(errors.InvalidArgument, match="a message's "):
            ctx.infer(InferenceRequest([Message(role, content)], max_tokens=1))


CALLS: dict[str, Callable[[Any, Model, Context], object]] = {
    "path": lambda v, model, ctx: Model.load(v),
    "params": lambda v, model, ctx: Model.load("/nowhere.gguf", v),
    "n_gpu_layers": lambda v, model, ctx: Model.load("x", ModelParams(n_gpu_layers=v)),
    "use_mmap": lambda v, model, ctx: Model.load("x", ModelParams(use_mmap=v)),
    "text": lambda v, model, ctx: model.tokenize(v),
    "add_special": lambda v, model, ctx: model.tokenize("x", add_special=v),
    "tokens": lambda v, model, ctx: model.detokenize(v),
    "each of tokens": lambda v, model, ctx: model.detokenize([v]),
    "model": lambda v, model, ctx: Context(v),
    "n_ctx": lambda v, model, ctx: Context(model, v).free(),
    "n_batch": lambda v, model, ctx: Context(model, 64, v).free(),
    "n_threads": lambda v, model, ctx: Context(model, 64, 64, v).free(),
    "n_seq": lambda v, model, ctx: Context(model, 64, n_seq=v).free(),
    "requests": lambda v, model, ctx: ctx.infer_all(v),
    "each of requests": lambda v, model, ctx: ctx.infer(v),
    "request": lambda v, model, ctx: infer(v),
    "ctx": lambda v, model, ctx: infer(InferenceRequest("hi", ctx=v)),
    "responses": lambda v, model, ctx: fuse(v),
    "no strategy": lambda v, model, ctx: fuse([], v),
    "minimum": lambda v, model, ctx: fuse([], minimum=v),
    "strategy": lambda v, model, ctx: LoadBalancer(v),
    "node": lambda v, model, ctx: LoadBalancer().register(v),
    "node_id": lambda v, model, ctx: LoadBalancer().unregister(v),
    "max_nodes": lambda v, model, ctx: Orchestrator(v),
    "listen": lambda v, model, ctx: Orchestrator(listen=v),
    "config": lambda v, model, ctx: Orchestrator(config=v),
    "addr": lambda v, model, ctx: ClusterNode.spawn(v),
    "capacity": lambda v, model, ctx: ClusterNode.spawn("unix!/x", v),
    "node_type": lambda v, model, ctx: ClusterNode.spawn("unix!/x", node_type=v),
}
"""an argument, as errors call it, and the call that is given it"""

MAY_BE: dict[str, tuple[type, ...]] = {
    "path": (str, Path),
    "params": (type(None),),
    "text": (str,),
    "tokens": (list, tuple),
    "n_threads": (int, type(None)),
    "requests": (list, tuple, dict),
    "ctx": (type(None),),
    "responses": (list,),
    "no strategy": (str,),
    "strategy": (str, int),
    "node_id": (str,),
    "listen": (str, type(None)),
    "config": (str, type(None)),
    "addr": (str,),
    "node_type": (str,),
    "use_mmap": (bool,),
    "add_special": (bool,),
    **dict.fromkeys(("n_gpu_layers", "each of tokens", "n_ctx", "n_batch", "n_seq", "minimum",
                     "max_nodes", "capacity"), (int,)),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_an_argument(name: str, model: Model, ctx: Context) -> None:
    tried = 0
    for value in STRANGE:
        may_be = MAY_BE.get(name, ())
        if isinstance(value, may_be) and (bool in may_be or not isinstance(value, bool)):
            continue  # that is told by whoever knows more than the type
        tried += 1
        with pytest.raises(errors.InvalidArgument, match=re.escape(name)):
            CALLS[name](value, model, ctx)
    assert tried >= 8


def test_a_request_that_fails_when_it_starts_is_not_waited_for(
    model: Model, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(prepared: object) -> object:
        raise errors.ModelError("no sampler")

    with monkeypatch.context() as patch:
        patch.setattr(ctx._runner, "sampler", broken)
        with pytest.raises(errors.ModelError, match="no sampler"):
            ctx.infer(InferenceRequest("hi", max_tokens=1))
    assert ctx.infer(InferenceRequest("hi", max_tokens=1)).token_count == 1
