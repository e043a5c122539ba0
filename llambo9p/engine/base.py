"""What answers requests: the one interface between conversations and engines.

A conversation hands an `Engine` a `Request` and a `Listener`; the engine calls
the listener until the request is done or failed.  llama.cpp's batching engine,
the simulated one and the orchestrator's balancer are all `Engine`s, so a
conversation directory is the same files at every level of the tree.

Rules that every engine keeps:

- All methods are called on the event loop's thread and return at once; all
  listener methods are called on that thread too, never from inside `submit`
  or `cancel`.
- After `submit` returned, the listener gets any number of `progress` and
  `tokens` calls and then exactly one of `done` or `failed`; nothing after it.
- `submit` raises `Busy` when the queue is full; it then calls nothing.
- The bytes given to `tokens` are whole UTF-8 characters, and their
  concatenation is the answer.  Stop strings are never part of it.
- Greedy answers (temperature 0) and answers with a fixed seed depend on the
  request only: not on other requests, on chunking, or on what is cached.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from llambo9p.engine.structured.constraint import Constraint


class State(enum.Enum):
    """Where a request is.  The values are the words of a `status` file.  One that gives up its
    slot to another user is queued again."""

    IDLE = "idle"
    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat.  `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen; names and meaning are llama.cpp's.

    The conversation has checked the ranges (`conversation/settings.py`).
    """

    max_tokens: int = 256
    """cap on the completion, in tokens (>= 1)"""
    temperature: float = 0.7
    """0 is greedy: the most likely token, ties to the lowest id"""
    top_p: float = 0.95
    top_k: int = 40
    """0 is off: the whole vocabulary"""
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    """1 is off; over the last 64 tokens of prompt and answer"""
    seed: int | None = None
    """None: a fresh random seed for every request"""
    stop: tuple[str, ...] = ()
    """the answer ends before the first occurrence of any of these"""
    grammar: str = ""
    """a grammar, GBNF or Lark, that the answer must follow; empty: none"""
    schema: str = ""
    """a JSON schema, as text, that the answer must satisfy; empty: none"""
    regex: str = ""
    """a regular expression that the whole answer must match; empty: none.  At most one of
    these three is not empty"""
    whitespace_flexible: bool = False
    """JSON that a schema asks for may have white space between its parts"""
    coerce_one_of: bool = False
    """`oneOf` of a schema is taken for `anyOf` where it cannot be kept"""
    lenient: bool = False
    """keywords of a schema that cannot be kept are ignored"""
    logprobs: int = 0
    """how many of the likeliest tokens to tell at each place, with the chosen one; 0 is off"""

    @property
    def constraint(self) -> Constraint | None:
        """What the answer is held to."""
        if self.schema:
            return Constraint(
                "schema", self.schema, self.whitespace_flexible, self.coerce_one_of, self.lenient
            )
        if self.grammar:
            return Constraint("grammar", self.grammar)
        if self.regex:
            return Constraint("regex", self.regex)
        return None


class Placing(Protocol):
    """Of a request that belongs to others, which should be answered elsewhere."""

    @property
    def avoided(self) -> frozenset[str]:
        """Names of workers: none of them is chosen if that can be helped, nor one of their
        hosts."""

    def placed(self, worker: str) -> None:
        """The request goes to that one, for now."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One prompt.  Compared by identity: the object is its own key."""

    prompt: tuple[Message, ...] | str
    """messages are rendered by the model's chat template; a str is completed as it is"""
    params: SamplingParams = field(default_factory=SamplingParams)
    conversation: Hashable = None
    """whose KV cells to re-use and to keep; None: a one-shot, nothing is kept"""
    overflow: Literal["trim", "error"] = "trim"
    """trim: a prompt that does not fit loses its oldest turns, whole turns at a time
    (never the system prompt, never the last user turn); error: it fails"""
    user: str = ""
    """whose it is: no user finds in the KV cache what another has asked"""
    label: str | None = ""
    """a user's requests with different labels do not find each other's cells in the KV cache
    either; None: nothing is shared with any other request.  It is no identity"""
    priority: int = 0
    """0, or below it for one that others may go before: see `fair`"""
    node_type: str = ""
    """of the workers that may answer it; empty: any"""
    answer: tuple[int, ...] = ()
    """tokens that the answer begins with: it goes on as if they had been sampled for this very
    request, with sampler, grammar and random state as they were then"""
    id: str = ""
    """under which logs tell of it, on every host that it comes to"""
    placing: Placing | None = None
    """for an engine that has workers"""
    embed: bool = False
    """the answer is no continuation of the prompt, a text, but its embedding: numbers, as
    text, in one line"""

    @property
    def scope(self) -> Hashable:
        """Requests of equal scope share cells of the KV cache.  One that shares with none has a
        new scope each time, or its conversation's."""
        if self.label is not None:
            return self.user, self.label
        return object() if self.conversation is None else (self.conversation,)


