"""A request asked of a conversation directory, and its response read, as any client does it:
a conversation from `clone`, its settings, the prompt, and what its files tell of the answer."""

from __future__ import annotations

import secrets

from llambo9p.api.connection import Connection
from llambo9p.api.request import InferenceRequest, InferenceResponse
from llambo9p.conversation import settings, texts
from llambo9p.conversation.history import show as show_history
from llambo9p.engine.base import Message, Request, Token, mean_logprob
from llambo9p.errors import InvalidArgument
from llambo9p.p9 import constants as c

_LABEL = secrets.token_hex(16)
"""other processes may ask the same node over plain TCP, where it knows no users"""


def ask(connection: Connection, directory: str, request: InferenceRequest) -> InferenceResponse:
    """Raises InvalidArgument for a request that makes no sense, and what the server says."""
    asked = request.for_engine()
    system, history, prompt = _parts(asked)
    clone = connection.open(f"{directory}/clone", c.ORDWR)
    ours = f"{directory}/{connection.read_at(clone, 0).decode().strip()}"
    said = settings.Settings(
        params=asked.params,
        mode="complete" if isinstance(asked.prompt, str) else "chat",
        overflow=asked.overflow,
        cache_label=_LABEL,
    )
    connection.write_to(clone, settings.show(said))
    files = {
        "system": system,
        "history": show_history(history),
        "grammar": asked.params.grammar,
        "schema": asked.params.schema,
        "regex": asked.params.regex,
    }
    for name, text in files.items():
        if text:
            connection.write(f"{ours}/{name}", text)
    connection.write(f"{ours}/prompt", prompt)
    answer = connection.read(f"{ours}/out")
    tokens = texts.parse_tokens(connection.read(f"{ours}/tokens"))
    usage = texts.parse_usage(connection.read(f"{ours}/usage"))
    logprobs = [
        Token(told.chosen.id, 0, told)
        for told in map(texts.parse_logprobs, connection.read(f"{ours}/logprobs").splitlines())
    ]
    connection.clunk(clone)
    return InferenceResponse(answer, list(tokens), usage, mean_logprob(logprobs))


def _parts(asked: Request) -> tuple[str, list[Message], str]:
    """What goes to `system`, `history` and `prompt`.  In a chat a newline at the end of the
    first and the last is dropped there."""
    if isinstance(asked.prompt, str):
        if not asked.prompt:
            raise InvalidArgument("in mode complete the prompt must not be empty")
        return "", [], asked.prompt
    *turns, last = asked.prompt or [Message("", "")]
    if last.role != "user":
        raise InvalidArgument("the last message of the prompt must be the user's")
    system = ""
    if turns and turns[0].role == "system":
        system = turns.pop(0).content + "\n"
    return system, turns, last.content + "\n"
