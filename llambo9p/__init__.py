"""Llambo: LLM inference as files, and from Python as a few classes.

A name is imported when it is first used: some load llama.cpp, which most of this package
does without.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llambo9p.api.cluster import ClusterNode, Orchestrator
    from llambo9p.api.load_balancer import LoadBalancer
    from llambo9p.api.model import Context, Model, infer
    from llambo9p.api.request import InferenceRequest, InferenceResponse
    from llambo9p.cluster.fusion import Fused, fuse
    from llambo9p.engine.base import Message, ModelInfo, Usage
    from llambo9p.engine.llama_model import ModelParams
else:
    _NAMES = {
        "llambo9p.api.cluster": ("ClusterNode", "Orchestrator"),
        "llambo9p.api.load_balancer": ("LoadBalancer",),
        "llambo9p.api.model": ("Context", "Model", "infer"),
        "llambo9p.api.request": ("InferenceRequest", "InferenceResponse"),
        "llambo9p.cluster.fusion": ("Fused", "fuse"),
        "llambo9p.engine.base": ("Message", "ModelInfo", "Usage"),
        "llambo9p.engine.llama_model": ("ModelParams",),
    }
    """module -> what is imported from it"""
    _MODULES = {name: module for module, names in _NAMES.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_MODULES[name]), name)


__all__ = [
    "ClusterNode",
    "Context",
    "Fused",
    "InferenceRequest",
    "InferenceResponse",
    "LoadBalancer",
    "Message",
    "Model",
    "ModelInfo",
    "ModelParams",
    "Orchestrator",
    "Usage",
    "fuse",
    "infer",
]
