"""What may be asked of a sampler chain, checked before llama.cpp sees it."""

from __future__ import annotations

import secrets

from llambo9p import errors
from llambo9p.engine.base import SamplingParams

_64 = 2**64 - 1
INTEGERS = {
    "max_tokens": (1, 2**20),
    "top_k": (0, 2**20),
    "logprobs": (0, 20),
    # llama.cpp's LLAMA_DEFAULT_SEED, 2**32 - 1, means random there
    "seed": (0, 2**32 - 2),
}
NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0, 5),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repeat_penalty": (0.1, 10),
}
"""and `INTEGERS`: what each of the parameters may be, from and to"""


def check(params: SamplingParams) -> None:
    """Raise `InvalidArgument` for values on which llama.cpp would abort or misbehave."""
    for name, (low, high) in (INTEGERS | NUMBERS).items():
        value = getattr(params, name)
        if value is None and name == "seed":
            continue
        if not low <= value <= high:  # a NaN is not either
            raise errors.InvalidArgument(f"{name} is out of range {low}..{high}: {value}")


def seed_at(seed: int, place: int) -> int:
    """The 32 bits for the generator of one token, from the answer's seed and the token's
    place in it: two rounds of splitmix64 (Steele et al. 2014), so that neighbours have
    nothing in common."""
    bits = (seed << 32 | place & 0xFFFFFFFF) & _64
    for _ in range(2):
        bits = (bits + 0x9E3779B97F4A7C15) & _64
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _64
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _64
        bits ^= bits >> 31
    return bits % 0xFFFFFFFF


def seed_of(params: SamplingParams) -> int:
    """The 32 bits for llama.cpp's generator; a fresh random seed when none is given."""
    _, high = INTEGERS["seed"]
    return secrets.randbelow(high + 1) if params.seed is None else params.seed
