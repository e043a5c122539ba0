"""llama.cpp from Python, without files: `Model`, `Context`, `infer`.

Owns nothing but life times; loading, batching and sampling are the parts that a host is
made of.  What fails raises a class of `llambo9p.errors` that names what was wrong; nothing
returns None for a failure.

Threads may share all of this.  A model is read by any number of them; those that use one
context take turns, so what is to be decoded at once goes into one `infer_all`.

`free` may be called again; all else fails after it.  What is never freed is freed when
nothing refers to it any more.
"""

from __future__ import annotations

import abc
import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from llambo9p import errors
from llambo9p.api import checks
from llambo9p.api.request import InferenceRequest, InferenceResponse
from llambo9p.engine.base import ModelInfo, Request, Token, Usage, mean_logprob
from llambo9p.engine.llama import LlamaRunner
from llambo9p.engine.llama_model import LlamaModel, ModelParams
from llambo9p.engine.preparing import prepare
from llambo9p.engine.sandbox.compiler import Compiler
from llambo9p.engine.scheduler import Failed, Finished, Scheduler, Tokens


class _Freeable(abc.ABC):
    """What is closed once: by `free`, by the end of a `with`, or when nobody has it."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, close)
        self._close.atexit = False  # a daemon thread may be in it still

    @abc.abstractmethod
    def free(self) -> None: ...

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """Nobody else uses or frees it meanwhile."""
        with self._lock:
            if not self._close.alive:
                raise errors.InvalidArgument(f"the {type(self).__name__.lower()} was freed")
            yield

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.free()


class Model(_Freeable):
    """A GGUF model in memory: `Model.load` makes it, `free` or the end of a `with` ends it."""

    def __init__(self, llama: LlamaModel) -> None:
        """Of a model that is loaded, and now this object's to free."""
        super().__init__(llama.close)
        self._llama = llama
        self._contexts: weakref.WeakSet[Context] = weakref.WeakSet()

    @classmethod
    def load(
        cls,
        path: Path | str,
        params: ModelParams | None = None,
        progress: Callable[[float], bool] = lambda fraction: True,
    ) -> Model:
        """The model in the GGUF file at `path`.

        `progress` is told 0 to 1 and answers whether to go on.  Raises `ModelError` with the
        path and the reason.
        """
        checks.path("path", path)
        if params is not None:
            checks.kind("params", params, ModelParams)
            checks.whole("n_gpu_layers", params.n_gpu_layers)
            for name in ("use_mmap", "use_mlock", "vocab_only"):
                checks.switch(name, getattr(params, name))
        llama = LlamaModel(path, params)
        try:
            llama.load(progress)
        except BaseException:
            llama.close()
            raise
        return cls(llama)

    @property
    def info(self) -> ModelInfo:
        """What the file says of itself; known after `free` too."""
        return self._llama.info

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """The text's tokens.  `add_special` adds those that the model wants at the ends, if
        any; `parse_special` recognises special tokens that the text spells."""
        checks.text("text", text)
        checks.switch("add_special", add_special)
        checks.switch("parse_special", parse_special)
        with self._in_use():
            return self._llama.tokens_of(text, add_special, parse_special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without what `add_special` added; half a character is U+FFFD.

        Raises `InvalidArgument` for a token that the model does not have."""
        for token in checks.several("tokens", tokens):
            checks.whole("each of tokens", token)
        with self._in_use():
            return self._llama.text_of(tokens)

    def free(self) -> None:
        """Raises `Busy` while a context of it is not freed."""
        with self._lock:
            count = len(self._contexts)
            if count:
                raise errors.Busy(f"{self.info.name}: {count} of its contexts are not freed")
            self._close()


class Context(_Freeable):
    """`n_seq` sequences of `n_ctx` tokens each, in which a model answers.

    A step holds at most `n_batch` tokens of prompts: the more, the sooner a long prompt is
    read, the fewer, the less it holds up answers beside it.  `n_threads` are the usable cores
    by default.  Prompts that begin alike are read once, as long as they are kept.
    """

    def __init__(
        self,
        model: Model,
        n_ctx: int = 2048,
        n_batch: int = 512,
        n_threads: int | None = None,
        *,
        n_seq: int = 1,
    ) -> None:
        """Raises `ModelError` when the model cannot have such a context, `InvalidArgument`
        for numbers that none can have."""
        checks.kind("model", model, Model)
        checks.whole("n_ctx", n_ctx)
        checks.whole("n_batch", n_batch)
        checks.whole("n_seq", n_seq)
        if n_threads is not None:
            checks.whole("n_threads", n_threads)
        if n_batch < 1:
            raise errors.InvalidArgument(f"n_batch must be at least 1, not {n_batch}")
        runner = LlamaRunner(
            model._llama,
            n_ctx=n_ctx,
            n_seq=n_seq,
            n_threads=n_threads,
            prefill_chunk=min(n_batch, n_ctx * n_seq),
        )
        compiler = Compiler()

        def close() -> None:
            compiler.close()
            runner.close()

        super().__init__(close)
        self._compiler = compiler
        self._model = model
        self._runner = runner
        self._known = threading.Event()
        """a token that was not known may be known now"""
        runner.wake = self._known.set
        with model._in_use():
            runner.load(lambda fraction: True)
            model._contexts.add(self)
        self._scheduler = self._new_scheduler()

    @property
    def model(self) -> Model:
        return self._model

    def infer(self, request: InferenceRequest) -> InferenceResponse:
        """The answer.  Raises `InvalidArgument` for a request that makes no sense,
        `ContextOverflow` for a prompt that does not fit, `ModelError` for a chat with a
        model that has no chat template."""
        return self.infer_all([request])[0]

    def infer_all(self, requests: Sequence[InferenceRequest]) -> list[InferenceResponse]:
        """The answers, in this order, decoded `n_seq` at once.  The first request that fails
        ends them all with what `infer` would raise."""
        each = checks.kinds("requests", requests, InferenceRequest)
        asked = [request.for_engine() for request in each]
        with self._in_use():
            try:
                return self._answers(asked)
            finally:
                if not self._scheduler.idle or self._scheduler.events():
                    # a failure, or ^C in the middle of a step: trust none of the cells
                    self._scheduler = self._new_scheduler()

    def free(self) -> None:
        """Waits for an `infer` of another thread to end."""
        with self._lock:
            self._close()
            self._model._contexts.discard(self)

    def _new_scheduler(self) -> Scheduler:
        runner = self._runner
        return Scheduler(
            runner,
            n_seq=runner.n_seq,
            n_ctx=runner.n_ctx,
            prefill_chunk=runner.prefill_chunk,
            max_queue=sys.maxsize,
            stall=None,
        )

    def _answers(self, asked: list[Request]) -> list[InferenceResponse]:
        answers = {request: _Answer() for request in asked}
        for request in asked:
            prepared = prepare(request, self._runner, self._runner.n_ctx, self._compiler)
            self._scheduler.submit(prepared, time.monotonic())
        while not self._scheduler.idle:
            self._known.clear()
            plan = self._scheduler.plan(time.monotonic())
            if plan is not None:
                sampled = self._runner.run(plan.step)
                self._scheduler.commit(plan, sampled, time.monotonic(), 0.0)
            events = self._scheduler.events()
            if plan is None and not events:
                self._known.wait()
            for event in events:
                match event:
                    case Tokens(request, text, tokens):
                        answers[request].text += text
                        answers[request].tokens += tokens
                    case Finished(request, usage):
                        answers[request].usage = usage
                    case Failed(_, error):
                        raise error
        return [answers[request].response() for request in asked]


def infer(request: InferenceRequest) -> InferenceResponse:
    """`Context.infer` of the context that `request.ctx` names."""
    ctx = checks.kind("request", request, InferenceRequest).ctx
    if ctx is None:
        raise errors.InvalidArgument("the request has no ctx to be decoded in")
    return checks.kind("ctx", ctx, Context).infer(request)


@dataclass(slots=True)
class _Answer:
    """What has come of one."""

    text: bytes = b""
    tokens: list[Token] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)

    def response(self) -> InferenceResponse:
        ids = [token.id for token in self.tokens]
        return InferenceResponse(self.text.decode(), ids, self.usage, mean_logprob(self.tokens))
