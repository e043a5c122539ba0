"""The text forms of `tokens`, `logprobs` and `usage`, written and read back.

A conversation writes them; an orchestrator reads what its workers wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, get_args

from ..engine.base import Alternative, Exact, FinishReason, Logprobs, Token, Usage
from ..engine.sampling import INTEGERS
from ..errors import Error, InvalidArgument
from ..p9.words import shown, whole_number
from . import said

_TOKEN_LINE = 30
"""characters of a line of `tokens`"""
_LOG_1 = 1e-3
"""the logarithm of 1, with what rounding may add"""

_REASONS, _EXACT = get_args(FinishReason), get_args(Exact)
_FIRST_WORDS = re.compile(r"^[^\S\n]*(\S+)", re.MULTILINE)


def show_tokens(tokens: Iterable[Token]) -> str:
    """Lines of a token's id and `end`."""
    return "".join(f"{token.id} {token.end}\n" for token in tokens)


def parse_tokens(text: str) -> tuple[int, ...]:
    """The ids of such lines; what stands after the first word of a line is ignored.  Raises
    InvalidArgument naming the line."""
    words = _FIRST_WORDS.findall(text)
    digits = "".join(words)
    if not words or (digits.isascii() and digits.isdigit() and max(map(len, words)) <= 18):
        ids = tuple(map(int, words))
        if not ids or max(ids) < 2**31:
            return ids
    for at, line in enumerate(text.split("\n"), 1):
        for word in line.split()[:1]:
            token = whole_number(word)
            if token is None or token >= 2**31:
                raise InvalidArgument(f"tokens line {at} does not begin with a token's id")
    raise AssertionError("a line was wrong")


def show_logprobs(tokens: Iterable[Token]) -> str:
    """A JSON line for each token that has logprobs, by llama-server's names: `id`, `token`,
    `bytes`, `logprob`, and the likeliest as `top_logprobs`."""
    lines = []
    for token in tokens:
        if token.logprobs is not None:
            record = _show_alternative(token.logprobs.chosen)
            record["top_logprobs"] = [_show_alternative(other) for other in token.logprobs.top]
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return "".join(lines)


def _show_alternative(alternative: Alternative) -> dict[str, Any]:
    return {
        "id": alternative.id,
        "token": alternative.text.decode(errors="replace"),
        "bytes": list(alternative.text),
        "logprob": alternative.logprob,
    }


def parse_logprobs(line: str) -> Logprobs:
    """What `show_logprobs` wrote of one token.  Raises Error for anything else."""

    def alternative(record: dict[str, Any]) -> Alternative:
        id, text, logprob = record["id"], record["bytes"], record["logprob"]
        if not isinstance(text, list):  # bytes(10**12) would be so many zeros
            raise ValueError("a token's bytes are no list")
        if not isinstance(logprob, float | int) or not logprob <= _LOG_1:
            raise ValueError("a token's logprob is no number up to 0")
        return Alternative(said.whole(str(id), said.TOKENS - 1), bytes(text), float(logprob))

    try:
        record = json.loads(line)
        top = record["top_logprobs"]
        if not isinstance(top, list) or len(top) > INTEGERS["logprobs"][1]:
            raise ValueError("top_logprobs is no list, or too long")
        return Logprobs(alternative(record), tuple(map(alternative, top)))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as e:
        raise Error(f"the worker's logprobs file is not understood: {str(e)[:200]}") from e


def parse_token(line: str) -> Token:
    """What `show_tokens` wrote of one token.  Raises Error for anything else."""
    # as `said.whole` twice, which took longer: this is done for each token of all answers
    token, _, end = line.partition(" ")
    if len(line) <= _TOKEN_LINE and line.isascii() and token.isdigit() and end.isdigit():
        id = int(token)
        if id < said.TOKENS:
            return Token(id, int(end))
    raise Error(f"the worker's tokens file is not understood: {line[:40]!r}")


def show_usage(usage: Usage) -> str:
    """`name value` lines; times in milliseconds."""
    values = {f.name: getattr(usage, f.name) for f in fields(Usage)}
    reason = values.pop("finish_reason")
    values["tokens_per_second"] = usage.tokens_per_second
    lines = [f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()]
    return "\n".join([*lines, f"finish_reason {reason}"]) + "\n"


def parse_usage(text: str) -> Usage:
    """What `show_usage` wrote.  Raises Error for anything else."""
    attrs = said.attributes(text)
    try:
        usage = Usage(
            prompt_tokens=said.whole(attrs["prompt_tokens"], said.TOKENS),
            cached_tokens=said.whole(attrs["cached_tokens"], said.TOKENS),
            completion_tokens=said.whole(attrs["completion_tokens"], said.TOKENS),
            given_tokens=said.whole(attrs["given_tokens"], said.TOKENS),
            queue_ms=said.milliseconds(attrs["queue_ms"]),
            ttft_ms=said.milliseconds(attrs["ttft_ms"]),
            total_ms=said.milliseconds(attrs["total_ms"]),
            interrupted_ms=said.milliseconds(attrs["interrupted_ms"]),
            # a host that is older than we are says nothing of it
            trimmed_turns=said.whole(attrs.get("trimmed_turns", "0"), said.MANY),
            exact=_one_of(attrs.get("exact", "unknown"), _EXACT, "yes, no or unknown"),
            finish_reason=_one_of(attrs["finish_reason"], _REASONS, "a finish_reason"),
        )
        if usage.cached_tokens > usage.prompt_tokens:
            raise ValueError("more tokens were cached than the prompt has")
        if usage.given_tokens > usage.completion_tokens:
            raise ValueError("more tokens were given than the answer has")
    except (KeyError, ValueError) as e:
        raise Error(f"the worker's usage file is not understood: {shown(str(e))}") from e
    return usage


def _one_of(word: str, words: Sequence[str], what: str) -> Any:
    if word in words:
        return word
    raise ValueError(f"{word[:40]!r} is not {what}")
