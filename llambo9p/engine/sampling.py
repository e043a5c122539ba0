"""What may be asked of a sampler chain, checked before llama.cpp sees it."""

from __future__ import annotations

import math
import secrets

from llambo9p import errors
from llambo9p.engine.base import SamplingParams


def check(params: SamplingParams) -> None:
    """Raise `InvalidArgument` for values on which llama.cpp would abort or misbehave.

    The conversation has told the user about ranges already; this is the last gate.
    """
    ok = (
        params.max_tokens >= 1
        and math.isfinite(params.temperature)
        and params.temperature >= 0
        and 0 <= params.top_p <= 1
        and params.top_k >= 0
        and 0 <= params.min_p <= 1
        and math.isfinite(params.repeat_penalty)
        and params.repeat_penalty > 0
    )
    if not ok:
        raise errors.InvalidArgument(f"sampling parameters out of range: {params}")


def seed_of(params: SamplingParams) -> int:
    """The 32 bits for llama.cpp's generator; a fresh random seed when none is given.

    All ones is LLAMA_DEFAULT_SEED, which llama.cpp would replace by a random seed: it
    becomes 0, so that every given seed is reproducible.
    """
    seed = secrets.randbits(32) if params.seed is None else params.seed
    return seed % 0xFFFFFFFF
