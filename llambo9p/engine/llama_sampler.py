"""Choosing the next token: llama.cpp's sampler chains, and grammars beside them.

Owns `Sampler`, one an answer, and `Candidates`, the memory that a chain chooses from.

It must never be given parameters that `sampling.check` has not seen: llama.cpp aborts on them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from llambo9p.engine import sampling
from llambo9p.engine.llama_matcher import Compiled, Matcher
from llambo9p.engine.runner import Prepared

PENALTY_LAST_N = 64
MIN_TEMPERATURE = 1e-6
"""logits that are divided by much less are infinite; with this the likeliest token is chosen"""


class Sampler:
    """A native sampler chain: penalties over the last 64 tokens of prompt and answer,
    top_k, top_p, min_p, temp, dist, in this order.  At temperature 0 it is penalties, greedy.

    Each token has a dist of its own, whose seed is made of the answer's and the token's
    place: so what is chosen at a place depends on nothing that was drawn before, and an
    answer can be continued from its tokens.

    With a grammar the chain chooses among the tokens that the grammar allows, as the model
    weighs these.
    """

    chain: Any = None

    def __init__(self, prepared: Prepared, n_vocab: int, wake: Callable[[], None]) -> None:
        """`wake` is called when it is known what the grammar allows, after `pick` was in
        vain."""
        request, given = prepared.request, prepared.given
        params = request.params
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self.chain = chain
        self.matcher: Matcher | None = None
        if isinstance(prepared.compiled, Compiled):
            self.matcher = Matcher(prepared.compiled, given, request.user, wake)
        penalty = params.repeat_penalty
        if penalty != 1.0:
            self._add(lib.llama_sampler_init_penalties(n_vocab, PENALTY_LAST_N, penalty, 0.0, 0.0))
            for token in prepared.prompt[-PENALTY_LAST_N:]:
                lib.llama_sampler_accept(chain, token)
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
        for token in given:
            lib.llama_sampler_accept(chain, token)
            self._advance()

    def _add(self, sampler: Any) -> None:
        lib.llama_sampler_chain_add(self.chain, sampler)

    def _add_dist(self) -> None:
        assert self._seed is not None
        self._add(lib.llama_sampler_init_dist(sampling.seed_at(self._seed, self._place)))

    def sample(self, context: Any, row: int) -> int:
        """The next token by the logits of a row of the last batch, accepted; for a sampler
        without a grammar."""
        token: int = lib.llama_sampler_sample(self.chain, context, row)
        self._advance()
        return token

    def pick(
        self, logits: NDArray[np.float32], candidates: Candidates, wait: float = 0.0
    ) -> int | None:
        """The next token of those that the grammar allows, accepted.  None when it is not
        known after `wait` seconds what these are.  Raises `InvalidArgument` when there is no
        such token, or no telling."""
        assert self.matcher is not None
        allowed = self.matcher.allowed(wait)
        if allowed is None:
            return None
        token = candidates.fill(allowed, logits).apply(self.chain).selected
        lib.llama_sampler_accept(self.chain, token)
        self._advance()
        self.matcher.accept(token)
        return token

    def _advance(self) -> None:
        self._place += 1
        if self._seed is not None:
            last = lib.llama_sampler_chain_n(self.chain) - 1
            lib.llama_sampler_free(lib.llama_sampler_chain_remove(self.chain, last))
            self._add_dist()

    def __del__(self) -> None:
        if self.chain:
            lib.llama_sampler_free(self.chain)


class Candidates:
    """A llama_token_data_array of our memory."""

    def __init__(self, n_vocab: int) -> None:
        self._data = np.zeros(n_vocab, [("id", "i4"), ("logit", "f4"), ("p", "f4")])
        self._array: Any = lib.llama_token_data_array()
        self._array.data = self._data.ctypes.data_as(lib.llama_token_data_p)

    def fill(self, ids: NDArray[np.int32], logits: NDArray[np.float32]) -> Candidates:
        """These tokens, with their logits of all."""
        count = len(ids)
        self._data["id"][:count] = ids
        self._data["logit"][:count] = logits[ids]
        self._array.size = count
        self._array.selected = -1
        self._array.sorted = False
        return self

    def apply(self, sampler: Any) -> Candidates:
        lib.llama_sampler_apply(sampler, ctypes.byref(self._array))
        return self

    @property
    def selected(self) -> int:
        return int(self._data["id"][self._array.selected])
