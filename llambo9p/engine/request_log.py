"""What the log tells of a request when it is over: one record, wherever it was answered.

Owns its fields: id, user, how it ended, tokens and times.  What was asked or answered is
never among them.
"""

from __future__ import annotations

import logging

from .base import Request, Usage


def over(log: logging.Logger, request: Request, end: Usage | Exception, **more: object) -> None:
    """Log how `request` ended, with `more` fields.  They are the record's `fields`."""
    level = logging.INFO if isinstance(end, Usage) else logging.WARNING
    if not log.isEnabledFor(level):
        return
    fields = {"request_id": request.id, "user": request.user, **more}
    if isinstance(end, Usage):
        fields |= {
            "outcome": end.finish_reason,
            "prompt_tokens": end.prompt_tokens,
            "cached_tokens": end.cached_tokens,
            "completion_tokens": end.completion_tokens,
            "queue_ms": round(end.queue_ms, 1),
            "ttft_ms": round(end.ttft_ms, 1),
            "total_ms": round(end.total_ms, 1),
            "interrupted_ms": round(end.interrupted_ms, 1),
        }
    else:
        fields |= {"outcome": "failed", "error": str(end)}
    log.log(level, "request over", extra={"fields": fields})
