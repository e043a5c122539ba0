"""The zoo: tiny models with random weights, of many architectures, as llama.cpp wants them.

`ZOO` names them, and says what memory each has; `write` writes one, which takes about a tenth of a
second, and half a megabyte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import attention, others, states, windows
from .making import Making
from .vocabularies import VOCABULARIES


@dataclass(frozen=True, slots=True)
class Species:
    arch: str
    """what llama.cpp calls it"""
    make: Callable[[Making], None]
    memory: str
    """`attention`, `window`, `chunks`, `state` or `hybrid`; "" for what decodes nothing"""
    vocabulary: str = "bpe"


ZOO = {
    "llama": Species("llama", attention.llama, "attention", "spm"),
    "llama-80": Species("llama", attention.llama_80, "attention"),
    "qwen2": Species("qwen2", attention.qwen2, "attention"),
    "qwen3": Species("qwen3", attention.qwen3, "attention"),
    "qwen3moe": Species("qwen3moe", attention.qwen3moe, "attention"),
    "phi3": Species("phi3", attention.phi3, "attention", "spm"),
    "gpt2": Species("gpt2", attention.gpt2, "attention"),
    "falcon": Species("falcon", attention.falcon, "attention"),
    "deepseek2": Species("deepseek2", attention.deepseek2, "attention"),
    "gemma2": Species("gemma2", windows.gemma2, "window", "spm"),
    "gemma3": Species("gemma3", windows.gemma3, "window", "spm"),
    "cohere2": Species("cohere2", windows.cohere2, "window"),
    "olmo2": Species("olmo2", windows.olmo2, "window"),
    "gpt-oss": Species("gpt-oss", windows.gpt_oss, "window"),
    "llama4": Species("llama4", windows.llama4, "chunks"),
    "mamba": Species("mamba", states.mamba, "state"),
    "mamba2": Species("mamba2", states.mamba2, "state"),
    "rwkv6": Species("rwkv6", states.rwkv6, "state"),
    "granitehybrid": Species("granitehybrid", states.granite_hybrid, "hybrid"),
    "jamba": Species("jamba", states.jamba, "hybrid"),
    "falcon-h1": Species("falcon-h1", states.falcon_h1, "hybrid"),
    "lfm2": Species("lfm2", states.lfm2, "hybrid"),
    "bert": Species("bert", others.bert, ""),
    "gemma-embedding": Species("gemma-embedding", windows.gemma_embedding, ""),
    "t5": Species("t5", others.t5, ""),
    "llada": Species("llada", others.llada, ""),
}


USUAL = {"spm": "llama", "bpe": "qwen2"}
"""one with each vocabulary, for what has to hold for all of them"""


def write(name: str, path: Path) -> None:
    """Raises KeyError when there is no model of that name."""
    species = ZOO[name]
    model = Making(path, species.arch, VOCABULARIES[species.vocabulary])
    species.make(model)
    model.done()
