"""Choosing the next token: llama.cpp's sampler chains, and grammars beside them.

Owns `Sampler`, one an answer, and `Candidates`, the memory that a grammar is asked with.

It must never be given parameters that `sampling.check` has not seen, and never let a chain
accept a token that its grammar forbids: llama.cpp aborts on either.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from llambo9p import errors
from llambo9p.engine import llama_schema, sampling
from llambo9p.engine.base import SamplingParams
from llambo9p.engine.runner import DecodeError

PENALTY_LAST_N = 64
MIN_TEMPERATURE = 1e-6
"""logits that are divided by much less are infinite; with this the likeliest token is chosen"""


class Sampler:
    """A native sampler chain: penalties over the last 64 tokens of prompt and answer,
    top_k, top_p, min_p, temp, dist, in this order.  At temperature 0 it is penalties, greedy.

    Each token has a dist of its own, whose seed is made of the answer's and the token's
    place: so what is chosen at a place depends on nothing that was drawn before, and an
    answer can be continued from its tokens.

    With a grammar the chain chooses as if there were none, and only where that is not
    allowed it chooses again from what is: asking the grammar about one token takes
    microseconds, about all of them milliseconds.
    """

    chain: Any = None
    grammar: Any = None

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        answer: Sequence[int],
        n_vocab: int,
        vocab: Any,
    ) -> None:
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self.chain = chain
        penalty = params.repeat_penalty
        if penalty != 1.0:
            self._add(lib.llama_sampler_init_penalties(n_vocab, PENALTY_LAST_N, penalty, 0.0, 0.0))
            for token in prompt[-PENALTY_LAST_N:]:
                lib.llama_sampler_accept(chain, token)
        if grammar := _grammar_of(params):
            self.grammar = lib.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
            if not self.grammar:
                raise errors.InvalidArgument("the grammar has what this model has no tokens for")
        self._place = 0
        """tokens of the answer so far"""
        self._seed: int | None = None
        if params.temperature == 0:
            self._add(lib.llama_sampler_init_greedy())
        else:
            if params.top_k > 0:
                self._add(lib.llama_sampler_init_top_k(min(params.top_k, n_vocab)))
            self._add(lib.llama_sampler_init_top_p(params.top_p, 1))
            self._add(lib.llama_sampler_init_min_p(params.min_p, 1))
            self._add(lib.llama_sampler_init_temp(max(params.temperature, MIN_TEMPERATURE)))
            self._seed = sampling.seed_of(params)
            self._add_dist()
        for token in answer:
            self._accept_given(token)

    def _add(self, sampler: Any) -> None:
        lib.llama_sampler_chain_add(self.chain, sampler)

    def _add_dist(self) -> None:
        assert self._seed is not None
        self._add(lib.llama_sampler_init_dist(sampling.seed_at(self._seed, self._place)))

    def _accept_given(self, token: int) -> None:
        if self.grammar:
            one = Candidates(1)
            if not one.fill_one(token).apply(self.grammar).any_left:
                raise errors.InvalidArgument(
                    f"token {self._place + 1} of the answer, {token}, is not what the grammar "
                    "allows"
                )
        self.accept(token)

    def sample(self, context: Any, row: int) -> int:
        """The next token by the logits of a row of the last batch, accepted; for a sampler
        without a grammar."""
        token: int = lib.llama_sampler_sample(self.chain, context, row)
        self._advance()
        return token

    def pick(self, logits: NDArray[np.float32], candidates: Candidates) -> int:
        """The next token that the grammar allows; `accept` it then.  Raises DecodeError
        when there is none."""
        if self._seed is not None:
            # a step that failed for another may have drawn for this place already
            lib.llama_sampler_reset(lib.llama_sampler_chain_get(self.chain, self._last))
        token = candidates.fill(logits).apply(self.chain).selected
        if candidates.fill_one(token).apply(self.grammar).any_left:
            return token
        if candidates.fill(logits).apply(self.grammar).any_left:
            token = candidates.apply(self.chain).selected
            if candidates.fill_one(token).apply(self.grammar).any_left:
                return token
        raise DecodeError("the grammar allows none of the model's tokens here")

    def accept(self, token: int) -> None:
        if self.grammar:
            lib.llama_sampler_accept(self.grammar, token)
        lib.llama_sampler_accept(self.chain, token)
        self._advance()

    def _advance(self) -> None:
        self._place += 1
        if self._seed is not None:
            lib.llama_sampler_free(lib.llama_sampler_chain_remove(self.chain, self._last))
            self._add_dist()

    @property
    def _last(self) -> int:
        """The place of dist in the chain."""
        last: int = lib.llama_sampler_chain_n(self.chain) - 1
        return last

    def __del__(self) -> None:
        for sampler in (self.chain, self.grammar):
            if sampler:
                lib.llama_sampler_free(sampler)


class Candidates:
    """A llama_token_data_array of our memory."""

    def __init__(self, n_vocab: int) -> None:
        self._data = np.zeros(n_vocab, [("id", "i4"), ("logit", "f4"), ("p", "f4")])
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._array: Any = lib.llama_token_data_array()
        self._array.data = self._data.ctypes.data_as(lib.llama_token_data_p)

    def fill(self, logits: NDArray[np.float32]) -> Candidates:
        """All tokens, by id."""
        self._data["id"] = self._ids
        self._data["logit"] = logits
        return self._of_size(len(self._data))

    def fill_one(self, token: int) -> Candidates:
        self._data[0] = token, 0.0, 0.0
        return self._of_size(1)

    def _of_size(self, size: int) -> Candidates:
        self._array.size = size
        self._array.selected = -1
        self._array.sorted = False
        return self

    def apply(self, sampler: Any) -> Candidates:
        lib.llama_sampler_apply(sampler, ctypes.byref(self._array))
        return self

    @property
    def any_left(self) -> bool:
        """Whether one of them is not forbidden."""
        return bool(np.isfinite(self._data["logit"][: self._array.size]).any())

    @property
    def selected(self) -> int:
        return int(self._data["id"][self._array.selected])


def _grammar_of(params: SamplingParams) -> str:
    return llama_schema.grammar(params.schema) if params.schema else params.grammar
