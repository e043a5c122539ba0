"""Rendering a chat so that no message can forge a turn.

A template's output is tokenized with special tokens recognised.  Where a message's own
text spells a special token, that occurrence is cut out before rendering and put back as
plain text, which is tokenized apart.  Text without such a spelling, nearly all of it, is
rendered and tokenized whole, as the model was trained.

It must never let a message choose its role's spelling: roles are the three known ones.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Sequence

from llambo9p import errors
from llambo9p.engine.base import Message

ROLES = ("system", "user", "assistant")

Segment = tuple[str, bool]
"""a text, and whether special tokens in it are special"""


def spelling(specials: Iterable[str]) -> re.Pattern[str] | None:
    """What finds any of the special tokens' texts, the longest first."""
    texts = sorted(filter(None, specials), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def segments(
    messages: Sequence[Message],
    render: Callable[[list[dict[str, str]]], str],
    special: re.Pattern[str] | None,
) -> list[Segment]:
    """The rendered chat, cut where a message spells a special token."""
    nonce = secrets.token_hex(8)
    spelled: list[str] = []

    def hide(match: re.Match[str]) -> str:
        # Private-use characters: a template neither trims nor interprets them.
        spelled.append(match.group())
        return f"\ue000{nonce}:{len(spelled) - 1}\ue001"

    turns = []
    for message in messages:
        if message.role not in ROLES:
            raise errors.InvalidArgument(f"a message's role must be one of {', '.join(ROLES)}")
        content = special.sub(hide, message.content) if special else message.content
        turns.append({"role": message.role, "content": content})
    text = render(turns)
    if not spelled:
        return [(text, True)]
    parts = re.split(f"\ue000{nonce}:(\\d+)\ue001", text)
    return [
        (spelled[int(part)], False) if i % 2 else (part, True)
        for i, part in enumerate(parts)
        if part
    ]
