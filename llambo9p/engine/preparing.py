"""What a request needs before it can wait for a slot: its prompt's tokens.

Rendering a template does what the model's author wrote, so it may take long; it is never done
on the decode thread, where everybody's tokens wait.  Nothing of a request that waits is native
memory of its own: the sampler is made when the request gets a slot.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from llambo9p import errors
from llambo9p.engine.base import Request
from llambo9p.engine.fit import fit
from llambo9p.engine.runner import Model


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A request that can be given a slot."""

    request: Request
    prompt: array[int]
    """its tokens, at most as many as the context holds; 4 bytes each, for thousands may wait"""
    given: tuple[int, ...]
    """tokens that the answer begins with: of `Request.answer` those that fit"""


def prepare(request: Request, model: Model, n_ctx: int) -> Prepared:
    """Raises what is wrong with the request: `ContextOverflow`, `InvalidArgument`,
    `ModelError`.  May take long."""
    prompt = fit(request, n_ctx, model.tokenize)
    # an answer is not longer, and a sampler would be busy with the rest for seconds
    most = min(request.params.max_tokens, n_ctx - len(prompt) + 1)
    given = request.answer[:most]
    _check_answer(given, model)
    return Prepared(request, array("i", prompt), given)


def _check_answer(tokens: Sequence[int], model: Model) -> None:
    for token in tokens:
        model.piece(token)
        if model.is_eog(token):
            raise errors.InvalidArgument(f"the answer cannot go on after token {token}")
