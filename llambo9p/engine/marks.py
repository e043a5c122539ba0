"""Where prompts that are likely to come part from a chat's prompt.

A model that forgets can go on only where a checkpoint was made (see `cache`), so it is worth
asking the template: how would another chat with this system prompt begin, and how the next prompt
of this chat, when there is an answer?  A template may leave out then what it has at the end of
this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llambo9p import errors
from llambo9p.engine.base import Message
from llambo9p.engine.fit import split_turns
from llambo9p.engine.radix import common_prefix
from llambo9p.engine.runner import Prompt


def marks(
    prompt: Prompt, tokens: Sequence[int], tokenize: Callable[[Prompt], list[int]]
) -> tuple[int, ...]:
    """How many of the prompt's tokens these will have in common with it."""
    if isinstance(prompt, str):
        return ()
    likely: list[tuple[Message, ...]] = []
    system, turns = split_turns(prompt)
    if system and turns:
        likely.append((*system, Message("user", _other_than(turns[0][0].content))))
    if prompt[-1].role == "user":
        likely.append((*prompt, Message("assistant", "x"), Message("user", "x")))
    found = []
    for messages in likely:
        try:
            found.append(common_prefix(tokens, tokenize(messages)))
        except errors.Error:  # a template that refuses these, or too long for the context
            continue
    return tuple(found)


def _other_than(text: str) -> str:
    return "y" if text.lstrip().startswith("x") else "x"
