"""What is asked and what is answered, in this process or by a cluster.  Neither needs llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llambo9p import errors
from llambo9p.api import checks
from llambo9p.engine import sampling
from llambo9p.engine.base import FinishReason, Message, Request, SamplingParams, Usage

if TYPE_CHECKING:
    from llambo9p.api.model import Context

_DEFAULT = SamplingParams()


@dataclass(slots=True)
class InferenceRequest:
    """A prompt, and how to answer it; the settings are those of a conversation's `ctl`."""

    prompt: str | Sequence[Message] = ""
    """a user's turn, or all turns of a chat; in mode `complete` a text to continue"""
    max_tokens: int = _DEFAULT.max_tokens
    temperature: float = _DEFAULT.temperature
    top_p: float = _DEFAULT.top_p
    top_k: int = _DEFAULT.top_k
    min_p: float = _DEFAULT.min_p
    repeat_penalty: float = _DEFAULT.repeat_penalty
    seed: int | None = _DEFAULT.seed
    stop: Sequence[str] = _DEFAULT.stop
    grammar: str = ""
    """a grammar, GBNF or Lark, that the answer follows"""
    schema: str = ""
    """a JSON schema that it satisfies, as text"""
    regex: str = ""
    """a regular expression that all of it matches; at most one of the three is given"""
    whitespace_flexible: bool = _DEFAULT.whitespace_flexible
    coerce_one_of: bool = _DEFAULT.coerce_one_of
    lenient: bool = _DEFAULT.lenient
    logprobs: bool = False
    """whether the response has a `mean_logprob`"""
    mode: Literal["chat", "complete"] = "chat"
    ctx: Context | None = field(default=None, repr=False)
    """where the function `infer` decodes it; nodes and clusters do not look at it"""

    def for_engine(self) -> Request:
        """As engines take it.  Raises InvalidArgument for what makes no sense."""
        if sum(map(bool, (self.grammar, self.schema, self.regex))) > 1:
            raise errors.InvalidArgument(
                "a request has a grammar, a schema or a regex, not several of them"
            )
        params = SamplingParams(
            max_tokens=self._whole("max_tokens"),
            temperature=self._number("temperature"),
            top_p=self._number("top_p"),
            top_k=self._whole("top_k"),
            min_p=self._number("min_p"),
            repeat_penalty=self._number("repeat_penalty"),
            seed=None if self.seed is None else self._whole("seed"),
            stop=checks.texts("stop", self.stop),
            grammar=checks.text("grammar", self.grammar),
            schema=checks.text("schema", self.schema),
            regex=checks.text("regex", self.regex),
            whitespace_flexible=checks.switch("whitespace_flexible", self.whitespace_flexible),
            coerce_one_of=checks.switch("coerce_one_of", self.coerce_one_of),
            lenient=checks.switch("lenient", self.lenient),
            logprobs=int(checks.switch("logprobs", self.logprobs)),
        )
        sampling.check(params)
        return Request(self._turns(), params, overflow="error")

    def _whole(self, name: str) -> int:
        return checks.whole(name, getattr(self, name))

    def _number(self, name: str) -> float:
        return checks.number(name, getattr(self, name))

    def _turns(self) -> tuple[Message, ...] | str:
        if self.mode == "chat":
            if isinstance(self.prompt, str):
                return (Message("user", checks.text("prompt", self.prompt)),)
            messages = checks.kinds("prompt", self.prompt, Message)
            for message in messages:
                checks.text("a message's role", message.role)
                checks.text("a message's content", message.content)
            return tuple(messages)
        if self.mode != "complete":
            raise errors.InvalidArgument(f"mode must be chat or complete, not {self.mode!s:.60}")
        if not isinstance(self.prompt, str):
            raise errors.InvalidArgument("in mode complete the prompt is a text, not messages")
        return checks.text("prompt", self.prompt)


@dataclass(frozen=True, slots=True)
class InferenceResponse:
    """An answer that is complete."""

    text: str
    tokens: list[int] = field(repr=False)
    """as they were sampled, those of a stop string too"""
    usage: Usage = field(repr=False)
    """what it took, in full"""
    mean_logprob: float | None = None
    """the mean, over its tokens, of the natural logarithm of the probability that the model
    gave them; None for an answer without tokens, and when it was not asked for"""

    @property
    def token_count(self) -> int:
        return self.usage.completion_tokens

    @property
    def completion_time(self) -> float:
        """Milliseconds from the call to the last token."""
        return self.usage.total_ms

    @property
    def finish_reason(self) -> FinishReason:
        return self.usage.finish_reason
