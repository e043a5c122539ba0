"""What a grammar, schema or regular expression allows next, for a model's vocabulary.

Owns `Grammars`, the compiled ones of a model, and `Matcher`, one answer's place in one of them.
The mask of the tokens that are allowed at a place takes a fraction of a millisecond, and with
a costly grammar a hundred.  So it is made beside the decoding: as soon as a token is chosen, a
thread begins with the mask of the next place, while llama.cpp decodes.

Rules it keeps:
- `Grammars.compile` must only be given grammars that a child process has compiled before (see
  `sandbox`).  All that llguidance does with them here it does on stacks that are larger than
  the child's, because it recurses.
- The bytes that a mask counts are those that the answer gets; a token without bytes (a control
  token) is never allowed, but the tokens that end a generation are, where the text may end.
- A mask that takes longer than `QUICK` is made by threads that decoding goes before, so that
  the others' answers do not wait for it.
- A matcher that goes beyond its limits (`grammars.LIMITS`) is an error of its own request.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING

import llama_cpp.llama_cpp as lib
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from llambo9p import errors
from llambo9p.engine.pool import Pool
from llambo9p.engine.structured import grammars

if TYPE_CHECKING:
    from llambo9p.engine.llama_model import LlamaModel

QUICK = 0.002
"""seconds of CPU time: masks that take less are made at once, others when there is time"""
STACK = 256 << 20
"""bytes of a thread's stack, four times a child process's; only what is used is memory"""
SLOW = 3
"""threads for what takes longer"""
NICE = 15
"""of these threads: while llama.cpp decodes, each gets some 3% of a core"""
CACHED = 32
"""compiled grammars that are kept for the next answer"""


class Compiled:
    """A grammar over a model's vocabulary; any number of matchers begin with a copy."""

    def __init__(self, grammars: Grammars, prototype: LLMatcher, seconds: float) -> None:
        self.grammars = grammars
        self.seconds = seconds
        """of CPU time that its first mask took"""
        self._prototype = prototype
        self._lock = threading.Lock()

    def matcher(self) -> LLMatcher:
        with self._lock:
            return self._prototype.deep_copy()


class Grammars:
    """Of one model.  All methods may be called on any thread."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, Compiled] = OrderedDict()
        """by llguidance's grammar, the least recently used first"""
        self._quick: Pool[None] = Pool("mask", 2, lambda: None, stack=STACK)
        self._slow: Pool[None] = Pool(
            "slow-mask", SLOW, lambda: None, per_user=1, stack=STACK, nice=NICE
        )

    def close(self) -> None:
        self._quick.close()
        self._slow.close()

    def compile(self, grammar: str, user: str) -> Compiled:
        """Raises `InvalidArgument` for what no answer of this model can keep.  May take long;
        users take turns."""
        with self._lock:
            known = self._compiled.get(grammar)
            if known is not None:
                self._compiled.move_to_end(grammar)
                return known
        compiled = self._slow.submit(lambda _: self._compile(grammar), user).result()
        with self._lock:
            self._compiled[grammar] = compiled
            while len(self._compiled) > CACHED:
                self._compiled.popitem(last=False)
        return compiled

    def _compile(self, grammar: str) -> Compiled:
        matcher = grammars.matcher(self._tokenizer, grammar)
        began = time.thread_time()
        mask = matcher.compute_bitmask()
        seconds = time.thread_time() - began
        if matcher.is_error():
            raise errors.InvalidArgument(grammars.reason_of(matcher))
        if not any(mask):
            raise errors.InvalidArgument("it allows none of the model's tokens")
        return Compiled(self, matcher, seconds)

    def pool(self, seconds: float) -> Pool[None]:
        """The threads that make a mask which will take so long."""
        return self._quick if seconds <= QUICK else self._slow

    @property
    def n_vocab(self) -> int:
        return self._model.info.n_vocab

    @functools.cached_property
    def _tokenizer(self) -> LLTokenizer:
        """Takes a quarter of a second."""
        model = self._model
        pieces = [model.piece(token) for token in range(self.n_vocab)]
        tokens = [piece or b"\xff<[%d]>" % token for token, piece in enumerate(pieces)]
        ends = [token for token in range(self.n_vocab) if model.is_eog(token)]
        for end in ends:
            tokens[end] = b"\xff<[%d]>" % end
        tokenize = ctypes.cast(lib._lib.llama_tokenize, ctypes.c_void_p).value
        made: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
            tokens=tokens,
            vocab_ptr=model.vocab,
            tokenize_fptr=tokenize,
            eos_token=ends,
            slices=None,
        )
        return made


class Matcher:
    """One answer's place in its grammar.

    The decode thread asks for `allowed` and says `accept`; between the two calls nothing of it
    changes.  `wake` is called, on another thread, when a mask is there that was asked for in
    vain.
    """

    def __init__(
        self,
        compiled: Compiled,
        answer: Sequence[int],
        user: str,
        wake: Callable[[], None],
    ) -> None:
        self._compiled = compiled
        self._n_vocab = compiled.grammars.n_vocab
        self._user = user
        self._wake = wake
        self._asked = False
        """in vain"""
        self._matcher: LLMatcher | None = None
        self._mask = np.empty((self._n_vocab + 31) // 32, np.int32)
        self._seconds = compiled.seconds
        """that the next mask is expected to take"""
        self._making = self._make(list(answer))

    def allowed(self, wait: float = 0.0) -> NDArray[np.int32] | None:
        """The ids of the tokens that are allowed at this place, ascending, never none.  None
        when that is not known after `wait` seconds.  Raises `InvalidArgument` when the
        answer's tokens break the grammar, when nothing is allowed, or a limit was hit."""
        try:
            return self._making.result(wait)
        except TimeoutError:
            if not self._asked:
                self._asked = True
                self._making.add_done_callback(lambda _: self._wake())
            return None
        except CancelledError:
            raise errors.WorkerLost("the engine was stopped") from None

    def accept(self, token: int) -> None:
        """The answer goes on with a token that is allowed."""
        self._asked = False
        self._making = self._make([token])

    def _make(self, tokens: Sequence[int]) -> Future[NDArray[np.int32]]:
        pool = self._compiled.grammars.pool(self._seconds)
        return pool.submit(lambda _: self._after(tokens), self._user)

    def _after(self, tokens: Sequence[int]) -> NDArray[np.int32]:
        """On a thread of the pool: the tokens are accepted, and these may come next."""
        began = time.thread_time()
        matcher = self._matcher
        if matcher is None:
            matcher = self._matcher = self._compiled.matcher()
        accepted = matcher.try_consume_tokens(list(tokens))
        if accepted < len(tokens) and not matcher.is_error():
            raise errors.InvalidArgument(
                f"token {accepted + 1} of the answer, {tokens[accepted]}, is not what the "
                "grammar allows"
            )
        mask = self._mask
        if not matcher.is_error():
            matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if matcher.is_error():
            raise errors.InvalidArgument(
                f"the grammar cannot be followed any further: {grammars.reason_of(matcher)}"
            )
        bits = np.unpackbits(mask.view(np.uint8), count=self._n_vocab, bitorder="little")
        allowed = np.flatnonzero(bits).astype(np.int32)
        if not len(allowed):
            raise errors.InvalidArgument("the grammar allows none of the model's tokens here")
        self._seconds = (self._seconds + time.thread_time() - began) / 2
        return allowed
