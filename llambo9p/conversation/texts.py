"""The text forms of `tokens`, `logprobs` and `usage`, written and read back.

A conversation writes them; an orchestrator reads what its workers wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from ..engine.base import Alternative, Logprobs, Token, Usage
from ..errors import Error, InvalidArgument
from ..p9.words import number, shown, whole_number

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
        return Alternative(int(record["id"]), bytes(record["bytes"]), float(record["logprob"]))

    try:
        record = json.loads(line)
        return Logprobs(alternative(record), tuple(map(alternative, record["top_logprobs"])))
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise Error(f"the worker's logprobs file is not understood: {e}") from e


def show_usage(usage: Usage) -> str:
    """`name value` lines; times in milliseconds."""
    values = {f.name: getattr(usage, f.name) for f in fields(Usage)}
    reason = values.pop("finish_reason")
    values["tokens_per_second"] = usage.tokens_per_second
    lines = [f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()]
    return "\n".join([*lines, f"finish_reason {reason}"]) + "\n"


def parse_usage(text: str) -> Usage:
    """What `show_usage` wrote.  Raises Error for anything else."""
    said = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)

    def count(name: str) -> int:
        value = whole_number(said[name])
        if value is None:
            raise ValueError(f"{name} {said[name]}")
        return value

    def milliseconds(name: str) -> float:
        value = number(said[name], 0, 1e15)
        if value is None:
            raise ValueError(f"{name} {said[name]}")
        return value

    try:
        return Usage(
            prompt_tokens=count("prompt_tokens"),
            cached_tokens=count("cached_tokens"),
            completion_tokens=count("completion_tokens"),
            given_tokens=count("given_tokens"),
            queue_ms=milliseconds("queue_ms"),
            ttft_ms=milliseconds("ttft_ms"),
            total_ms=milliseconds("total_ms"),
            interrupted_ms=milliseconds("interrupted_ms"),
            finish_reason=said["finish_reason"],  # type: ignore[arg-type]
        )
    except (KeyError, ValueError) as e:
        raise Error(f"the worker's usage file is not understood: {shown(str(e))}") from e
