"""The text forms of `history` and `usage`, written and read back.

A conversation writes them; an orchestrator reads what its workers wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields

from ..engine.base import Message, Usage
from ..errors import Error, InvalidArgument


def show_history(messages: Iterable[Message]) -> str:
    """JSON lines `{"role": ..., "content": ...}`."""
    return "".join(
        json.dumps({"role": message.role, "content": message.content}, ensure_ascii=False) + "\n"
        for message in messages
    )


def parse_history(text: str) -> list[Message]:
    """The messages of such lines.  Raises InvalidArgument naming the line."""
    messages = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            role, content = record["role"], record["content"]
            if role not in ("user", "assistant") or not isinstance(content, str):
                raise ValueError
            content.encode()  # "\\ud800" is JSON and no text
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InvalidArgument(
                f'history line {number} is not {{"role": "user"|"assistant", "content": TEXT}}'
            ) from None
        messages.append(Message(role, content))
    return messages


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
    try:
        return Usage(
            prompt_tokens=int(said["prompt_tokens"]),
            cached_tokens=int(said["cached_tokens"]),
            completion_tokens=int(said["completion_tokens"]),
            queue_ms=float(said["queue_ms"]),
            ttft_ms=float(said["ttft_ms"]),
            total_ms=float(said["total_ms"]),
            finish_reason=said["finish_reason"],  # type: ignore[arg-type]
        )
    except (KeyError, ValueError) as e:
        raise Error(f"the worker's usage file is not understood: {e}") from e
