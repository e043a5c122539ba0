"""What the tests of structured answers ask llguidance, without a model.

`accepts` says whether a whole text is let through; `walk` writes a random text as a model
would that follows nothing but the masks.  Both work with tokens of one byte each, or with any
other tokenizer.
"""

from __future__ import annotations

import functools
import random
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from llambo9p.engine.structured.single_bytes import BYTES

_CLOSING = [b'"', b"}", b"]"]
_SHORT = [b":", b"@", b"-", b"0", b"n", b"1", b"t", b"."]


class Stuck(Exception):
    """The masks let an answer begin that cannot end."""


def matcher(grammar: str, tokenizer: LLTokenizer = BYTES) -> LLMatcher:
    found = LLMatcher(tokenizer, grammar, log_level=0)
    assert not found.is_error(), found.get_error()
    return found


@functools.lru_cache(maxsize=8)
def _compiled(grammar: str) -> LLMatcher:
    return matcher(grammar)


def accepts(grammar: str, text: str | bytes) -> bool:
    tokens = list(text.encode() if isinstance(text, str) else text)
    asked = _compiled(grammar).deep_copy()
    return bool(asked.try_consume_tokens(tokens) == len(tokens) and asked.is_accepting())


def walk(
    grammar: str,
    rng: random.Random,
    tokenizer: LLTokenizer = BYTES,
    *,
    free: int = 60,
    most: int = 3000,
) -> bytes | None:
    """A text that the masks let through, whole; None: it did not end within `most` tokens.

    After `free` tokens of free choice the walk closes what is open, where it may.
    """
    asked = matcher(grammar, tokenizer)
    eos = tokenizer.eos_token
    closing = [t for c in _CLOSING for t in tokenizer.tokenize_bytes(c)]
    short = [t for c in _SHORT for t in tokenizer.tokenize_bytes(c)]
    tokens: list[int] = []
    free = rng.randrange(free)
    for n in range(most):
        mask = int.from_bytes(asked.compute_bitmask(), "little") & ~(1 << eos)
        if asked.is_error():
            raise Stuck(asked.get_error()[:500])
        if asked.is_accepting() and (not mask or n >= free or rng.random() < 0.2):
            return bytes(tokenizer.decode_bytes(tokens))
        if not mask:
            raise Stuck(repr(tokenizer.decode_bytes(tokens)))
        token = _any_of(mask, rng, tokenizer.vocab_size)
        if n >= free and rng.random() < 0.8:
            rng.shuffle(short)
            token = next((t for t in (*closing, *short) if mask >> t & 1), token)
        if not asked.consume_token(token):
            raise Stuck(f"a token of the mask was refused: {asked.get_error()[:500]}")
        tokens.append(token)
    return None


def _any_of(mask: int, rng: random.Random, size: int) -> int:
    for _ in range(50):
        token = rng.randrange(size)
        if mask >> token & 1:
            return token
    return rng.choice(_members(mask))


def _members(mask: int) -> list[int]:
    found: list[int] = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def allowed(grammar: str, prefix: str | bytes) -> list[int]:
    """The bytes that may follow this text."""
    asked: Any = matcher(grammar)
    tokens = list(prefix.encode() if isinstance(prefix, str) else prefix)
    assert asked.try_consume_tokens(tokens) == len(tokens), prefix
    return [t for t in _members(int.from_bytes(asked.compute_bitmask(), "little")) if t < 256]
