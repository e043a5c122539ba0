"""Llambo: LLM inference as files, and llama.cpp from Python as a few classes.

A name is imported when it is first used: those of `api` load llama.cpp, which most of this
package does without.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llambo9p.api import (
        Context,
        InferenceRequest,
        InferenceResponse,
        Message,
        Model,
        ModelInfo,
        ModelParams,
        Usage,
        infer,
    )
    from llambo9p.cluster.fusion import Fused, fuse
else:
    _ELSEWHERE = dict.fromkeys(("Fused", "fuse"), "llambo9p.cluster.fusion")
    """names that are not of `api` -> their modules"""

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_ELSEWHERE.get(name, "llambo9p.api")), name)


__all__ = [
    "Context",
    "Fused",
    "InferenceRequest",
    "InferenceResponse",
    "Message",
    "Model",
    "ModelInfo",
    "ModelParams",
    "Usage",
    "fuse",
    "infer",
]
