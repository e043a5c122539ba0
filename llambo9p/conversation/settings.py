"""The settings of a conversation: their names, ranges and words on `ctl`.

One table, `SETTINGS`, says for each setting how its words are read, what is
allowed and how it is shown; `ctl` prints it in that order, and what is read can
be written back.  Adding a setting is adding a line there and a field below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

from ..engine.base import SamplingParams
from ..engine.sampling import INTEGERS, NUMBERS
from ..errors import InvalidArgument
from ..fs.ctl import quote
from ..p9.words import number, shown, whole_number


@dataclass(frozen=True, slots=True)
class Settings:
    """How a conversation's requests are made."""

    params: SamplingParams = field(default_factory=SamplingParams)
    mode: Literal["chat", "complete"] = "chat"
    """chat: the prompt is a user's turn; complete: it is continued as it is"""
    overflow: Literal["trim", "error"] = "trim"
    priority: int = 0
    type: str = ""
    """the node type of the workers that may answer; empty: any"""
    request_id: str = ""
    """under which logs tell of its requests; empty: each gets one of its own"""
    cache_label: str = ""
    """its requests share cells of the KV cache only with those of the same user and label"""


class Setting(NamedTuple):
    """`read` turns words into a value or raises InvalidArgument; `show` is its inverse."""

    name: str
    usage: str
    n_min: int
    n_max: int
    read: Callable[[Sequence[str]], Any]
    show: Callable[[Any], str]
    about: str = ""
    """what it is for, in a few words"""


def integer(name: str, low: int, high: int, about: str = "") -> Setting:
    """A whole number from `low` to `high`."""

    def read(words: Sequence[str]) -> int:
        value = whole_number(words[0], low, high)
        if value is None:
            raise InvalidArgument(
                f"{name} must be a whole number {low}..{high}, not {shown(words[0])}"
            )
        return value

    return Setting(name, f"{low}..{high}", 1, 1, read, str, about)


def _number(name: str, low: float, high: float, about: str) -> Setting:
    def read(words: Sequence[str]) -> float:
        value = number(words[0], low, high)
        if value is None:
            raise InvalidArgument(
                f"{name} must be a number {low:g}..{high:g}, not {shown(words[0])}"
            )
        return value

    return Setting(
        name, f"{low:g}..{high:g}", 1, 1, read, lambda value: f"{value:.15g}", about
    )


def word(name: str, *allowed: str, about: str = "") -> Setting:
    """One of several words."""
    usage = "|".join(allowed)

    def read(words: Sequence[str]) -> str:
        if words[0] not in allowed:
            raise InvalidArgument(f"{name} must be {usage}, not {quote(shown(words[0]))}")
        return words[0]

    return Setting(name, usage, 1, 1, read, str, about)


def _switch(name: str, about: str) -> Setting:
    """on or off."""
    read = word(name, "on", "off").read
    return Setting(
        name,
        "on|off",
        1,
        1,
        lambda words: read(words) == "on",
        lambda value: "on" if value else "off",
        about,
    )


MAX_STOPS = 16
MAX_STOP_BYTES = 256
_, MAX_SEED = INTEGERS["seed"]
_TYPE = re.compile(r"[A-Za-z][\w-]{0,63}", re.ASCII)


def _read_seed(words: Sequence[str]) -> int | None:
    if words[0] == "random":
        return None
    if (value := whole_number(words[0], 0, MAX_SEED)) is not None:
        return value
    raise InvalidArgument(f"seed must be random or 0..{MAX_SEED}, not {shown(words[0])}")


def _show_seed(value: int | None) -> str:
    return "random" if value is None else str(value)


def _read_stop(words: Sequence[str]) -> tuple[str, ...]:
    if not all(words):
        raise InvalidArgument("stop must not be an empty string; stop alone clears the list")
    if any(len(word.encode()) > MAX_STOP_BYTES for word in words):
        raise InvalidArgument(f"a stop string must not be longer than {MAX_STOP_BYTES} bytes")
    return tuple(words)


