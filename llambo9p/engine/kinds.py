"""What kind of model a file is, and whether a host can be started with it.

Pure, over what `gguf` read of the file; nothing of llama.cpp is needed, so `models/` can say it of
every file, and `spawn` refuses what can never start before anything is loaded.  The architectures
are named as in llama.cpp (src/llama-arch.cpp).

It must never refuse what llama.cpp, and this engine, can run: an architecture that is named here
nowhere is a decoder, and llama.cpp has the last word when it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from llambo9p import errors
from llambo9p.engine.gguf import MAX_LAYERS, Header

Kind = Literal[
    "decoder", "encoder", "reranker", "encoder-decoder", "diffusion", "projector", "adapter",
    "vocabulary", "draft", "speech",
]  # fmt: skip

_ENCODERS = {
    "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2",
    "jina-bert-v3", "eurobert", "gemma-embedding", "t5encoder",
}  # fmt: skip
_BY_ARCHITECTURE: dict[str, Kind] = {
    **dict.fromkeys(_ENCODERS, "encoder"),
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), "diffusion"),
    **dict.fromkeys(("eagle3", "dflash", "gemma4-assistant"), "draft"),
    **dict.fromkeys(("wavtokenizer-dec", "qwen3tts", "pockettts"), "speech"),
    "t5": "encoder-decoder",
    "clip": "projector",
}
_BY_TYPE: dict[str, Kind] = {"adapter": "adapter", "mmproj": "projector"}
_RANK = 4
"""LLAMA_POOLING_TYPE_RANK"""

_NEVER: dict[str, Callable[[Header], str]] = {
    "encoder-decoder": lambda header: (
        f"an encoder-decoder ({header.architecture}): llama.cpp keeps one encoded text for a whole "
        "context, and a host answers many prompts in one"
    ),
    "projector": lambda header: "a projector: a part of a model that sees or hears, and no model",
    "adapter": lambda header: "an adapter: it changes a model, and is none",
    "vocabulary": lambda header: "no tensors: at most a vocabulary",
    "draft": lambda header: (
        f"a draft model ({header.architecture}): it guesses for another model, and writes nothing "
        "alone"
    ),
    "speech": lambda header: f"a speech model ({header.architecture}): it does not write text",
}


def kind(header: Header) -> Kind:
    """What the file is."""
    if found := _BY_TYPE.get(header.type):
        return found
    if not header.parameters:
        return "vocabulary"
    if header.pooling == _RANK:
        return "reranker"
    return _BY_ARCHITECTURE.get(header.architecture, "decoder")


def refusal(header: Header) -> str:
    """Why no host can ever be started with it; empty when one may be."""
    never = _NEVER.get(kind(header))
    if never is not None:
        return never(header)
    if header.architecture == "t5encoder":
        return "an encoder of the kind t5encoder: llama.cpp runs it in a way that a host does not"
    if not header.context:
        return f"no {header.architecture}.context_length: no language model"
    if not header.layers:
        return f"{header.architecture}.block_count is 0, not 1 to {MAX_LAYERS}"
    return ""


def check(header: Header, path: object) -> Header:
    """The header.  Raises `ModelError`, which names the file, when no host can be started with
    it."""
    why = refusal(header)
    if why:
        raise errors.ModelError(f"{path}: {why}")
    return header
