"""What a request needs before it can wait for a slot: its prompt's tokens, and whatever
holds its answer to a grammar, compiled.

Rendering a template and compiling a grammar do what a user or the model's author wrote, so
they may take long; they are never done on the decode thread, where everybody's tokens wait.
Nothing of a request that waits is native memory of its own: the sampler is made when the
request gets a slot.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from llambo9p import errors
from llambo9p.engine.base import Request
from llambo9p.engine.fit import fit
from llambo9p.engine.marks import marks
from llambo9p.engine.runner import Model, Prepared
from llambo9p.engine.sandbox.compiler import Compiler


def prepare(request: Request, model: Model, n_ctx: int, compiler: Compiler) -> Prepared:
    """Raises what is wrong with the request: `ContextOverflow`, `InvalidArgument`,
    `ModelError`.  May take long."""
    fitted = fit(request, n_ctx, model.tokenize)
    prompt = fitted.tokens
    # an answer is not longer, and a sampler would be busy with the rest for seconds
    most = min(request.params.max_tokens, n_ctx - len(prompt) + 1)
    given = request.answer[:most]
    _check_answer(given, model)
    compiled: object = None
    constraint = request.params.constraint
    if constraint is not None:
        grammar = compiler.grammar(constraint, request.user).result()
        compiled = model.compile(grammar, request.user)
    likely = marks(fitted.prompt, prompt, model.tokenize) if model.retention.forgets else ()
    return Prepared(request, array("i", prompt), given, compiled, fitted.trimmed_turns, likely)


def _check_answer(tokens: Sequence[int], model: Model) -> None:
    for token in tokens:
        model.piece(token)
        if model.is_eog(token):
            raise errors.InvalidArgument(f"the answer cannot go on after token {token}")