def _read_type(words: Sequence[str]) -> str:
    name = words[0] if words else ""
    if name and not _TYPE.fullmatch(name):
        raise InvalidArgument(f"type must be a node type's name, not {quote(name[:64])}")
    return name


_REQUEST_ID = re.compile(r"[\w.:/@=+-]{1,64}", re.ASCII)


def _read_request_id(words: Sequence[str]) -> str:
    if words[0] == "random":
        return ""
    if _REQUEST_ID.fullmatch(words[0]):
        return words[0]
    raise InvalidArgument(
        "request_id must be random or at most 64 letters, digits and any of ._:/@=+-, "
        f"not {quote(words[0][:80])}"
    )


_LABEL = re.compile(r"[\w.:/@=+-]{1,64}", re.ASCII)


def _read_label(words: Sequence[str]) -> str:
    label = words[0] if words else ""
    if not label or _LABEL.fullmatch(label):
        return label
    raise InvalidArgument(
        "cache_label must be at most 64 letters, digits and any of ._:/@=+-, or nothing, "
        f"not {quote(label[:80])}"
    )


SETTINGS = (
    word("mode", "chat", "complete", about="Answer a chat's turn, or continue the text as it is."),
    integer("max_tokens", *INTEGERS["max_tokens"], "The longest answer."),
    _number("temperature", *NUMBERS["temperature"], "How far from the likeliest; 0 is greedy."),
    _number("top_p", *NUMBERS["top_p"], "Sample of the likeliest tokens with this probability."),
    integer("top_k", *INTEGERS["top_k"], "Sample of so many tokens; 0 is of all."),
    _number("min_p", *NUMBERS["min_p"], "Leave out what is less likely than this times the best."),
    _number("repeat_penalty", *NUMBERS["repeat_penalty"], "Repeat less; 1 is off."),
    Setting(
        "seed", f"random|0..{MAX_SEED}", 1, 1, _read_seed, _show_seed, "The same draws each time."
    ),
    Setting(
        "stop",
        "[STRING]...",
        0,
        MAX_STOPS,
        _read_stop,
        lambda v: " ".join(map(quote, v)),
        "End the answer before this text.",
    ),
    integer("logprobs", *INTEGERS["logprobs"], "Note the probability of so many tokens a place."),
    _switch("whitespace_flexible", "Let JSON have white space between its tokens."),
    _switch("coerce_one_of", "Take oneOf for anyOf where a schema cannot be kept."),
    _switch("lenient", "Ignore what cannot be kept of a schema."),
    word("overflow", "trim", "error", about="Forget the oldest turns of a full context, or fail."),
    # nobody can get ahead of others, only let them go first: see `engine.fair`
    integer("priority", -10, 0, "Below 0, for what can wait."),
    Setting("type", "[NAME]", 0, 1, _read_type, str, "Only workers of this node type answer."),
    Setting(
        "request_id",
        "random|ID",
        1,
        1,
        _read_request_id,
        lambda value: value or "random",
        "By which logs tell of it.",
    ),
    Setting(
        "cache_label", "[LABEL]", 0, 1, _read_label, str, "Share the cache with this label alone."
    ),
)

_IN_PARAMS = {f.name for f in fields(SamplingParams)}


def show(settings: Settings) -> str:
    """All settings, one `name value` line each, as `ctl` reads and takes them."""
    lines = []
    for setting in SETTINGS:
        where = settings.params if setting.name in _IN_PARAMS else settings
        lines.append(f"{setting.name} {setting.show(getattr(where, setting.name))}".rstrip())
    return "\n".join(lines) + "\n"


def change(settings: Settings, name: str, value: Any) -> Settings:
    """`settings` with one of them changed to an allowed value."""
    if name in _IN_PARAMS:
        return replace(settings, params=replace(settings.params, **{name: value}))
    return replace(settings, **{name: value})