class Generated:
    """Counts the tokens of a request's answer, but not those that it was given."""

    def __init__(self, request: Request) -> None:
        self._given = len(request.answer)

    def count(self, tokens: Sequence[object]) -> int:
        """How many of the next ones are new."""
        given = min(self._given, len(tokens))
        self._given -= given
        return len(tokens) - given


FinishReason = Literal["stop", "length", "cancelled"]
Exact = Literal["yes", "no", "unknown"]
"""whether a model's answers are the same bit by bit however it is asked (see `exactness`)"""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a finished request took.  Times are milliseconds since `submit`."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """how many of the prompt's tokens were found in the KV cache"""
    completion_tokens: int = 0
    """tokens sampled, the end-of-generation token not counted"""
    given_tokens: int = 0
    """how many of these `Request.answer` gave"""
    queue_ms: float = 0.0
    """in the queue before the first token"""
    ttft_ms: float = 0.0
    """until the first token was sampled (0 when there was none)"""
    total_ms: float = 0.0
    interrupted_ms: float = 0.0
    """in the queue after the first token: the answer gave up its slot to another user"""
    trimmed_turns: int = 0
    """of the conversation, the oldest: the model did not read them, for the prompt would not have
    fitted the context"""
    exact: Exact = "unknown"
    """as the host says it that ended the answer"""
    finish_reason: FinishReason = "stop"

    @property
    def tokens_per_second(self) -> float:
        """Decode rate after the first token; 0 when there is no second one."""
        span = self.total_ms - self.ttft_ms - self.interrupted_ms
        decoded = self.completion_tokens - self.given_tokens
        if decoded < 2 or span <= 0:
            return 0.0
        return (decoded - 1) * 1000.0 / span


class Alternative(NamedTuple):
    """A token that was, or could have been, chosen at a place."""

    id: int
    text: bytes
    logprob: float
    """natural logarithm of its probability by the model alone, before any sampler"""


class Logprobs(NamedTuple):
    chosen: Alternative
    top: tuple[Alternative, ...]
    """the likeliest, the first one first; of equal ones the lower id"""


class Token(NamedTuple):
    """A token of an answer."""

    id: int
    end: int
    """bytes of the answer that were final when it was there"""
    logprobs: Logprobs | None = None
    """when they were asked for; never of one that `Request.answer` gave"""


def mean_logprob(tokens: Sequence[Token]) -> float | None:
    """Of those that have logprobs; None when none has."""
    logprobs = [token.logprobs.chosen.logprob for token in tokens if token.logprobs is not None]
    return math.fsum(logprobs) / len(logprobs) if logprobs else None


class Listener(Protocol):
    """Told what becomes of a request, on the event loop's thread."""

    def progress(self, state: State, position: int) -> None:
        """The request is now in `state`.  `position` in the queue counts from 1;
        0 when it is not queued.  Prefill repeats it once a chunk."""

    def tokens(self, text: bytes, tokens: Sequence[Token]) -> None:
        """`text` became final (it may be empty while a character or a stop string is
        incomplete), and these are the answer's next tokens: those of one step, or of several."""

    def done(self, usage: Usage) -> None:
        """The answer is complete, or ended by `cancel` (finish_reason `cancelled`)."""

    def failed(self, error: Exception) -> None:
        """The request ends without a (whole) answer."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What `status` and `models/` tell of a model."""

    name: str
    """the file's stem, or what a simulated engine calls itself"""
    path: str
    size: int
    """bytes of the weights"""
    n_params: int
    n_ctx_train: int
    n_vocab: int
    description: str
    """llama.cpp's one-line description, e.g. `llama 135M Q4_1`"""
    has_chat_template: bool
    exact: Exact = "unknown"


@dataclass(frozen=True, slots=True)
class Load:
    """An engine's load at one moment, for `status`, metrics and balancing."""

    slots: int
    active: int
    queued: int
    pending_prefill: int
    """prompt tokens not yet in the KV cache"""
    pending_decode: int
    """upper bound of tokens still to be sampled"""
    steps: int = 0
    """calls of llama_decode since the start; an orchestrator counts the signs of progress of its
    requests"""
    read_tokens: int = 0
    """tokens of prompts that were decoded since the start"""
    prompt_tokens: int = 0
    """since the start, of requests that were answered,"""
    cached_tokens: int = 0
    """those of them that were in the KV cache,"""
    generated_tokens: int = 0
    """and of their answers"""


class Engine(Protocol):
    """Anything that answers requests.  See the module's rules."""

    def submit(self, request: Request, listener: Listener) -> None:
        """Queue `request`.  Raises `Busy` when the queue is full."""

    def cancel(self, request: Request) -> None:
        """Stop `request` within one step: the listener gets `done` with
        finish_reason `cancelled`.  Nothing happens if it is over or unknown."""

    def forget(self, conversation: Hashable) -> None:
        """The conversation is gone or was reset: free what is kept for it."""

    def check(self, constraint: Constraint, user: str) -> Future[None]:
        """Whether answers can be held to a text that a user wrote, found out in a child
        process.  The future raises `InvalidArgument` with the line, or the keyword and the
        path, that is wrong, or with the limit that the text goes beyond."""

    @property
    def load(self) -> Load: ...


