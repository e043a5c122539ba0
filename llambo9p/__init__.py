"""Llambo: LLM inference as files, and llama.cpp from Python as a few classes.

The names here are those of `api`, which is imported when one of them is first used: it
loads llama.cpp, which most of this package does without.
"""

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
else:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from llambo9p import api

        return getattr(api, name)


__all__ = [
    "Context",
    "InferenceRequest",
    "InferenceResponse",
    "Message",
    "Model",
    "ModelInfo",
    "ModelParams",
    "Usage",
    "infer",
]
