"""Making a prompt fit the context: which turns of a chat are dropped.

Rules it keeps:
- A turn begins with a user's message and ends before the next one.  Turns are
  dropped whole, oldest first; never what comes before the first user's message when
  it is the system prompt, never the last turn.
- `trim` leaves room for an answer (a quarter of the context, or `max_tokens` if that
  is less) as long as there are turns to drop; a prompt that fits without room is
  still answered.
- Turns go in blocks, so that the next prompt of a growing chat begins like this one
  and finds its prefix in the KV cache; dropping turn by turn would prefill the whole
  context anew for every prompt of a full chat.
- What cannot fit fails with `ContextOverflow`, which names both numbers.
- Forgetting is told: with the tokens comes how many turns were dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llambo9p import errors
from llambo9p.engine.base import Message, Request
from llambo9p.engine.runner import Prompt

LONG = 16
"""bytes a token: a longer chat is not worth tokenizing whole"""


class Fitted(NamedTuple):
    prompt: Prompt
    """what is left of it"""
    tokens: list[int]
    trimmed_turns: int
    """that were dropped"""


def fit(request: Request, n_ctx: int, tokenize: Callable[[Prompt], list[int]]) -> Fitted:
    """The request's prompt in at most `n_ctx` tokens.  Raises `ContextOverflow`."""
    prompt = request.prompt
    if request.overflow == "error" or isinstance(prompt, str):
        return Fitted(prompt, _checked(tokenize(prompt), n_ctx), 0)
    limit = n_ctx - min(request.params.max_tokens, n_ctx // 4)

    def attempt(prompt: Prompt) -> list[int] | None:
        """Its tokens, if they leave room for an answer."""
        try:
            tokens = tokenize(prompt)
        except errors.ContextOverflow:
            return None
        return tokens if len(tokens) <= limit else None

    if sum(len(message.content) for message in prompt) <= n_ctx * LONG:
        tokens = attempt(prompt)
        if tokens is not None:
            return Fitted(prompt, tokens, 0)
    kept, dropped = _trimmed(prompt, attempt)
    return Fitted(kept, _checked(tokenize(kept), n_ctx), dropped)


def _trimmed(
    prompt: tuple[Message, ...], attempt: Callable[[Prompt], list[int] | None]
) -> tuple[tuple[Message, ...], int]:
    """The prompt without its oldest turns, as few blocks as make the attempt succeed; and how
    many turns these were."""
    head, turns = split_turns(prompt)
    if len(turns) < 2:
        return prompt, 0

    def newest(kept: int) -> tuple[Message, ...]:
        return (*head, *(message for turn in turns[len(turns) - kept :] for message in turn))

    # The most turns that fit: gallop, then bisect, so that the work is bounded by the
    # context and not by the length of the history.
    fits, fails = 1, 2
    while fails <= len(turns) and attempt(newest(fails)) is not None:
        fits, fails = fails, 2 * fails
    fails = min(fails, len(turns) + 1)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if attempt(newest(middle)) is not None:
            fits = middle
        else:
            fails = middle
    dropped = len(turns) - fits
    block = 1 << max(0, (fits // 4).bit_length() - 1)
    dropped = min(-(-dropped // block) * block, len(turns) - 1)
    return newest(len(turns) - dropped), dropped


def split_turns(messages: tuple[Message, ...]) -> tuple[list[Message], list[list[Message]]]:
    """The system prompt, and the turns after it."""
    head: list[Message] = []
    turns: list[list[Message]] = []
    for message in messages:
        if message.role == "system" and not turns:
            head.append(message)
        elif message.role == "user" or not turns:
            turns.append([message])
        else:
            turns[-1].append(message)
    return head, turns


def _checked(tokens: list[int], n_ctx: int) -> list[int]:
    if len(tokens) > n_ctx:
        raise errors.ContextOverflow(
            f"the prompt has {len(tokens)} tokens, the context holds {n_ctx}"
        )
    return tokens
